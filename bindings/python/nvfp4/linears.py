"""Linear layers as calls: values or NVFP4 activations times prepared weights. `layers` puts them into objects."""

from __future__ import annotations

from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized, keywords_of, scope_size
from .arrays import NAMES, Array, dtype_of, matrix
from .context import Context, Stream
from .enums import Activation, DType, GemmFlags, ScaleRule, Scope
from .errors import InvalidArgumentError
from .products import Weights, held


def _layer(
    name: str,
    context: Context,
    a: Array | Quantized,
    weights: Weights,
    *,
    a_dtype: Any = None,
    quantize: bool = False,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.ROW,
    static_decode_scales: Array = None,
    bias: Array = None,
    bias_dtype: Any = None,
    activation: int = Activation.NONE,
    limit: float = 0.0,
    alpha: float = 0.0,
    beta: float = 0.0,
    flags: int = GemmFlags.NONE,
    out: Array = None,
    out_dtype: Any = None,
    output: dict[str, Any] | None = None,
    workspace: Array = None,
    stream: Stream | None = None,
) -> Any:
    """Both layers."""
    call = Call(context, stream)
    info, grouped = held(call, "weights", weights), name == "grouped_linear"
    args = _abi.nvfp4_grouped_linear_args(
        weights=weights.handle, activation=activation, limit=limit, alpha=alpha, beta=beta, flags=flags
    )
    default = int(DType.BF16)
    if isinstance(a, Quantized):
        args.tokens, groups = _codes(call, args, a, info.cols, info.groups if grouped else None)
        default = int(DType.F32)
    else:
        args.tokens, args.a_dtype = _values(call, args, a, a_dtype, info, grouped)
        groups = Groups.strided(info.groups, args.tokens) if grouped else None
        default = args.a_dtype
    if quantize:
        args.quantize, args.scale_rule, args.scope = 1, scale_rule, scope
        if static_decode_scales is not None:
            count = scope_size(scope, args.tokens * info.groups, groups)
            args.static_decode_scales = call.floats("static_decode_scales", static_decode_scales, count).pointer
    if bias is not None:
        found, args.bias_dtype = call.values("bias", bias, bias_dtype)
        args.bias = call.dense("bias", bias, (found.dtype,), info.groups * info.rows).pointer
    cols = info.rows // 2 if activation == Activation.SWIGLU else info.rows
    result = _out(call, args, out, out_dtype, default, output, cols, info.groups if grouped else None, groups)
    call.workspace(name, args, workspace)
    call.run(name, args)
    return result


@keywords_of(_layer)
def linear(context: Context, a: Array | Quantized, weights: Weights, **options: Any) -> Any:
    """a [tokens, K] x weights [N, K] -> [tokens, N]. a: BF16 or F16 values (F32 with `quantize`), or Quantized.

    quantize: values become NVFP4 first, by scale_rule and scope, with static_decode_scales or dynamic ones. out_dtype
    NVFP4 gives a Quantized, made as the keyword arguments in `output` say (those of `grouped_gemm`).
    """
    return _layer("linear", context, a, weights, **options)


@keywords_of(_layer)
def grouped_linear(context: Context, a: Array | Quantized, weights: Weights, **options: Any) -> Any:
    """a [tokens, G, K] x weights [G, N, K] -> [tokens, G, N], where they lie; see `linear`.

    A Quantized holds codes [G, tokens, K/2], as `quantize` makes them with strided groups; so does a Quantized result.
    Decode scales of scope ROW are [G, tokens], of scope GROUP [G].
    """
    return _layer("grouped_linear", context, a, weights, **options)


def _codes(call: Call, args: Any, a: Quantized, k: int, groups: int | None) -> tuple[int, Groups | None]:
    """Fills NVFP4 activations: (tokens, their split)."""
    args.a_dtype = DType.NVFP4
    rows = matrix("a.codes", call.look("a.codes", a.codes, ("uint8", "float4_e2m1fn_x2"))).rows
    if groups and rows % groups:
        raise InvalidArgumentError(f"a has {rows} rows, which are not {groups} groups of the same number")
    tokens = rows // groups if groups else rows
    split = None if groups is None else Groups.strided(groups, tokens)
    codes = call.quantized_input(args.a_quantized, "a", a, split)
    _same_k(codes.cols * 2, k)
    return tokens, split


def _values(call: Call, args: Any, a: Array, a_dtype: Any, info: Any, grouped: bool) -> tuple[int, int]:
    """Fills value activations: (tokens, dtype)."""
    found, dtype = call.values("a", a, a_dtype)
    if not grouped:
        rows = matrix("a", found)
        args.a, args.a_row_stride = rows.pointer, rows.row_stride
        _same_k(rows.cols, info.cols)
        return rows.rows, dtype
    args.a, args.a_row_stride, args.a_group_stride = _strided("a", found, info.groups)
    _same_k(found.shape[2], info.cols)
    return found.shape[0], dtype


def _strided(argument: str, found: Any, groups: int) -> tuple[int, int, int]:
    """[tokens, G, cols] as (pointer, token stride, group stride); 0 stands for dense."""
    shape, strides = found.shape, found.strides
    if len(shape) != 3 or shape[1] != groups:
        raise InvalidArgumentError(f"{argument} has shape {shape}; it needs [tokens, {groups}, cols]")
    if shape[2] > 1 and found.size and strides[2] != 1 or any(n > 1 and step <= 0 for n, step in zip(shape[:2], strides)):
        raise InvalidArgumentError(f"{argument} has strides {strides}; rows must be dense, and their steps above 0: copy it")
    return found.pointer, strides[0] if shape[0] > 1 else 0, strides[1] if shape[1] > 1 else 0


def _same_k(cols: int, k: int) -> None:
    if cols != k:
        raise InvalidArgumentError(f"a has {cols} columns and the weights {k}; they must be the same K")


def _out(
    call: Call, args: Any, out: Array, out_dtype: Any, default: int, output: dict[str, Any] | None, cols: int, count: int | None,
    groups: Groups | None,
) -> Any:
    """Fills the output and gives it."""
    if out is None and out_dtype is not None and dtype_of(out_dtype) == DType.NVFP4:
        args.out_dtype = DType.NVFP4
        lead = (args.tokens,) if count is None else (count, args.tokens)
        rows = args.tokens * (count or 1) if count != 0 else 0
        return call.quantized(args.out_quantized, lead, rows, cols, groups, **{"scope": Scope.ROW, **(output or {})})
    if output:
        raise InvalidArgumentError("output is for NVFP4 results; pass out_dtype=DType.NVFP4 and no out")
    if out is None:
        if args.flags & GemmFlags.ACCUMULATE:
            raise InvalidArgumentError("out is missing; ACCUMULATE adds to it")
        number = default if out_dtype is None else dtype_of(out_dtype)
        if number not in NAMES:
            raise InvalidArgumentError(f"out_dtype = {number} is not a dtype of values; use BF16, F16 or F32")
        shape = (args.tokens, cols) if count is None else (args.tokens, count, cols)
        out = call.empty(shape, NAMES[DType(number)])
    found, args.out_dtype = call.values("out", out, out_dtype, written=True)
    if count is None:
        target = call.rows("out", found, args.tokens, cols)
        args.out, args.out_row_stride = target.pointer, target.row_stride
    else:
        if found.shape != (args.tokens, count, cols):
            raise InvalidArgumentError(f"out has shape {found.shape}; it needs [{args.tokens}, {count}, {cols}]")
        args.out, args.out_row_stride, args.out_group_stride = _strided("out", found, count)
    return out


__all__ = ["grouped_linear", "linear"]

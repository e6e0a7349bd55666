"""Quantizers, and the way back (fused ones: fused.py). One function a function of the header; keywords are the names of its struct fields.

Every output may be given; what is not is made by the library that the source is of. Outputs: codes, scales and
decode_scales as in `Quantized`. Static scales: pass static_decode_scales. `stream` None: the context's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized, keywords_of, split_of, scope_size
from .arrays import NAMES, Array, dtype_of, matrix
from .context import Context, Stream
from .enums import DType, ScaleLayout, ScaleRule, Scope
from .errors import InvalidArgumentError


@dataclass(frozen=True)
class StagedInputs:
    """What nvfp4_stage_moe_inputs wrote; packed_scales: four E4M3 scales an int32, lowest byte first."""

    codes: Array
    packed_scales: Array
    staged_ids: Array = None
    staged_weights: Array = None


def lead_shape(shape: tuple[int, ...], rows: int, groups: Groups | None) -> tuple[int, ...]:
    """Shape of the outputs but for their columns."""
    lead = tuple(shape[:-1])
    split = split_of(groups)
    return lead if split is None or len(lead) != 1 or lead[0] == rows else split


@keywords_of(Call.quantized)
def quantize(
    context: Context,
    src: Array,
    *,
    src_dtype: Any = None,
    transposed: bool = False,
    groups: Groups | None = None,
    workspace: Array = None,
    stream: Stream | None = None,
    **output: Any,
) -> Quantized:
    """Values [rows, K] (or [K, rows] when transposed) -> NVFP4.

    Leading dimensions are rows. With strided groups src is [count, max_tokens, K], or [max_tokens, K] for all groups.
    """
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    if transposed:
        stored = _transposed(found, groups)
        rows, cols, row_stride, group_stride = stored
        lead = tuple(found.shape[:-2]) + (found.shape[-1],)
        lead = lead_shape((*lead, 0), rows, groups)
    else:
        source = matrix("src", found, split_of(groups))
        rows, cols, row_stride, group_stride = source.rows, source.cols, source.row_stride, source.group_stride
        lead = lead_shape(found.shape, rows, groups)
    args = _abi.nvfp4_quantize_args(
        src=found.pointer,
        src_dtype=dtype,
        transposed=int(transposed),
        src_row_stride=row_stride,
        src_group_stride=group_stride if split_of(groups) else 0,
        rows=rows,
        cols=cols,
        groups=call.groups(groups),
    )
    result = call.quantized(args.out, lead, rows, cols, groups, **output)
    call.workspace("quantize", args, workspace)
    call.run("quantize", args)
    return result


def _transposed(found: Any, groups: Groups | None) -> tuple[int, int, int, int]:
    """(rows, cols, row stride, group stride) of [K, rows], [count, K, rows], or [K, rows] for all groups."""
    split = split_of(groups)
    if len(found.shape) == 2:
        stored = matrix("src", found)
        if split is None:
            return stored.cols, stored.rows, stored.row_stride, 0
        if stored.cols != split[1]:
            raise InvalidArgumentError(f"src has shape {found.shape}; transposed groups of {split[1]} rows need [K, {split[1]}]")
        return split[0] * split[1], stored.rows, stored.row_stride, 0 if split[0] != 1 else stored.rows * stored.row_stride
    if split is None or len(found.shape) != 3 or (found.shape[0], found.shape[2]) != split:
        raise InvalidArgumentError(f"src has shape {found.shape}; transposed it must be [K, rows], or [count, K, max_tokens]")
    stored = matrix("src", found, (split[0], found.shape[1]))
    return split[0] * split[1], found.shape[1], stored.row_stride, stored.group_stride


def amax_scale(
    context: Context,
    src: Array,
    *,
    src_dtype: Any = None,
    scope: int = Scope.TENSOR,
    groups: Groups | None = None,
    decode_scales: Array = None,
    workspace: Array = None,
    stream: Stream | None = None,
) -> Array:
    """Only the decode scales that `quantize` would find: amax / 2688 of each scope."""
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    source = matrix("src", found, split_of(groups))
    args = _abi.nvfp4_amax_scale_args(
        src=source.pointer,
        src_dtype=dtype,
        scope=scope,
        src_row_stride=source.row_stride,
        src_group_stride=source.group_stride,
        rows=source.rows,
        cols=source.cols,
        groups=call.groups(groups),
    )
    count = scope_size(scope, source.rows, groups)
    if decode_scales is None:
        decode_scales = call.empty((count,), "float32", groups is not None)
    args.decode_scales = call.dense("decode_scales", decode_scales, ("float32",), count, written=True).pointer
    call.workspace("amax_scale", args, workspace)
    call.run("amax_scale", args)
    return decode_scales


def dequantize(
    context: Context,
    input: Quantized,
    *,
    groups: Groups | None = None,
    dst: Array = None,
    dst_dtype: Any = None,
    stream: Stream | None = None,
) -> Array:
    """NVFP4 -> values; float32 unless dst or dst_dtype says otherwise. Groups: those of the input unless given."""
    call = Call(context, stream)
    groups = input.groups if groups is None and isinstance(input, Quantized) else groups
    args = _abi.nvfp4_dequantize_args()
    codes = call.quantized_input(args.input, "input", input, groups)
    args.rows, args.cols = codes.rows, codes.cols * 2
    args.groups = call.groups(groups)
    if dst is None:
        name = _name("dst_dtype", dst_dtype, DType.F32)
        dst = call.empty((*codes.view.shape[:-1], codes.cols * 2), name, groups is not None)
    found, args.dst_dtype = call.values("dst", dst, dst_dtype, written=True)
    target = call.rows("dst", found, codes.rows, codes.cols * 2, groups)
    if target.group_stride == 0 and split_of(groups) and groups is not None and groups.count > 1:
        raise InvalidArgumentError(f"dst has shape {found.shape}; each group needs rows of its own")
    args.dst, args.dst_row_stride, args.dst_group_stride = target.pointer, target.row_stride, target.group_stride
    call.run("dequantize", args)
    return dst


def _name(argument: str, dtype: Any, default: int) -> str:
    """The array dtype of a DType, for a new array."""
    number = default if dtype is None else dtype_of(dtype)
    for known, name in NAMES.items():
        if known == number:
            return name
    raise InvalidArgumentError(f"{argument} = {number} is not a dtype of values; use BF16, F16 or F32")


def stage_moe_inputs(
    context: Context,
    src: Array,
    topk_ids: Array = None,
    topk_weights: Array = None,
    *,
    src_dtype: Any = None,
    scale_rule: int = ScaleRule.AMAX,
    static_decode_scale: Array = None,
    codes: Array = None,
    packed_scales: Array = None,
    staged_ids: Array = None,
    staged_weights: Array = None,
    stream: Stream | None = None,
) -> StagedInputs:
    """Tokens [tokens, hidden] quantized with one static decode scale, scales packed into int32, routes widened and copied."""
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    source = matrix("src", found)
    tokens, hidden = source.rows, source.cols
    args = _abi.nvfp4_stage_moe_inputs_args(
        src=source.pointer, src_dtype=dtype, scale_rule=scale_rule, src_row_stride=source.row_stride, tokens=tokens,
        hidden=hidden,
    )
    if static_decode_scale is not None:
        args.static_decode_scale = call.floats("static_decode_scale", static_decode_scale, 1).pointer
    if codes is None:
        codes = call.empty((tokens, hidden // 2), "uint8")
    if packed_scales is None:
        packed_scales = call.empty((tokens, hidden // 64), "int32")
    args.codes = call.dense("codes", codes, ("uint8", "float4_e2m1fn_x2"), tokens * (hidden // 2), written=True).pointer
    args.packed_scales = call.dense("packed_scales", packed_scales, ("int32",), tokens * (hidden // 64), written=True).pointer
    if topk_ids is not None or topk_weights is not None:
        ids = call.look("topk_ids", topk_ids, ("int32",))
        if len(ids.shape) != 2 or ids.shape[0] != tokens:
            raise InvalidArgumentError(f"topk_ids has shape {ids.shape}; it must be [{tokens}, routes]")
        routes = args.routes = ids.shape[1]
        args.topk_ids = call.dense("topk_ids", topk_ids, ("int32",), tokens * routes).pointer
        args.topk_weights = call.dense("topk_weights", topk_weights, ("float32",), tokens * routes).pointer
        if staged_ids is None:
            staged_ids = call.empty((tokens, routes), "int64")
        if staged_weights is None:
            staged_weights = call.empty((tokens, routes), "float32")
        args.staged_ids = call.dense("staged_ids", staged_ids, ("int64",), tokens * routes, written=True).pointer
        args.staged_weights = call.dense("staged_weights", staged_weights, ("float32",), tokens * routes, written=True).pointer
    call.run("stage_moe_inputs", args)
    return StagedInputs(codes, packed_scales, staged_ids, staged_weights)

"""Prepared weights and the matrix products."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized, keywords_of, split_of, device_bytes, scales_size, scope_size
from ._library import library
from .arrays import CODES, NAMES, SCALES, Array, dtype_of, matrix
from .context import Context, Stream
from .enums import Activation, DType, GemmFlags, Grouping, ScaleLayout, ScaleRule, Scope, WeightsScope, WeightsSource
from .errors import InvalidArgumentError
from .handles import Handle, create


@dataclass(frozen=True)
class WeightsInfo:
    """Shape of prepared weights: groups E, rows N, cols K."""

    groups: int
    rows: int
    cols: int
    gate_up: bool
    storage_size: int


class Weights(Handle):
    """Operand B of a product, in the layout that the kernels read. Immutable; keeps its storage alive."""

    kind = "weights"

    def __init__(self, handle: int, context: Context, storage: Any, like: Any) -> None:
        super().__init__(handle)
        self.context = context
        self._storage = storage
        self._like = like

    @classmethod
    def prepare(
        cls,
        context: Context,
        src: Array = None,
        *,
        src_dtype: Any = None,
        transposed: bool = False,
        scale_rule: int = ScaleRule.AMAX,
        codes: Array = None,
        scales: Array = None,
        scale_layout: int = ScaleLayout.LINEAR,
        decode_scales: Array = None,
        decode_scope: int = WeightsScope.GROUP,
        requantize: bool = False,
        gate_up: bool = False,
        storage: Array = None,
        stream: Stream | None = None,
    ) -> Weights:
        """From values: src [E, N, K] ([E, K, N] when transposed). From NVFP4: codes [E, N, K/2], scales, decode_scales [E].

        decode_scope: decode_scales are one a matrix, one for all (TENSOR), or [E, N], one a row (ROW): rows of a matrix that
        differ are refused, or quantized again with one by `requantize` (and scale_rule).
        Two dimensions are one matrix. gate_up: the first N/2 rows are gate, the others up. storage: memory to live in, of
        `Weights.storage_size` bytes, 64-byte aligned; made where it is not given.
        """
        call = Call(context, stream)
        args, _ = cls._args(
            call, src, src_dtype, transposed, scale_rule, codes, scales, scale_layout, decode_scales, decode_scope, requantize, gate_up
        )
        like = call.like
        owner: Any = storage
        if storage is None:
            size = cls._size(call, args)
            if size:
                args.storage, owner = device_bytes(context, call.stream, size)
                args.storage_size = size
        else:
            found = call.dense("storage", storage, ("uint8",), 0, written=True, exact=False)
            args.storage, args.storage_size = found.pointer, found.nbytes
        stream_handle = call.stream.handle
        handle = create("nvfp4_weights_prepare", _abi.nvfp4_weights, call.handle, ctypes.byref(args), stream_handle)
        call.stream.synchronize()  # the source may go now
        return cls(handle, context, owner, _Like(like))

    @classmethod
    def storage_size(cls, context: Context, groups: int, rows: int, cols: int, gate_up: bool = False) -> int:
        """Bytes that prepared weights of [groups, rows, cols] need."""
        args = _abi.nvfp4_weights_prepare_args(groups=groups, rows=rows, cols=cols, gate_up=int(gate_up))
        return cls._size(Call(context, None), args)

    @staticmethod
    def _size(call: Call, args: _abi.nvfp4_weights_prepare_args) -> int:
        size = ctypes.c_size_t()
        library().call("nvfp4_weights_storage_size", call.handle, ctypes.byref(args), ctypes.byref(size))
        return int(size.value)

    @staticmethod
    def _args(
        call: Call, src: Array, src_dtype: Any, transposed: bool, scale_rule: int, codes: Array, scales: Array,
        scale_layout: int, decode_scales: Array, decode_scope: int, requantize: bool, gate_up: bool,
    ) -> tuple[_abi.nvfp4_weights_prepare_args, tuple[int, int, int]]:
        if (src is None) == (codes is None):
            raise InvalidArgumentError("weights are made from src or from codes; pass exactly one")
        args = _abi.nvfp4_weights_prepare_args(gate_up=int(gate_up), scale_layout=scale_layout)
        if src is not None:
            if scales is not None:
                raise InvalidArgumentError("scales belong to codes; with src pass none")
            found, dtype = call.values("src", src, src_dtype)
            shape = _three("src", found.shape)
            e, n, k = (shape[0], shape[2], shape[1]) if transposed else shape
            stored = matrix("src", found, (e, shape[1]))
            if e > 1 and stored.group_stride == 0:
                raise InvalidArgumentError("src repeats one matrix (stride 0); copy it")
            args.source, args.src, args.src_dtype = WeightsSource.VALUES, stored.pointer, dtype
            args.src_row_stride, args.src_group_stride = stored.row_stride, stored.group_stride
            args.transposed, args.scale_rule = int(transposed), scale_rule
        else:
            found = call.look("codes", codes, CODES)
            e, n, half = _three("codes", found.shape)
            k = half * 2
            if not found.contiguous:
                raise InvalidArgumentError("codes is not contiguous; copy it")
            needed = scales_size(e * n, k, scale_layout=scale_layout, groups=Groups.strided(e, n))
            args.source, args.codes = WeightsSource.CODES, found.pointer
            args.decode_scope, args.requantize, args.scale_rule = decode_scope, int(requantize), scale_rule
            args.scales = call.dense("scales", scales, SCALES, needed).pointer
        if decode_scales is not None:
            count = {WeightsScope.TENSOR: 1, WeightsScope.ROW: e * n}.get(WeightsScope(decode_scope), e)
            args.decode_scales = call.floats("decode_scales", decode_scales, count).pointer
        args.groups, args.rows, args.cols = e, n, k
        return args, (e, n, k)

    @property
    def info(self) -> WeightsInfo:
        raw = _abi.nvfp4_weights_shape()
        library().call("nvfp4_weights_info", self.handle, ctypes.byref(raw))
        return WeightsInfo(raw.groups, raw.rows, raw.cols, bool(raw.gate_up), raw.storage_size)

    def export(
        self,
        *,
        scale_layout: int = ScaleLayout.LINEAR,
        codes: Array = None,
        scales: Array = None,
        decode_scales: Array = None,
        stream: Stream | None = None,
    ) -> Quantized:
        """The canonical bytes: those that the weights were prepared from, or what `quantize` gives for the same values."""
        call = Call(self.context, stream)
        call.like = self._like.view
        info = self.info
        e, n, k = info.groups, info.rows, info.cols
        groups = Groups.strided(e, n)
        needed = scales_size(e * n, k, scale_layout=scale_layout, groups=groups)
        if codes is None:
            codes = call.empty((e, n, k // 2), "uint8")
        if scales is None:
            scales = call.empty((e, n, k // 16) if scale_layout == ScaleLayout.LINEAR else (needed,), "uint8")
        if decode_scales is None:
            decode_scales = call.empty((e,), "float32")
        args = _abi.nvfp4_weights_export_args(weights=self.handle, scale_layout=scale_layout)
        args.codes = call.dense("codes", codes, CODES, e * n * (k // 2), written=True).pointer
        args.scales = call.dense("scales", scales, SCALES, needed, written=True).pointer
        args.decode_scales = call.dense("decode_scales", decode_scales, ("float32",), e, written=True).pointer
        call.keep.append(self._storage)
        call.run("weights_export", args)
        return Quantized(codes, scales, decode_scales, scale_layout, Scope.GROUP, groups)


class _Like:
    """What library new arrays are of, without keeping the array that told."""

    def __init__(self, found: Any) -> None:
        module = type(found.owner).__module__.partition(".")[0]
        self.view = None
        if module in ("torch", "cupy"):
            # An empty slice keeps library and device.
            from .arrays import view

            self.view = view("src", found.owner[:0].clone() if module == "torch" else found.owner[:0].copy())


def _three(argument: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 2:
        return (1, *shape)
    if len(shape) != 3:
        raise InvalidArgumentError(f"{argument} has shape {shape}; weights are [E, N, K] or [N, K]")
    return shape


def held(call: Call, argument: str, weights: Weights) -> WeightsInfo:
    """The shape of weights that a call takes, and keeps until it is done."""
    if not isinstance(weights, Weights):
        raise TypeError(f"{argument} is a {type(weights).__name__}; pass nvfp4.Weights")
    call.keep.append(weights._storage)
    return weights.info


def _product(
    name: str,
    context: Context,
    a: Array | Quantized,
    weights: Weights,
    groups: Groups | None,
    *,
    a_dtype: Any = None,
    a_scope: int = Scope.TENSOR,
    a_decode_scales: Array = None,
    bias: Array = None,
    bias_dtype: Any = None,
    activation: int = Activation.NONE,
    limit: float = 0.0,
    alpha: float = 0.0,
    beta: float = 0.0,
    flags: int = GemmFlags.NONE,
    out: Array = None,
    out_dtype: Any = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.ROW,
    workspace: Array = None,
    stream: Stream | None = None,
) -> Any:
    """Both products."""
    output = {
        "codes": codes, "scales": scales, "decode_scales": decode_scales, "static_decode_scales": static_decode_scales,
        "scale_layout": scale_layout, "scale_rule": scale_rule, "scope": scope,
    }
    call = Call(context, stream)
    info = held(call, "weights", weights)
    args = _abi.nvfp4_grouped_gemm_args(
        weights=weights.handle, activation=activation, limit=limit, alpha=alpha, beta=beta, flags=flags
    )
    rows, lead, values_dtype = _activations(call, args, a, info.cols, groups, a_dtype, a_scope, a_decode_scales)
    args.rows, args.groups = rows, call.groups(groups)
    if bias is not None:
        found, args.bias_dtype = call.values("bias", bias, bias_dtype)
        if found.size != info.groups * info.rows or not found.contiguous:
            raise InvalidArgumentError(f"bias has shape {found.shape}; it must be [{info.groups}, {info.rows}], dense")
        args.bias = found.pointer
    cols = info.rows // 2 if activation == Activation.SWIGLU else info.rows
    result: Any
    if out is None and out_dtype is not None and dtype_of(out_dtype) == DType.NVFP4:
        args.out_dtype = DType.NVFP4
        result = call.quantized(args.out_quantized, lead, rows, cols, groups, **output)
    else:
        given = [key for key in ("codes", "scales", "decode_scales", "static_decode_scales") if output[key] is not None]
        if given:
            raise InvalidArgumentError(f"{given[0]} is for NVFP4 outputs; pass out_dtype=DType.NVFP4 and no out")
        result = _values_out(call, args, out, out_dtype, values_dtype, lead, rows, cols, groups)
    call.workspace(name, args, workspace)
    call.run(name, args)
    return result


@keywords_of(_product)
def grouped_gemm(
    context: Context, a: Array | Quantized, weights: Weights, *, groups: Groups | None = None, **options: Any
) -> Any:
    """epilogue((a x weights^T) x decode scales + bias), group by group.

    a: BF16 or F16 values [rows, K], or Quantized. Values come back (`out`; its dtype is that of `out`, `out_dtype`, of
    value activations, or float32), or, with out_dtype NVFP4, a Quantized made as codes, scales, ... say.
    With strided groups a is [count, max_tokens, K], or [max_tokens, K] for all groups.
    """
    return _product("grouped_gemm", context, a, weights, groups, **options)


@keywords_of(_product)
def gemm(context: Context, a: Array | Quantized, weights: Weights, **options: Any) -> Any:
    """`grouped_gemm` with one matrix of weights and one group."""
    return _product("gemm", context, a, weights, None, **options)


def _activations(
    call: Call, args: Any, a: Array | Quantized, k: int, groups: Groups | None, a_dtype: Any, a_scope: int, a_decode_scales: Array
) -> tuple[int, tuple[int, ...], int | None]:
    """Fills operand A: (rows, shape of the output but for its columns, dtype of values or None)."""
    split = split_of(groups)
    dtype: int | None = None
    if isinstance(a, Quantized):
        if a_decode_scales is not None:
            raise InvalidArgumentError("a_decode_scales is for value activations; a Quantized holds its own")
        args.a_dtype = DType.NVFP4
        source = call.quantized_input(args.a_quantized, "a", a, groups, shared=True)
        cols = source.cols * 2
    else:
        found, dtype = call.values("a", a, a_dtype)
        source = matrix("a", found, split)
        cols = source.cols
        args.a, args.a_dtype, args.a_scope, args.a_row_stride = source.pointer, dtype, a_scope, source.row_stride
        if a_decode_scales is not None:
            shared = split is not None and source.group_stride == 0
            count = split[1] if split and shared and a_scope == Scope.ROW else scope_size(a_scope, source.rows, groups)
            args.a_decode_scales = call.floats("a_decode_scales", a_decode_scales, count).pointer
    if cols != k:
        raise InvalidArgumentError(f"a has {cols} columns and the weights {k}; they must be the same K")
    args.a_group_stride = source.group_stride
    shape = source.view.shape[:-1]
    return source.rows, split if split is not None and len(shape) == 1 and shape[0] != source.rows else shape, dtype


def _values_out(
    call: Call, args: Any, out: Array, out_dtype: Any, values_dtype: int | None, lead: tuple[int, ...], rows: int, cols: int,
    groups: Groups | None,
) -> Array:
    if out is None:
        if args.flags & GemmFlags.ACCUMULATE:
            raise InvalidArgumentError("out is missing; ACCUMULATE adds to it")
        number = dtype_of(out_dtype) if out_dtype is not None else DType.F32 if values_dtype is None else values_dtype
        if number not in NAMES:
            raise InvalidArgumentError(f"out_dtype = {number} is not a dtype of values; use BF16, F16 or F32")
        unused = groups is not None and groups.grouping in (Grouping.ENDS, Grouping.MASKED)
        out = call.empty((*lead, cols), NAMES[DType(number)], unused)
    found, args.out_dtype = call.values("out", out, out_dtype, written=True)
    target = call.rows("out", found, rows, cols, groups)
    if target.group_stride == 0 and groups is not None and groups.grouping == Grouping.STRIDED and groups.count > 1:
        raise InvalidArgumentError(f"out has shape {found.shape}; each group needs rows of its own")
    args.out, args.out_row_stride, args.out_group_stride = target.pointer, target.row_stride, target.group_stride
    return out

"""Quantizers, and the way back. One function a function of the header; keywords are the names of its struct fields.

Every output may be given; what is not is made by the library that the source is of. Outputs: codes, scales and
decode_scales as in `Quantized`. Static scales: pass static_decode_scales. `stream` None: the context's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized, _split, scope_size
from .arrays import NAMES, Array, dtype_of, matrix
from .context import Context, Stream
from .enums import Activation, DType, Grouping, ScaleLayout, ScaleRule, Scope
from .errors import InvalidArgumentError


@dataclass(frozen=True)
class NormQuantized(Quantized):
    """A quantized norm, with the copies that were asked for."""

    normed: Array = None
    inv_rms: Array = None
    mixed: Array = None


@dataclass(frozen=True)
class ActivationQuantized(Quantized):
    """A quantized activation, with the copy of its values that was asked for."""

    activated: Array = None


@dataclass(frozen=True)
class StagedInputs:
    """What nvfp4_stage_moe_inputs wrote; packed_scales: four E4M3 scales an int32, lowest byte first."""

    codes: Array
    packed_scales: Array
    staged_ids: Array = None
    staged_weights: Array = None


def _lead(shape: tuple[int, ...], rows: int, groups: Groups | None) -> tuple[int, ...]:
    """Shape of the outputs but for their columns."""
    lead = tuple(shape[:-1])
    split = _split(groups)
    return lead if split is None or len(lead) != 1 or lead[0] == rows else split


def quantize(
    context: Context,
    src: Array,
    *,
    src_dtype: Any = None,
    transposed: bool = False,
    groups: Groups | None = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.TENSOR,
    workspace: Array = None,
    stream: Stream | None = None,
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
        lead = _lead((*lead, 0), rows, groups)
    else:
        source = matrix("src", found, _split(groups))
        rows, cols, row_stride, group_stride = source.rows, source.cols, source.row_stride, source.group_stride
        lead = _lead(found.shape, rows, groups)
    args = _abi.nvfp4_quantize_args(
        src=found.pointer,
        src_dtype=dtype,
        transposed=int(transposed),
        src_row_stride=row_stride,
        src_group_stride=group_stride if _split(groups) else 0,
        rows=rows,
        cols=cols,
        groups=call.groups(groups),
    )
    result = call.quantized(
        args.out, lead, rows, cols, groups, codes=codes, scales=scales, decode_scales=decode_scales,
        static_decode_scales=static_decode_scales, scale_layout=scale_layout, scale_rule=scale_rule, scope=scope,
    )
    call.workspace("quantize", args, workspace)
    call.run("quantize", args)
    return result


def _transposed(found: Any, groups: Groups | None) -> tuple[int, int, int, int]:
    """(rows, cols, row stride, group stride) of [K, rows], [count, K, rows], or [K, rows] for all groups."""
    split = _split(groups)
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
    source = matrix("src", found, _split(groups))
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
    if target.group_stride == 0 and _split(groups) and groups is not None and groups.count > 1:
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


def _copy(call: Call, argument: str, given: Array, lead: tuple[int, ...], rows: int, cols: int, dtype: int) -> tuple[Array, int, int]:
    """An optional [rows, cols] output of the source's dtype: (array, pointer, row stride). True makes it."""
    if given is None or given is False:
        return None, 0, 0
    if given is True:
        given = call.empty((*lead, cols), NAMES[DType(dtype)])
    found, _ = call.values(argument, given, dtype, written=True)
    target = call.rows(argument, found, rows, cols)
    return given, target.pointer, target.row_stride


def _inv_rms(call: Call, args: Any, given: Array, rows: int) -> Array:
    if given is None or given is False:
        return None
    if given is True:
        given = call.empty((rows,), "float32")
    args.inv_rms = call.dense("inv_rms", given, ("float32",), rows, written=True).pointer
    return given


def rmsnorm_quantize(
    context: Context,
    src: Array,
    weight: Array,
    eps: float,
    *,
    src_dtype: Any = None,
    weight_dtype: Any = None,
    residual: Array = None,
    weight_offset: float = 0.0,
    normed: Array | bool = None,
    inv_rms: Array | bool = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.TENSOR,
    workspace: Array = None,
    stream: Stream | None = None,
) -> NormQuantized:
    """RMSNorm of the rows of src (plus residual, which takes the sum), quantized.

    normed, inv_rms: True for a new array, or the array to fill.
    """
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    source = matrix("src", found)
    rows, cols, lead = source.rows, source.cols, found.shape[:-1]
    args = _abi.nvfp4_rmsnorm_quantize_args(
        src=source.pointer, src_dtype=dtype, src_row_stride=source.row_stride, rows=rows, cols=cols,
        weight_offset=weight_offset, eps=eps,
    )
    _, args.residual, args.residual_row_stride = _copy(call, "residual", residual, lead, rows, cols, dtype)
    _weight(call, args, weight, weight_dtype, cols)
    result = call.quantized(
        args.out, lead, rows, cols, None, codes=codes, scales=scales, decode_scales=decode_scales,
        static_decode_scales=static_decode_scales, scale_layout=scale_layout, scale_rule=scale_rule, scope=scope,
    )
    normed, args.normed, args.normed_row_stride = _copy(call, "normed", normed, lead, rows, cols, dtype)
    inv_rms = _inv_rms(call, args, inv_rms, rows)
    call.workspace("rmsnorm_quantize", args, workspace)
    call.run("rmsnorm_quantize", args)
    return NormQuantized(**vars(result), normed=normed, inv_rms=inv_rms)


def _weight(call: Call, args: Any, weight: Array, weight_dtype: Any, cols: int) -> None:
    found, args.weight_dtype = call.values("weight", weight, weight_dtype)
    if found.size != cols or not found.contiguous:
        raise InvalidArgumentError(f"weight has shape {found.shape}; it needs {cols} elements, dense")
    args.weight = found.pointer


def hc_rmsnorm_quantize(
    context: Context,
    streams: Array,
    mix: Array,
    weight: Array,
    eps: float,
    *,
    src_dtype: Any = None,
    weight_dtype: Any = None,
    weight_offset: float = 0.0,
    mixed: Array | bool = None,
    normed: Array | bool = None,
    inv_rms: Array | bool = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.TENSOR,
    workspace: Array = None,
    stream: Stream | None = None,
) -> NormQuantized:
    """Hyper-connection: streams [rows, count, K] summed with mix [rows, count] float32, then RMSNorm, then quantized."""
    call = Call(context, stream)
    found, dtype = call.values("streams", streams, src_dtype)
    if len(found.shape) != 3:
        raise InvalidArgumentError(f"streams has shape {found.shape}; it must be [rows, count, K]")
    rows, count, cols = found.shape
    source = matrix("streams", found, (rows, count))
    weights = call.rows("mix", call.look("mix", mix, ("float32",)), rows, count)
    if rows > 1 and source.group_stride == 0 and found.size:
        raise InvalidArgumentError("streams repeats one row (stride 0); copy it")
    args = _abi.nvfp4_hc_rmsnorm_quantize_args(
        streams=source.pointer, src_dtype=dtype, streams_row_stride=source.group_stride, stream_stride=source.row_stride,
        stream_count=count, mix=weights.pointer, mix_row_stride=weights.row_stride, rows=rows, cols=cols,
        weight_offset=weight_offset, eps=eps,
    )
    _weight(call, args, weight, weight_dtype, cols)
    result = call.quantized(
        args.out, (rows,), rows, cols, None, codes=codes, scales=scales, decode_scales=decode_scales,
        static_decode_scales=static_decode_scales, scale_layout=scale_layout, scale_rule=scale_rule, scope=scope,
    )
    mixed, args.mixed, args.mixed_row_stride = _copy(call, "mixed", mixed, (rows,), rows, cols, dtype)
    normed, args.normed, args.normed_row_stride = _copy(call, "normed", normed, (rows,), rows, cols, dtype)
    inv_rms = _inv_rms(call, args, inv_rms, rows)
    call.workspace("hc_rmsnorm_quantize", args, workspace)
    call.run("hc_rmsnorm_quantize", args)
    return NormQuantized(**vars(result), normed=normed, inv_rms=inv_rms, mixed=mixed)


def swiglu_quantize(
    context: Context,
    src: Array,
    *,
    src_dtype: Any = None,
    activation: int = Activation.SWIGLU,
    interleave: int = 0,
    limit: float = 0.0,
    alpha: float = 0.0,
    beta: float = 0.0,
    groups: Groups | None = None,
    activated: Array | bool = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.TENSOR,
    workspace: Array = None,
    stream: Stream | None = None,
) -> ActivationQuantized:
    """gate and up [rows, 2 * width] -> activation [rows, width], quantized. RELU2: [rows, width] -> the same width.

    limit 0: no clamps; alpha 0: one. activated: True for a copy of the values before quantization, or the array to fill.
    """
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    source = matrix("src", found, _split(groups))
    gated = activation != Activation.RELU2
    if gated and source.cols % 2:
        raise InvalidArgumentError(f"src has {source.cols} columns; gate and up need an even number")
    width = source.cols // 2 if gated else source.cols
    cols = source.cols if activation == Activation.NONE else width
    rows, lead = source.rows, _lead(found.shape, source.rows, groups)
    args = _abi.nvfp4_swiglu_quantize_args(
        src=source.pointer, src_dtype=dtype, interleave=interleave, src_row_stride=source.row_stride,
        src_group_stride=source.group_stride, rows=rows, width=width, activation=activation, limit=limit, alpha=alpha,
        beta=beta, groups=call.groups(groups),
    )
    result = call.quantized(
        args.out, lead, rows, cols, groups, codes=codes, scales=scales, decode_scales=decode_scales,
        static_decode_scales=static_decode_scales, scale_layout=scale_layout, scale_rule=scale_rule, scope=scope,
    )
    if activated is True and groups is not None and groups.grouping != Grouping.STRIDED:
        activated = call.empty((*lead, cols), NAMES[DType(dtype)], zero=True)
    activated, args.activated, args.activated_row_stride = _copy(call, "activated", activated, lead, rows, cols, dtype)
    call.workspace("swiglu_quantize", args, workspace)
    call.run("swiglu_quantize", args)
    return ActivationQuantized(**vars(result), activated=activated)


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

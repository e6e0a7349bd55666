"""RMSNorm, hyper-connections and activations, each quantized in the same pass. Keywords as in quantizers.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized, keywords_of, split_of
from .arrays import NAMES, Array, matrix
from .context import Context, Stream
from .enums import Activation, DType, Grouping, ScaleLayout, ScaleRule, Scope
from .errors import InvalidArgumentError
from .quantizers import lead_shape


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


@keywords_of(Call.quantized)
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
    workspace: Array = None,
    stream: Stream | None = None,
    **output: Any,
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
    result = call.quantized(args.out, lead, rows, cols, None, **output)
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


@keywords_of(Call.quantized)
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
    workspace: Array = None,
    stream: Stream | None = None,
    **output: Any,
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
    result = call.quantized(args.out, (rows,), rows, cols, None, **output)
    mixed, args.mixed, args.mixed_row_stride = _copy(call, "mixed", mixed, (rows,), rows, cols, dtype)
    normed, args.normed, args.normed_row_stride = _copy(call, "normed", normed, (rows,), rows, cols, dtype)
    inv_rms = _inv_rms(call, args, inv_rms, rows)
    call.workspace("hc_rmsnorm_quantize", args, workspace)
    call.run("hc_rmsnorm_quantize", args)
    return NormQuantized(**vars(result), normed=normed, inv_rms=inv_rms, mixed=mixed)


@keywords_of(Call.quantized)
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
    workspace: Array = None,
    stream: Stream | None = None,
    **output: Any,
) -> ActivationQuantized:
    """gate and up [rows, 2 * width] -> activation [rows, width], quantized. RELU2: [rows, width] -> the same width.

    limit 0: no clamps; alpha 0: one. activated: True for a copy of the values before quantization, or the array to fill.
    """
    call = Call(context, stream)
    found, dtype = call.values("src", src, src_dtype)
    source = matrix("src", found, split_of(groups))
    gated = activation != Activation.RELU2
    if gated and source.cols % 2:
        raise InvalidArgumentError(f"src has {source.cols} columns; gate and up need an even number")
    width = source.cols // 2 if gated else source.cols
    cols = source.cols if activation == Activation.NONE else width
    rows, lead = source.rows, lead_shape(found.shape, source.rows, groups)
    args = _abi.nvfp4_swiglu_quantize_args(
        src=source.pointer, src_dtype=dtype, interleave=interleave, src_row_stride=source.row_stride,
        src_group_stride=source.group_stride, rows=rows, width=width, activation=activation, limit=limit, alpha=alpha,
        beta=beta, groups=call.groups(groups),
    )
    result = call.quantized(args.out, lead, rows, cols, groups, **output)
    if activated is True and groups is not None and groups.grouping != Grouping.STRIDED:
        activated = call.empty((*lead, cols), NAMES[DType(dtype)], zero=True)
    activated, args.activated, args.activated_row_stride = _copy(call, "activated", activated, lead, rows, cols, dtype)
    call.workspace("swiglu_quantize", args, workspace)
    call.run("swiglu_quantize", args)
    return ActivationQuantized(**vars(result), activated=activated)

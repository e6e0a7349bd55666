"""Scale layouts, gate/up interleaving, group offsets: bytes moved, nothing computed."""

from __future__ import annotations

from . import _abi
from ._call import Call, Groups, scales_size
from .arrays import SCALES, Array, View, matrix
from .context import Context, Stream
from .enums import ScaleLayout
from .errors import InvalidArgumentError


def tile_scales(
    context: Context,
    linear: Array,
    *,
    scale_layout: int = ScaleLayout.TILED_128X4,
    groups: Groups | None = None,
    tiled: Array = None,
    stream: Stream | None = None,
) -> Array:
    """Linear scales [rows, blocks] -> tiled bytes, each group on its own, padding zero."""
    call = Call(context, stream)
    source = matrix("linear", call.look("linear", linear, SCALES))
    needed = scales_size(source.rows, source.cols * 16, scale_layout=scale_layout, groups=groups)
    if tiled is None:
        tiled = call.empty((needed,), "uint8", groups is not None)
    target = call.dense("tiled", tiled, SCALES, needed, written=True, exact=False)
    call.run("tile_scales", _tile_args(call, source.pointer, source.row_stride, target, source.rows, source.cols, scale_layout, groups))
    return tiled


def untile_scales(
    context: Context,
    tiled: Array,
    rows: int,
    blocks: int,
    *,
    scale_layout: int = ScaleLayout.TILED_128X4,
    groups: Groups | None = None,
    linear: Array = None,
    stream: Stream | None = None,
) -> Array:
    """Tiled scales -> linear [rows, blocks]."""
    call = Call(context, stream)
    needed = scales_size(rows, blocks * 16, scale_layout=scale_layout, groups=groups)
    source = call.dense("tiled", tiled, SCALES, needed, exact=False)
    if linear is None:
        linear = call.empty((rows, blocks), "uint8", groups is not None)
    target = call.rows("linear", call.look("linear", linear, SCALES, written=True), rows, blocks)
    call.run("untile_scales", _tile_args(call, target.pointer, target.row_stride, source, rows, blocks, scale_layout, groups))
    return linear


def _tile_args(
    call: Call, linear: int, row_stride: int, tiled: View, rows: int, blocks: int, scale_layout: int, groups: Groups | None
) -> _abi.nvfp4_tile_scales_args:
    return _abi.nvfp4_tile_scales_args(
        linear=linear, linear_row_stride=row_stride, tiled=tiled.pointer, scale_layout=scale_layout, rows=rows, blocks=blocks,
        groups=call.groups(groups),
    )


def interleave_gate_up(
    context: Context, src: Array, *, granularity: int = 8, dst: Array = None, stream: Stream | None = None
) -> Array:
    """[gate; up] rows of [2I, row] or of each [count, 2I, row] -> `granularity` gate rows, as many up rows, alternating."""
    return _interleave("interleave_gate_up", context, src, granularity, dst, stream)


def deinterleave_gate_up(
    context: Context, src: Array, *, granularity: int = 8, dst: Array = None, stream: Stream | None = None
) -> Array:
    """The way back from `interleave_gate_up`."""
    return _interleave("deinterleave_gate_up", context, src, granularity, dst, stream)


def _interleave(name: str, context: Context, src: Array, granularity: int, dst: Array, stream: Stream | None) -> Array:
    call = Call(context, stream)
    dtypes = (*SCALES, "float4_e2m1fn_x2", "int8", "uint16", "bfloat16", "float16", "float32", "int32", "int64")
    source = call.look("src", src, dtypes)
    if len(source.shape) not in (2, 3) or not source.contiguous:
        raise InvalidArgumentError(f"src has shape {source.shape}; it must be [2I, row] or [count, 2I, row], dense")
    count, rows, cols = source.shape if len(source.shape) == 3 else (1, *source.shape)
    if rows % 2:
        raise InvalidArgumentError(f"src has {rows} rows; gate and up need an even number")
    if dst is None:
        dst = call.empty(source.shape, source.dtype)
    target = call.dense("dst", dst, (source.dtype,), source.size, written=True)
    args = _abi.nvfp4_interleave_gate_up_args(
        src=source.pointer, dst=target.pointer, count=count, half_rows=rows // 2, row_bytes=cols * source.itemsize,
        granularity=granularity,
    )
    call.run(name, args)
    return dst


def group_ends(context: Context, counts: Array, *, ends: Array = None, stream: Stream | None = None) -> Array:
    """int32 rows of each group -> inclusive cumulative ends. `ends` may be `counts` itself."""
    call = Call(context, stream)
    source = call.look("counts", counts, ("int32",))
    if len(source.shape) != 1 or not source.contiguous:
        raise InvalidArgumentError(f"counts has shape {source.shape}; pass one dense dimension")
    if ends is None:
        ends = call.empty(source.shape, "int32")
    target = call.dense("ends", ends, ("int32",), source.size, written=True)
    call.run("group_ends", _abi.nvfp4_group_ends_args(counts=source.pointer, ends=target.pointer, count=source.size))
    return ends


__all__ = ["deinterleave_gate_up", "group_ends", "interleave_gate_up", "tile_scales", "untile_scales"]

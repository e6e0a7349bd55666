"""Handles and structs of include/nvfp4.h: contexts, quantizers, layouts. `_layer_structs` has those of products and layers."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any


class nvfp4_context(c_void_p):
    """Handle."""


class nvfp4_stream(c_void_p):
    """Handle."""


class nvfp4_event(c_void_p):
    """Handle."""


class nvfp4_graph(c_void_p):
    """Handle."""


class nvfp4_buffer(c_void_p):
    """Handle."""


class nvfp4_weights(c_void_p):
    """Handle."""


HANDLES: tuple[type[c_void_p], ...] = (
    nvfp4_context, nvfp4_stream, nvfp4_event, nvfp4_graph, nvfp4_buffer, nvfp4_weights,
)

nvfp4_log_callback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)


class Sized(ctypes.Structure):
    """A struct that begins with its size; the constructor fills that in."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


class nvfp4_groups(ctypes.Structure):
    _fields_ = [
        ("grouping", c_uint32),
        ("count", c_uint32),
        ("ends", c_void_p),
        ("counts", c_void_p),
        ("max_tokens", c_int64),
    ]


class nvfp4_quantized(ctypes.Structure):
    _fields_ = [
        ("codes", c_void_p),
        ("codes_row_stride", c_int64),
        ("scales", c_void_p),
        ("scales_row_stride", c_int64),
        ("scale_layout", c_uint32),
        ("scale_rule", c_uint32),
        ("scope", c_uint32),
        ("reserved", c_uint32),
        ("static_decode_scales", c_void_p),
        ("decode_scales", c_void_p),
    ]


class nvfp4_quantized_input(ctypes.Structure):
    _fields_ = [
        ("codes", c_void_p),
        ("codes_row_stride", c_int64),
        ("scales", c_void_p),
        ("scales_row_stride", c_int64),
        ("scale_layout", c_uint32),
        ("scope", c_uint32),
        ("decode_scales", c_void_p),
    ]


#: Scratch, the end of every struct of arguments that needs some.
WORKSPACE = [
    ("workspace", c_void_p),
    ("workspace_size", c_size_t),
]


class nvfp4_context_options(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("backend", c_uint32),
        ("device", c_uint32),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint32),
    ]


class nvfp4_backend_info(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("backend", c_uint32),
        ("available", c_uint32),
        ("device_count", c_uint32),
        ("threads", c_uint32),
        ("isa", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char * 64),
    ]


class nvfp4_faults(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("bad_group", c_int64),
    ]


class nvfp4_pool_stats(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("bytes_in_use", c_size_t),
        ("bytes_reserved", c_size_t),
        ("peak_bytes_in_use", c_size_t),
        ("allocations", c_uint64),
        ("reuses", c_uint64),
    ]


class nvfp4_prepare_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("reserved", c_uint64),
        ("operation", c_uint32),
        ("reserved_operation", c_uint32),
        ("args", c_void_p),
    ]


class nvfp4_quantize_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("src_dtype", c_uint32),
        ("transposed", c_uint32),
        ("src_row_stride", c_int64),
        ("src_group_stride", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("groups", nvfp4_groups),
        ("out", nvfp4_quantized),
        *WORKSPACE,
    ]


class nvfp4_amax_scale_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("src_dtype", c_uint32),
        ("scope", c_uint32),
        ("src_row_stride", c_int64),
        ("src_group_stride", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("groups", nvfp4_groups),
        ("decode_scales", c_void_p),
        *WORKSPACE,
    ]


class nvfp4_dequantize_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("input", nvfp4_quantized_input),
        ("rows", c_int64),
        ("cols", c_int64),
        ("groups", nvfp4_groups),
        ("dst", c_void_p),
        ("dst_dtype", c_uint32),
        ("reserved", c_uint32),
        ("dst_row_stride", c_int64),
        ("dst_group_stride", c_int64),
    ]


#: Of both norms, from the weight on.
_NORM = [
    ("weight", c_void_p),
    ("weight_offset", c_float),
    ("eps", c_float),
    ("normed", c_void_p),
    ("normed_row_stride", c_int64),
    ("inv_rms", c_void_p),
    ("out", nvfp4_quantized),
    *WORKSPACE,
]


class nvfp4_rmsnorm_quantize_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("src_dtype", c_uint32),
        ("weight_dtype", c_uint32),
        ("src_row_stride", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("residual", c_void_p),
        ("residual_row_stride", c_int64),
        *_NORM,
    ]


class nvfp4_hc_rmsnorm_quantize_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("streams", c_void_p),
        ("src_dtype", c_uint32),
        ("weight_dtype", c_uint32),
        ("streams_row_stride", c_int64),
        ("stream_stride", c_int64),
        ("stream_count", c_uint32),
        ("reserved", c_uint32),
        ("mix", c_void_p),
        ("mix_row_stride", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("mixed", c_void_p),
        ("mixed_row_stride", c_int64),
        *_NORM,
    ]


class nvfp4_swiglu_quantize_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("src_dtype", c_uint32),
        ("interleave", c_uint32),
        ("src_row_stride", c_int64),
        ("src_group_stride", c_int64),
        ("rows", c_int64),
        ("width", c_int64),
        ("activation", c_uint32),
        ("limit", c_float),
        ("alpha", c_float),
        ("beta", c_float),
        ("groups", nvfp4_groups),
        ("activated", c_void_p),
        ("activated_row_stride", c_int64),
        ("out", nvfp4_quantized),
        *WORKSPACE,
    ]


class nvfp4_stage_moe_inputs_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("src_dtype", c_uint32),
        ("scale_rule", c_uint32),
        ("src_row_stride", c_int64),
        ("tokens", c_int64),
        ("hidden", c_int64),
        ("static_decode_scale", c_void_p),
        ("codes", c_void_p),
        ("packed_scales", c_void_p),
        ("routes", c_uint32),
        ("reserved", c_uint32),
        ("topk_ids", c_void_p),
        ("topk_weights", c_void_p),
        ("staged_ids", c_void_p),
        ("staged_weights", c_void_p),
    ]


class nvfp4_scales_size_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("scale_layout", c_uint32),
        ("reserved", c_uint32),
        ("rows", c_int64),
        ("cols", c_int64),
        ("scales_row_stride", c_int64),
        ("groups", nvfp4_groups),
    ]


class nvfp4_tile_scales_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("linear", c_void_p),
        ("linear_row_stride", c_int64),
        ("tiled", c_void_p),
        ("scale_layout", c_uint32),
        ("reserved", c_uint32),
        ("rows", c_int64),
        ("blocks", c_int64),
        ("groups", nvfp4_groups),
    ]


class nvfp4_interleave_gate_up_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("src", c_void_p),
        ("dst", c_void_p),
        ("count", c_int64),
        ("half_rows", c_int64),
        ("row_bytes", c_int64),
        ("granularity", c_int64),
    ]


class nvfp4_group_ends_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("counts", c_void_p),
        ("ends", c_void_p),
        ("count", c_int64),
    ]

"""include/nvfp4.h in ctypes: structs, handles and prototypes, names as in C.

Written by hand for readers; tests/test_abi.py compares every field, size, constant and prototype with the header.
Pointers inside structs are `c_void_p`, so that an address (an int) can be assigned to them.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

ABI_VERSION = 1


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
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
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
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
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
        ("weight", c_void_p),
        ("weight_offset", c_float),
        ("eps", c_float),
        ("normed", c_void_p),
        ("normed_row_stride", c_int64),
        ("inv_rms", c_void_p),
        ("out", nvfp4_quantized),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
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
        ("weight", c_void_p),
        ("weight_offset", c_float),
        ("eps", c_float),
        ("normed", c_void_p),
        ("normed_row_stride", c_int64),
        ("inv_rms", c_void_p),
        ("out", nvfp4_quantized),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
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
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
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


class nvfp4_weights_prepare_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("groups", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("gate_up", c_uint32),
        ("source", c_uint32),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("scale_layout", c_uint32),
        ("src_dtype", c_uint32),
        ("src", c_void_p),
        ("src_row_stride", c_int64),
        ("src_group_stride", c_int64),
        ("transposed", c_uint32),
        ("scale_rule", c_uint32),
        ("decode_scales", c_void_p),
        ("storage", c_void_p),
        ("storage_size", c_size_t),
    ]


class nvfp4_weights_export_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weights", c_void_p),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("decode_scales", c_void_p),
        ("scale_layout", c_uint32),
        ("reserved", c_uint32),
    ]


class nvfp4_weights_shape(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("groups", c_int64),
        ("rows", c_int64),
        ("cols", c_int64),
        ("gate_up", c_uint32),
        ("reserved", c_uint32),
        ("storage_size", c_size_t),
    ]


class nvfp4_grouped_gemm_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weights", c_void_p),
        ("rows", c_int64),
        ("groups", nvfp4_groups),
        ("a", c_void_p),
        ("a_dtype", c_uint32),
        ("a_scope", c_uint32),
        ("a_row_stride", c_int64),
        ("a_group_stride", c_int64),
        ("a_decode_scales", c_void_p),
        ("a_quantized", nvfp4_quantized_input),
        ("bias", c_void_p),
        ("bias_dtype", c_uint32),
        ("activation", c_uint32),
        ("limit", c_float),
        ("alpha", c_float),
        ("beta", c_float),
        ("flags", c_uint32),
        ("out", c_void_p),
        ("out_dtype", c_uint32),
        ("reserved", c_uint32),
        ("out_row_stride", c_int64),
        ("out_group_stride", c_int64),
        ("out_quantized", nvfp4_quantized),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
    ]


nvfp4_gemm_args = nvfp4_grouped_gemm_args


class nvfp4_tune_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("operation", c_uint32),
        ("repeats", c_uint32),
        ("args", c_void_p),
    ]


class nvfp4_tune_result(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("candidates", c_uint32),
        ("splits", c_uint32),
        ("default_us", c_float),
        ("best_us", c_float),
        ("kernel", c_char * 64),
    ]


_ctx = nvfp4_context
_status = c_int32
_size_out = POINTER(c_size_t)
_flag_out = POINTER(c_int32)


def _operation(args: type[ctypes.Structure]) -> tuple[Any, list[Any]]:
    return _status, [_ctx, POINTER(args), nvfp4_stream]


def _query(args: type[ctypes.Structure]) -> tuple[Any, list[Any]]:
    return _status, [_ctx, POINTER(args), _size_out]


#: Function -> (result, arguments), in the header's order.
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "nvfp4_version": (c_uint32, []),
    "nvfp4_version_string": (c_char_p, []),
    "nvfp4_abi_version": (c_uint32, []),
    "nvfp4_status_name": (c_char_p, [c_int32]),
    "nvfp4_last_message": (c_char_p, []),
    "nvfp4_set_log_callback": (_status, [nvfp4_log_callback, c_void_p, c_int32]),
    "nvfp4_backend_query": (_status, [c_uint32, c_uint32, POINTER(nvfp4_backend_info)]),
    "nvfp4_context_create": (_status, [POINTER(nvfp4_context_options), POINTER(nvfp4_context)]),
    "nvfp4_context_destroy": (_status, [_ctx]),
    "nvfp4_context_info": (_status, [_ctx, POINTER(nvfp4_backend_info)]),
    "nvfp4_context_faults": (_status, [_ctx, POINTER(nvfp4_faults)]),
    "nvfp4_context_clear_faults": (_status, [_ctx]),
    "nvfp4_context_synchronize": (_status, [_ctx]),
    "nvfp4_context_pool_stats": (_status, [_ctx, POINTER(nvfp4_pool_stats)]),
    "nvfp4_context_pool_trim": (_status, [_ctx, c_size_t]),
    "nvfp4_feature_supported": (_status, [_ctx, c_uint32, _flag_out]),
    "nvfp4_prepare": (_status, [_ctx, POINTER(nvfp4_prepare_args)]),
    "nvfp4_stream_create": (_status, [_ctx, POINTER(nvfp4_stream)]),
    "nvfp4_stream_borrow": (_status, [_ctx, c_void_p, POINTER(nvfp4_stream)]),
    "nvfp4_stream_destroy": (_status, [nvfp4_stream]),
    "nvfp4_stream_synchronize": (_status, [nvfp4_stream]),
    "nvfp4_stream_query": (_status, [nvfp4_stream, _flag_out]),
    "nvfp4_event_create": (_status, [_ctx, POINTER(nvfp4_event)]),
    "nvfp4_event_destroy": (_status, [nvfp4_event]),
    "nvfp4_event_record": (_status, [nvfp4_event, nvfp4_stream]),
    "nvfp4_event_wait": (_status, [nvfp4_event, nvfp4_stream]),
    "nvfp4_event_synchronize": (_status, [nvfp4_event]),
    "nvfp4_event_query": (_status, [nvfp4_event, _flag_out]),
    "nvfp4_event_elapsed_ms": (_status, [nvfp4_event, nvfp4_event, POINTER(c_float)]),
    "nvfp4_graph_begin_capture": (_status, [nvfp4_stream, c_uint32]),
    "nvfp4_graph_end_capture": (_status, [nvfp4_stream, POINTER(nvfp4_graph)]),
    "nvfp4_graph_instantiate": (_status, [nvfp4_graph]),
    "nvfp4_graph_update": (_status, [nvfp4_graph, nvfp4_graph]),
    "nvfp4_graph_launch": (_status, [nvfp4_graph, nvfp4_stream]),
    "nvfp4_graph_node_count": (_status, [nvfp4_graph, _size_out]),
    "nvfp4_graph_destroy": (_status, [nvfp4_graph]),
    "nvfp4_buffer_create": (_status, [_ctx, c_size_t, nvfp4_stream, POINTER(nvfp4_buffer)]),
    "nvfp4_buffer_destroy": (_status, [nvfp4_buffer]),
    "nvfp4_buffer_data": (_status, [nvfp4_buffer, POINTER(c_void_p)]),
    "nvfp4_buffer_size": (_status, [nvfp4_buffer, _size_out]),
    "nvfp4_buffer_upload": (_status, [nvfp4_buffer, c_size_t, c_void_p, c_size_t, nvfp4_stream]),
    "nvfp4_buffer_download": (_status, [nvfp4_buffer, c_size_t, c_void_p, c_size_t, nvfp4_stream]),
    "nvfp4_buffer_copy": (_status, [nvfp4_buffer, c_size_t, nvfp4_buffer, c_size_t, c_size_t, nvfp4_stream]),
    "nvfp4_quantize": _operation(nvfp4_quantize_args),
    "nvfp4_quantize_workspace_size": _query(nvfp4_quantize_args),
    "nvfp4_amax_scale": _operation(nvfp4_amax_scale_args),
    "nvfp4_amax_scale_workspace_size": _query(nvfp4_amax_scale_args),
    "nvfp4_dequantize": _operation(nvfp4_dequantize_args),
    "nvfp4_rmsnorm_quantize": _operation(nvfp4_rmsnorm_quantize_args),
    "nvfp4_rmsnorm_quantize_workspace_size": _query(nvfp4_rmsnorm_quantize_args),
    "nvfp4_hc_rmsnorm_quantize": _operation(nvfp4_hc_rmsnorm_quantize_args),
    "nvfp4_hc_rmsnorm_quantize_workspace_size": _query(nvfp4_hc_rmsnorm_quantize_args),
    "nvfp4_swiglu_quantize": _operation(nvfp4_swiglu_quantize_args),
    "nvfp4_swiglu_quantize_workspace_size": _query(nvfp4_swiglu_quantize_args),
    "nvfp4_stage_moe_inputs": _operation(nvfp4_stage_moe_inputs_args),
    "nvfp4_scales_size": (_status, [POINTER(nvfp4_scales_size_args), _size_out]),
    "nvfp4_tile_scales": _operation(nvfp4_tile_scales_args),
    "nvfp4_untile_scales": _operation(nvfp4_tile_scales_args),
    "nvfp4_interleave_gate_up": _operation(nvfp4_interleave_gate_up_args),
    "nvfp4_deinterleave_gate_up": _operation(nvfp4_interleave_gate_up_args),
    "nvfp4_group_ends": _operation(nvfp4_group_ends_args),
    "nvfp4_weights_storage_size": _query(nvfp4_weights_prepare_args),
    "nvfp4_weights_prepare": (
        _status,
        [_ctx, POINTER(nvfp4_weights_prepare_args), nvfp4_stream, POINTER(nvfp4_weights)],
    ),
    "nvfp4_weights_export": _operation(nvfp4_weights_export_args),
    "nvfp4_weights_info": (_status, [nvfp4_weights, POINTER(nvfp4_weights_shape)]),
    "nvfp4_weights_destroy": (_status, [nvfp4_weights]),
    "nvfp4_grouped_gemm": _operation(nvfp4_grouped_gemm_args),
    "nvfp4_grouped_gemm_workspace_size": _query(nvfp4_grouped_gemm_args),
    "nvfp4_gemm": _operation(nvfp4_gemm_args),
    "nvfp4_gemm_workspace_size": _query(nvfp4_gemm_args),
    "nvfp4_tune": (_status, [_ctx, POINTER(nvfp4_tune_args), nvfp4_stream, POINTER(nvfp4_tune_result)]),
    "nvfp4_tuning_load": (_status, [_ctx, c_char_p, _size_out]),
    "nvfp4_tuning_save": (_status, [_ctx, c_char_p]),
}


class nvfp4_api_table(ctypes.Structure):
    """The table of nvfp4_api: its size, then a pointer to every function above, in that order."""

    _fields_ = [
        ("struct_size", c_size_t),
        *[(name.removeprefix("nvfp4_"), c_void_p) for name in PROTOTYPES],
    ]


PROTOTYPES["nvfp4_api"] = (POINTER(nvfp4_api_table), [c_uint32])

STRUCTS: dict[str, type[ctypes.Structure]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, ctypes.Structure) and name == value.__name__ != "Sized"
}

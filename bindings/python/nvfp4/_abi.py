"""include/nvfp4.h in ctypes: structs, handles and prototypes, names as in C.

Written by hand for readers; tests/test_abi.py compares every field, size, constant and prototype with the header.
Pointers inside structs are `c_void_p`, so that an address (an int) can be assigned to them.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any

from ._layer_structs import *  # noqa: F403
from ._structs import *  # noqa: F403

ABI_VERSION = 1

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
    "nvfp4_moe_route": _operation(nvfp4_moe_route_args),
    "nvfp4_moe_permute": _operation(nvfp4_moe_permute_args),
    "nvfp4_moe_permute_workspace_size": _query(nvfp4_moe_permute_args),
    "nvfp4_moe_combine": _operation(nvfp4_moe_combine_args),
    "nvfp4_moe_forward": _operation(nvfp4_moe_forward_args),
    "nvfp4_moe_forward_workspace_size": _query(nvfp4_moe_forward_args),
    "nvfp4_linear": _operation(nvfp4_linear_args),
    "nvfp4_linear_workspace_size": _query(nvfp4_linear_args),
    "nvfp4_grouped_linear": _operation(nvfp4_grouped_linear_args),
    "nvfp4_grouped_linear_workspace_size": _query(nvfp4_grouped_linear_args),
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

"""Structs of include/nvfp4.h: prepared weights, products, mixture of experts, linear layers."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_float, c_int64, c_size_t, c_uint32, c_void_p

from ._structs import WORKSPACE, Sized, nvfp4_groups, nvfp4_quantized, nvfp4_quantized_input

#: What stands behind the sum of every product.
_EPILOGUE = [
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
    *WORKSPACE,
]

#: Where the tokens of a mixture of experts go.
_COMBINED = [
    ("shared", c_void_p),
    ("shared_row_stride", c_int64),
    ("shared_dtype", c_uint32),
    ("scaling", c_float),
    ("out", c_void_p),
    ("out_row_stride", c_int64),
    ("out_dtype", c_uint32),
    ("reserved", c_uint32),
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
        ("decode_scope", c_uint32),
        ("requantize", c_uint32),
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
        *_EPILOGUE,
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


class nvfp4_moe_router(ctypes.Structure):
    _fields_ = [
        ("score", c_uint32),
        ("renormalise", c_uint32),
        ("groups", c_uint32),
        ("top_groups", c_uint32),
        ("bias", c_void_p),
        ("scaling", c_float),
        ("reserved", c_uint32),
    ]


class nvfp4_moe_route_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("logits", c_void_p),
        ("logits_dtype", c_uint32),
        ("topk", c_uint32),
        ("logits_row_stride", c_int64),
        ("tokens", c_int64),
        ("experts", c_int64),
        ("router", nvfp4_moe_router),
        ("token_mask", c_void_p),
        ("topk_ids", c_void_p),
        ("topk_weights", c_void_p),
    ]


class nvfp4_moe_permute_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("tokens", c_int64),
        ("experts", c_int64),
        ("first_expert", c_int64),
        ("local_experts", c_int64),
        ("topk", c_uint32),
        ("src_dtype", c_uint32),
        ("topk_ids", c_void_p),
        ("ends", c_void_p),
        ("source_rows", c_void_p),
        ("inverse", c_void_p),
        ("cols", c_int64),
        ("src", c_void_p),
        ("src_row_stride", c_int64),
        ("src_quantized", nvfp4_quantized_input),
        ("gathered", c_void_p),
        ("gathered_row_stride", c_int64),
        ("out", nvfp4_quantized),
        *WORKSPACE,
    ]


class nvfp4_moe_combine_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("tokens", c_int64),
        ("cols", c_int64),
        ("topk", c_uint32),
        ("y_dtype", c_uint32),
        ("rows", c_int64),
        ("y", c_void_p),
        ("y_row_stride", c_int64),
        ("inverse", c_void_p),
        ("topk_weights", c_void_p),
        *_COMBINED,
    ]


class nvfp4_moe_forward_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("w1", c_void_p),
        ("w2", c_void_p),
        ("tokens", c_int64),
        ("experts", c_int64),
        ("first_expert", c_int64),
        ("hidden", c_void_p),
        ("hidden_dtype", c_uint32),
        ("quantize", c_uint32),
        ("hidden_row_stride", c_int64),
        ("hidden_quantized", nvfp4_quantized_input),
        ("logits", c_void_p),
        ("logits_dtype", c_uint32),
        ("topk", c_uint32),
        ("logits_row_stride", c_int64),
        ("router", nvfp4_moe_router),
        ("token_mask", c_void_p),
        ("topk_ids", c_void_p),
        ("topk_weights", c_void_p),
        ("bias1", c_void_p),
        ("bias2", c_void_p),
        ("bias_dtype", c_uint32),
        ("activation", c_uint32),
        ("limit", c_float),
        ("alpha", c_float),
        ("beta", c_float),
        ("flags", c_uint32),
        ("scale_rule", c_uint32),
        ("static_scope", c_uint32),
        ("static_input_scales", c_void_p),
        ("static_intermediate_scales", c_void_p),
        *_COMBINED,
        *WORKSPACE,
    ]


class nvfp4_grouped_linear_args(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("weights", c_void_p),
        ("tokens", c_int64),
        ("a", c_void_p),
        ("a_dtype", c_uint32),
        ("quantize", c_uint32),
        ("a_row_stride", c_int64),
        ("a_group_stride", c_int64),
        ("a_quantized", nvfp4_quantized_input),
        ("scale_rule", c_uint32),
        ("scope", c_uint32),
        ("static_decode_scales", c_void_p),
        *_EPILOGUE,
    ]


nvfp4_linear_args = nvfp4_grouped_linear_args

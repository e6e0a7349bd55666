//! `nvfp4_quantize` and `nvfp4_amax_scale`: values → NVFP4, or only its decode scales.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_quantize.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_quantize_args {
    /// sizeof(nvfp4_quantize_args).
    pub struct_size: usize,
    /// Values, 16-byte aligned; [rows, cols], or [cols, rows] when transposed.
    pub src: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// 1: src is stored [cols, rows] (a weight as [K, N]); 0: [rows, cols].
    pub transposed: u32,
    /// Elements between rows of src as stored; 0: dense.
    pub src_row_stride: i64,
    /// Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix.
    pub src_group_stride: i64,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
    /// Where the result goes.
    pub out: nvfp4_quantized,
    /// Scratch in device memory, 16-byte aligned; NULL where nvfp4_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

/// Arguments of nvfp4_amax_scale.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_amax_scale_args {
    /// sizeof(nvfp4_amax_scale_args).
    pub struct_size: usize,
    /// Values, 16-byte aligned; [rows, cols].
    pub src: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// One of NVFP4_SCOPE_*.
    pub scope: nvfp4_scope,
    /// Elements between rows of src; 0: dense.
    pub src_row_stride: i64,
    /// Elements between groups of src; NVFP4_GROUPING_STRIDED only.
    pub src_group_stride: i64,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// Values a row, a positive multiple of 16.
    pub cols: i64,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
    /// Float array by scope in device memory, written: amax / 2688.
    pub decode_scales: *mut f32,
    /// Scratch in device memory, 16-byte aligned; NULL where nvfp4_amax_scale_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_quantize_args, nvfp4_amax_scale_args);

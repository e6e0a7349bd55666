//! `nvfp4_dequantize`: NVFP4 → values.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_dequantize.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_dequantize_args {
    /// sizeof(nvfp4_dequantize_args).
    pub struct_size: usize,
    /// Codes and scales, laid out as nvfp4_quantize writes them for the same groups.
    pub input: nvfp4_quantized_input,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
    /// [rows, cols] values, written; 16-byte aligned.
    pub dst: *mut core::ffi::c_void,
    /// BF16, F16 or F32.
    pub dst_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
    /// Elements between rows of dst; 0: dense.
    pub dst_row_stride: i64,
    /// Elements between groups of dst; NVFP4_GROUPING_STRIDED only.
    pub dst_group_stride: i64,
}

zeroed_default!(nvfp4_dequantize_args);

//! `nvfp4_swiglu_quantize`: activation (or only the de-interleaving) and quantize in one pass.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_swiglu_quantize.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_swiglu_quantize_args {
    /// sizeof(nvfp4_swiglu_quantize_args).
    pub struct_size: usize,
    /// Values, 16-byte aligned. SWIGLU and NONE: [rows, 2 * width], gate and up; RELU2: [rows, width].
    pub src: *const core::ffi::c_void,
    /// Dtype of src and activated: BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// 0: gate columns, then up columns; 8: 8 gate columns, 8 up columns, alternating (width a multiple of 8).
    pub interleave: u32,
    /// Elements between rows of src; 0: dense.
    pub src_row_stride: i64,
    /// Elements between groups of src; NVFP4_GROUPING_STRIDED only.
    pub src_group_stride: i64,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// I: columns of gate. The output has I columns, with NONE 2 * I (gate, then up); a positive multiple of 16.
    pub width: i64,
    /// SWIGLU, RELU2 (nothing is gated; interleave must be 0), or NONE: undo the interleaving and quantize.
    pub activation: nvfp4_activation,
    /// Above 0: gate is clamped above and up on both sides first; default 0, none.
    pub limit: f32,
    /// Factor inside the sigmoid; default 0 means 1.
    pub alpha: f32,
    /// Added to up; default 0.
    pub beta: f32,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
    /// [rows, output columns] by logical row: copy of the values before quantization, 16-byte aligned; NULL: none.
    pub activated: *mut core::ffi::c_void,
    /// Elements between rows of activated; 0: dense.
    pub activated_row_stride: i64,
    /// Where the result goes.
    pub out: nvfp4_quantized,
    /// Scratch in device memory, 16-byte aligned; NULL where nvfp4_swiglu_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_swiglu_quantize_args);

//! `nvfp4_rmsnorm_quantize` and `nvfp4_hc_rmsnorm_quantize`: RMSNorm and quantize in one pass.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_rmsnorm_quantize.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_rmsnorm_quantize_args {
    /// sizeof(nvfp4_rmsnorm_quantize_args).
    pub struct_size: usize,
    /// [rows, cols] values, 16-byte aligned.
    pub src: *const core::ffi::c_void,
    /// Dtype of src, residual and normed: BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// Dtype of weight: BF16, F16 or F32.
    pub weight_dtype: nvfp4_dtype,
    /// Elements between rows of src; 0: dense.
    pub src_row_stride: i64,
    /// Rows, 0 or more.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// [rows, cols], 16-byte aligned; NULL: none. src + residual is normalised and written back here.
    pub residual: *mut core::ffi::c_void,
    /// Elements between rows of residual; 0: dense.
    pub residual_row_stride: i64,
    /// [cols], 16-byte aligned.
    pub weight: *const core::ffi::c_void,
    /// Added to every weight (1 where a model stores weight - 1); default 0.
    pub weight_offset: f32,
    /// Added to the mean square; finite and above 0, there is no default.
    pub eps: f32,
    /// [rows, cols]: copy of the normalised rows before quantization, 16-byte aligned; NULL: none.
    pub normed: *mut core::ffi::c_void,
    /// Elements between rows of normed; 0: dense.
    pub normed_row_stride: i64,
    /// float[rows]: 1/RMS of every row, 4-byte aligned; NULL: none.
    pub inv_rms: *mut f32,
    /// Where the result goes; scope TENSOR or ROW.
    pub out: nvfp4_quantized,
    /// Scratch in device memory, 16-byte aligned; NULL where nvfp4_rmsnorm_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

/// Arguments of nvfp4_hc_rmsnorm_quantize.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_hc_rmsnorm_quantize_args {
    /// sizeof(nvfp4_hc_rmsnorm_quantize_args).
    pub struct_size: usize,
    /// [rows, stream_count, cols] values, 16-byte aligned.
    pub streams: *const core::ffi::c_void,
    /// Dtype of streams, mixed and normed: BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// Dtype of weight: BF16, F16 or F32.
    pub weight_dtype: nvfp4_dtype,
    /// Elements between rows (tokens); 0: stream_count * cols.
    pub streams_row_stride: i64,
    /// Elements between the streams of a row; 0: cols.
    pub stream_stride: i64,
    /// Streams, 1 to 4.
    pub stream_count: u32,
    /// Must be 0.
    pub reserved: u32,
    /// float[rows, stream_count]: the weight of each stream, 4-byte aligned.
    pub mix: *const f32,
    /// Floats between rows of mix; 0: stream_count.
    pub mix_row_stride: i64,
    /// Rows, 0 or more.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// [rows, cols]: copy of the mixed rows, 16-byte aligned; NULL: none.
    pub mixed: *mut core::ffi::c_void,
    /// Elements between rows of mixed; 0: dense.
    pub mixed_row_stride: i64,
    /// [cols], 16-byte aligned.
    pub weight: *const core::ffi::c_void,
    /// Added to every weight; default 0.
    pub weight_offset: f32,
    /// Added to the mean square; finite and above 0, there is no default.
    pub eps: f32,
    /// [rows, cols]: copy of the normalised rows before quantization, 16-byte aligned; NULL: none.
    pub normed: *mut core::ffi::c_void,
    /// Elements between rows of normed; 0: dense.
    pub normed_row_stride: i64,
    /// float[rows]: 1/RMS of every row, 4-byte aligned; NULL: none.
    pub inv_rms: *mut f32,
    /// Where the result goes; scope TENSOR or ROW.
    pub out: nvfp4_quantized,
    /// Scratch in device memory, 16-byte aligned; NULL where nvfp4_hc_rmsnorm_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_rmsnorm_quantize_args, nvfp4_hc_rmsnorm_quantize_args);

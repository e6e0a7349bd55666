//! Prepared weights: the operand B of a product in the layout that the backend's kernels read.
#![allow(non_camel_case_types)]

use super::types::*;

/// What weights are made from.
pub type nvfp4_weights_source = u32;
/// Canonical NVFP4 codes, block scales and decode scales.
pub const NVFP4_WEIGHTS_SOURCE_CODES: nvfp4_weights_source = 0;
/// BF16, F16 or F32 values, quantized on the way.
pub const NVFP4_WEIGHTS_SOURCE_VALUES: nvfp4_weights_source = 1;

/// Arguments of nvfp4_weights_prepare and nvfp4_weights_storage_size (which reads the shape alone).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_prepare_args {
    /// sizeof(nvfp4_weights_prepare_args).
    pub struct_size: usize,
    /// E: matrices, 0 to 65535.
    pub groups: i64,
    /// N: rows of each matrix, 1 or more; even when gate_up.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// 1: the first N/2 rows are gate, the others up, for the SWIGLU epilogue; 0: plain.
    pub gate_up: u32,
    /// One of NVFP4_WEIGHTS_SOURCE_*.
    pub source: nvfp4_weights_source,
    /// CODES: [E, N, K/2] dense, 16-byte aligned. Codes under a zero scale are taken as 0.
    pub codes: *const u8,
    /// CODES: block scales of each matrix in scale_layout, matrix after matrix (each tiled on its own), 16-byte aligned.
    /// A scale with its sign bit set is refused.
    pub scales: *const u8,
    /// CODES: one of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// VALUES: BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// VALUES: [E, N, K], or [E, K, N] when transposed; 16-byte aligned.
    pub src: *const core::ffi::c_void,
    /// VALUES: elements between rows as stored; 0: dense.
    pub src_row_stride: i64,
    /// VALUES: elements between matrices; 0: dense.
    pub src_group_stride: i64,
    /// VALUES: 1 when src is stored [E, K, N].
    pub transposed: u32,
    /// VALUES: one of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// float[E] in device memory. CODES: required, finite and above 0. VALUES: static decode scales, or NULL for
    /// amax / 2688 of each matrix.
    pub decode_scales: *const f32,
    /// Caller-owned memory of nvfp4_weights_storage_size bytes, 64-byte aligned; the weights live in it until destroyed.
    pub storage: *mut core::ffi::c_void,
    /// Its bytes.
    pub storage_size: usize,
}

/// Arguments of nvfp4_weights_export. The bytes are those that canonical weights were prepared from, or the ones that
/// nvfp4_quantize gives for the same values.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_export_args {
    /// sizeof(nvfp4_weights_export_args).
    pub struct_size: usize,
    /// The weights.
    pub weights: *const super::handles::nvfp4_weights,
    /// [E, N, K/2] dense, written; 16-byte aligned.
    pub codes: *mut u8,
    /// Block scales, matrix after matrix in scale_layout, written, padding as zero; 16-byte aligned.
    pub scales: *mut u8,
    /// float[E], written; 4-byte aligned.
    pub decode_scales: *mut f32,
    /// One of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// Must be 0.
    pub reserved: u32,
}

/// What nvfp4_weights_info tells.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_info {
    /// sizeof(nvfp4_weights_info), set by the caller.
    pub struct_size: usize,
    /// E.
    pub groups: i64,
    /// N.
    pub rows: i64,
    /// K.
    pub cols: i64,
    /// 1 for gate/up pairs.
    pub gate_up: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of storage in use.
    pub storage_size: usize,
}

zeroed_default!(nvfp4_weights_prepare_args, nvfp4_weights_export_args, nvfp4_weights_info);

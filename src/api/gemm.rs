//! `nvfp4_grouped_gemm` and its one-group form `nvfp4_gemm`.
#![allow(non_camel_case_types)]

use super::types::*;

/// Flags of a product.
pub type nvfp4_gemm_flags = u32;
/// out = round(v + old out); value outputs without an activation.
pub const NVFP4_GEMM_ACCUMULATE: nvfp4_gemm_flags = 1;
/// A row's bits depend on its own values and its group's weights alone.
pub const NVFP4_GEMM_BATCH_INVARIANT: nvfp4_gemm_flags = 2;

/// Arguments of nvfp4_grouped_gemm and nvfp4_gemm: out = epilogue((a * weights^T) * decode scales + bias).
///
/// FP32 accumulation of exact products; the bound is in docs/numerics.md. Deterministic. On the CPU every product is
/// batch-invariant, with or without the flag.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_grouped_gemm_args {
    /// sizeof(nvfp4_grouped_gemm_args).
    pub struct_size: usize,
    /// Prepared weights [E, N, K] of the same context.
    pub weights: *const super::handles::nvfp4_weights,
    /// Rows of a over all groups, 0 or more.
    pub rows: i64,
    /// The split of rows, count = E. All zero where E is 1.
    pub groups: nvfp4_groups,
    /// Activations [rows, K], 16-byte aligned: BF16 or F16 values. NULL when a_dtype is NVFP4.
    pub a: *const core::ffi::c_void,
    /// BF16, F16, or NVFP4 (a_quantized).
    pub a_dtype: nvfp4_dtype,
    /// Scope of a_decode_scales.
    pub a_scope: nvfp4_scope,
    /// Elements between rows of a; 0: K.
    pub a_row_stride: i64,
    /// NVFP4_GROUPING_STRIDED: elements between groups of a, or bytes between groups of a_quantized.codes.
    /// 0: every group multiplies the same max_tokens rows (their scales and decode scales are shared as well).
    pub a_group_stride: i64,
    /// Value activations: float array by a_scope that multiplies the product; NULL: 1.
    pub a_decode_scales: *const f32,
    /// NVFP4 activations; all zero otherwise.
    pub a_quantized: nvfp4_quantized_input,
    /// [E, N] added to the scaled product, 16-byte aligned, in the row order of the canonical weights; NULL: none.
    pub bias: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub bias_dtype: nvfp4_dtype,
    /// NONE, SWIGLU (weights prepared with gate_up; N/2 output columns) or RELU2.
    pub activation: nvfp4_activation,
    /// SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none.
    pub limit: f32,
    /// SWIGLU: factor inside the sigmoid; default 0 means 1.
    pub alpha: f32,
    /// SWIGLU: added to up; default 0.
    pub beta: f32,
    /// NVFP4_GEMM_* or'ed.
    pub flags: nvfp4_gemm_flags,
    /// [rows, output columns] values by logical row, written; 16-byte aligned. NULL when out_dtype is NVFP4.
    pub out: *mut core::ffi::c_void,
    /// BF16, F16, F32, or NVFP4 (out_quantized).
    pub out_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
    /// Elements between rows of out; 0: dense.
    pub out_row_stride: i64,
    /// NVFP4_GROUPING_STRIDED: elements between groups of out.
    pub out_group_stride: i64,
    /// NVFP4 output: output columns a multiple of 16; static scales of any scope, or dynamic per ROW. All zero otherwise.
    pub out_quantized: nvfp4_quantized,
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_grouped_gemm_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

/// Arguments of nvfp4_gemm: those of the grouped product with groups all zero and weights of one group.
pub type nvfp4_gemm_args = nvfp4_grouped_gemm_args;

zeroed_default!(nvfp4_grouped_gemm_args);

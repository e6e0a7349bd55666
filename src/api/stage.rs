//! `nvfp4_stage_moe_inputs`: tokens quantized, scales packed, routes copied, in one pass.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_stage_moe_inputs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_stage_moe_inputs_args {
    /// sizeof(nvfp4_stage_moe_inputs_args).
    pub struct_size: usize,
    /// [tokens, hidden] values, 16-byte aligned.
    pub src: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// One of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// Elements between rows of src; 0: dense.
    pub src_row_stride: i64,
    /// Rows, 0 or more.
    pub tokens: i64,
    /// Values a row, a positive multiple of 64.
    pub hidden: i64,
    /// float[1]: decode scale of all tokens; NULL: 1.
    pub static_decode_scale: *const f32,
    /// [tokens, hidden/2] bytes, dense, 16-byte aligned.
    pub codes: *mut u8,
    /// int32[tokens, hidden/64], dense: four E4M3 scales each, lowest byte first; 16-byte aligned.
    pub packed_scales: *mut i32,
    /// Experts per token, 0 to 64; 0: no routes.
    pub routes: u32,
    /// Must be 0.
    pub reserved: u32,
    /// int32[tokens, routes], 4-byte aligned.
    pub topk_ids: *const i32,
    /// float[tokens, routes], 4-byte aligned.
    pub topk_weights: *const f32,
    /// int64[tokens, routes]: topk_ids widened, 8-byte aligned.
    pub staged_ids: *mut i64,
    /// float[tokens, routes]: copy of topk_weights, 4-byte aligned.
    pub staged_weights: *mut f32,
}

zeroed_default!(nvfp4_stage_moe_inputs_args);

//! `nvfp4_moe_combine`: the rows of the experts → tokens.
#![allow(non_camel_case_types)]

use super::super::check::{self, Regions};
use super::super::context::Context;
use super::super::operand;
use super::super::stream::Stream;
use super::super::types::*;
use crate::error::Result;
use crate::plan::Job;
use crate::plan::moe::CombineProblem;

/// Arguments of nvfp4_moe_combine: out = round((sum over slots j of weight_j * y_j) * scaling + shared).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_moe_combine_args {
    /// sizeof(nvfp4_moe_combine_args).
    pub struct_size: usize,
    /// Rows of out, 0 or more; tokens * topk may not pass 2^31 - 1.
    pub tokens: i64,
    /// N: values a row, 1 or more.
    pub cols: i64,
    /// k: slots a token, 1 to 32.
    pub topk: u32,
    /// BF16, F16 or F32.
    pub y_dtype: nvfp4_dtype,
    /// Rows of y, 0 or more; tokens * topk where nvfp4_moe_permute ordered them.
    pub rows: i64,
    /// [rows, cols] values in expert order, 16-byte aligned.
    pub y: *const core::ffi::c_void,
    /// Elements between rows of y; 0: dense.
    pub y_row_stride: i64,
    /// int32[tokens, topk], 4-byte aligned: the row of each slot. -1 contributes nothing; nor does what is no row, which
    /// sets NVFP4_FAULT_BAD_GROUP.
    pub inverse: *const i32,
    /// float[tokens, topk], 4-byte aligned. Not read where inverse is -1.
    pub topk_weights: *const f32,
    /// [tokens, cols] values, added last, 16-byte aligned (a shared expert, a residual); NULL: none.
    pub shared: *const core::ffi::c_void,
    /// Elements between rows of shared; 0: dense.
    pub shared_row_stride: i64,
    /// BF16, F16 or F32.
    pub shared_dtype: nvfp4_dtype,
    /// Multiplies the sum before shared is added; default 0 means 1.
    pub scaling: f32,
    /// [tokens, cols] values, written, 16-byte aligned.
    pub out: *mut core::ffi::c_void,
    /// Elements between rows of out; 0: dense.
    pub out_row_stride: i64,
    /// BF16, F16 or F32.
    pub out_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
}

zeroed_default!(nvfp4_moe_combine_args);

/// Adds up the experts of each token.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn combine(context: &Context, args: &nvfp4_moe_combine_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Combine(problem), None, None) }
}

pub(in crate::api) fn plan(args: &nvfp4_moe_combine_args, mut regions: Regions) -> Result<CombineProblem> {
    let regions = &mut regions;
    check::reserved("reserved", args.reserved)?;
    let (tokens, topk, slots) = super::slots(args.tokens, args.topk)?;
    let cols = check::count("cols", args.cols, 1, i64::MAX)?;
    let rows = check::count("rows", args.rows, 0, i32::MAX as i64)?;
    let y_dtype = check::float_dtype("y_dtype", args.y_dtype)?;
    let y =
        operand::read_rows(("y", "y_row_stride"), args.y, y_dtype, args.y_row_stride, rows, cols, regions)?;
    let inverse = regions.read_array("inverse", args.inverse, slots)?;
    let weights = regions.read_array("topk_weights", args.topk_weights, slots)?;
    let shared =
        super::shared(args.shared, args.shared_dtype, args.shared_row_stride, tokens, cols, regions)?;
    let scaling = super::scaling("scaling", args.scaling)?;
    let out = super::out(args.out, args.out_dtype, args.out_row_stride, tokens, cols, regions)?;
    regions.check_overlap()?;
    Ok(CombineProblem {
        tokens,
        topk,
        cols,
        rows,
        y,
        inverse,
        weights,
        scaling,
        shared,
        out,
        in_layer: false,
    })
}

//! `nvfp4_dequantize`: NVFP4 → values.
#![allow(non_camel_case_types)]

use super::check::{self, MATRIX, Regions};
use super::context::Context;
use super::operand;
use super::stream::Stream;
use super::types::*;
use crate::error::Result;
use crate::plan::Job;
use crate::plan::dequantize::DequantizeProblem;
use crate::plan::memory::Matrix;

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
    /// Elements between groups of dst; NVFP4_GROUPING_STRIDED only, no default: the rows of two groups may not meet.
    pub dst_group_stride: i64,
}

zeroed_default!(nvfp4_dequantize_args);

/// Writes the values of NVFP4 rows.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn dequantize(context: &Context, args: &nvfp4_dequantize_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Dequantize(problem), None, None) }
}

pub(super) fn plan(args: &nvfp4_dequantize_args, mut regions: Regions) -> Result<DequantizeProblem> {
    check::reserved("reserved", args.reserved)?;
    let dtype = check::float_dtype("dst_dtype", args.dst_dtype)?;
    let cols = check::cols("cols", args.cols)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    let input = operand::quantized_input(&args.input, &groups, cols, &mut regions)?;
    let row_stride = check::stride("dst_row_stride", args.dst_row_stride, cols)?;
    let group_stride =
        check::write_group_stride("dst_group_stride", args.dst_group_stride, &groups, row_stride, cols)?;
    let bytes = check::grouped_extent("dst", &groups, row_stride, group_stride, cols, dtype.bytes())?;
    let base = regions.write("dst", args.dst.cast::<u8>(), bytes, MATRIX)?;
    regions.check_overlap()?;
    Ok(DequantizeProblem { groups, cols, input, dst: Matrix { base, dtype, row_stride, group_stride } })
}

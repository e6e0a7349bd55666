//! `nvfp4_quantize` and `nvfp4_amax_scale`: values → NVFP4, or only its decode scales.
#![allow(non_camel_case_types)]

use super::check::{self, MATRIX, Regions};
use super::context::Context;
use super::operand;
use super::stream::Stream;
use super::types::*;
use crate::error::{Error, Result};
use crate::format::dtype::Dtype;
use crate::plan::Job;
use crate::plan::groups::Groups;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{Producer, QuantizeProblem};

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
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_quantize_workspace_size says 0.
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
    /// Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix.
    pub src_group_stride: i64,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// Values a row, a positive multiple of 16.
    pub cols: i64,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
    /// Float array by scope in device memory, written: amax / 2688.
    pub decode_scales: *mut f32,
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_amax_scale_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_quantize_args, nvfp4_amax_scale_args);

/// Quantizes rows of values, or of a stored transpose.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn quantize(context: &Context, args: &nvfp4_quantize_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Quantize(problem), None, None) }
}

/// Bytes of workspace that [`quantize`] needs: none on the CPU.
pub fn quantize_workspace_size(context: &Context, args: &nvfp4_quantize_args) -> Result<usize> {
    context.check_process()?;
    plan(args, Regions::of_shapes()).map(|_| 0)
}

/// Finds decode scales without quantizing.
///
/// # Safety
/// As [`quantize`].
pub unsafe fn amax_scale(context: &Context, args: &nvfp4_amax_scale_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan_amax(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Quantize(problem), None, None) }
}

/// Bytes of workspace that [`amax_scale`] needs: none on the CPU.
pub fn amax_scale_workspace_size(context: &Context, args: &nvfp4_amax_scale_args) -> Result<usize> {
    context.check_process()?;
    plan_amax(args, Regions::of_shapes()).map(|_| 0)
}

pub(super) fn plan(args: &nvfp4_quantize_args, mut regions: Regions) -> Result<QuantizeProblem> {
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let cols = check::cols("cols", args.cols)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    let producer = if check::flag("transposed", args.transposed)? {
        Producer::Transposed { src: transposed(args, dtype, &groups, cols, &mut regions)? }
    } else {
        Producer::Plain {
            src: source(
                args.src,
                dtype,
                args.src_row_stride,
                args.src_group_stride,
                &groups,
                cols,
                &mut regions,
            )?,
        }
    };
    let out = operand::quantized(&args.out, &operand::OUT, &groups, cols, &mut regions)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, 0)?;
    regions.check_overlap()?;
    Ok(QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None })
}

pub(super) fn plan_amax(args: &nvfp4_amax_scale_args, mut regions: Regions) -> Result<QuantizeProblem> {
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let cols = check::cols("cols", args.cols)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    let scope = check::scope("scope", args.scope, &groups)?;
    let src =
        source(args.src, dtype, args.src_row_stride, args.src_group_stride, &groups, cols, &mut regions)?;
    let entries = check::scope_entries(scope, &groups);
    let decode = regions.write_array("decode_scales", args.decode_scales, entries)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, 0)?;
    regions.check_overlap()?;
    let producer = Producer::Plain { src };
    Ok(QuantizeProblem { groups, cols, producer, activated: None, out: None, amax: Some((scope, decode)) })
}

/// `src` of an operation: rows of `cols` values in any grouping.
pub(super) fn source(
    p: *const core::ffi::c_void,
    dtype: Dtype,
    row_stride: i64,
    group_stride: i64,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<Matrix> {
    let row_stride = check::stride("src_row_stride", row_stride, cols)?;
    let group_stride = check::read_group_stride("src_group_stride", group_stride, groups)?;
    let bytes = check::grouped_extent("src", groups, row_stride, group_stride, cols, dtype.bytes())?;
    let base = regions.read("src", p.cast::<u8>(), bytes, MATRIX)?;
    Ok(Matrix { base, dtype, row_stride, group_stride })
}

/// `src` stored [K, N]: its rows are the call's columns.
fn transposed(
    args: &nvfp4_quantize_args,
    dtype: Dtype,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<Matrix> {
    let (stored, width) = match *groups {
        Groups::None { rows } => (Groups::None { rows: cols }, rows),
        Groups::Strided { count, rows } => (Groups::Strided { count, rows: cols }, rows),
        _ => {
            return Err(Error::Conflict {
                argument: "transposed",
                problem: "needs NVFP4_GROUPING_NONE or _STRIDED; weights have no ends or counts".into(),
            });
        }
    };
    let row_stride = check::stride("src_row_stride", args.src_row_stride, width)?;
    let group_stride = check::read_group_stride("src_group_stride", args.src_group_stride, groups)?;
    let bytes = check::grouped_extent("src", &stored, row_stride, group_stride, width, dtype.bytes())?;
    let base = regions.read("src", args.src.cast::<u8>(), bytes, MATRIX)?;
    Ok(Matrix { base, dtype, row_stride, group_stride })
}

//! `nvfp4_rmsnorm_quantize` and `nvfp4_hc_rmsnorm_quantize`: RMSNorm and quantize in one pass.
#![allow(non_camel_case_types)]

use super::check::{self, Regions};
use super::context::Context;
use super::operand;
use super::stream::Stream;
use super::types::*;
use crate::error::Result;
use crate::format::dtype::Dtype;
use crate::plan::Job;
use crate::plan::groups::Groups;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{HyperConnection, Norm, NormInput, Producer, QuantizeProblem};

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
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_rmsnorm_quantize_workspace_size says 0.
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
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_hc_rmsnorm_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_rmsnorm_quantize_args, nvfp4_hc_rmsnorm_quantize_args);

/// Two structs, and the same fields at the end of both.
macro_rules! tail {
    ($args:ident) => {
        Tail {
            weight: $args.weight,
            weight_dtype: $args.weight_dtype,
            weight_offset: $args.weight_offset,
            eps: $args.eps,
            normed: $args.normed,
            normed_row_stride: $args.normed_row_stride,
            inv_rms: $args.inv_rms,
            out: &$args.out,
            workspace: ($args.workspace, $args.workspace_size),
        }
    };
}

/// Streams a hyper-connection may mix.
const MAX_STREAMS: i64 = 4;

/// Normalises rows and quantizes them.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn rmsnorm_quantize(
    context: &Context,
    args: &nvfp4_rmsnorm_quantize_args,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Quantize(problem), None, None) }
}

/// Bytes of workspace that [`rmsnorm_quantize`] needs: none on the CPU.
pub fn rmsnorm_quantize_workspace_size(
    context: &Context,
    args: &nvfp4_rmsnorm_quantize_args,
) -> Result<usize> {
    context.check_process()?;
    plan(args, Regions::of_shapes()).map(|_| 0)
}

/// Mixes streams, normalises and quantizes.
///
/// # Safety
/// As [`rmsnorm_quantize`].
pub unsafe fn hc_rmsnorm_quantize(
    context: &Context,
    args: &nvfp4_hc_rmsnorm_quantize_args,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let problem = plan_hc(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Quantize(problem), None, None) }
}

/// Bytes of workspace that [`hc_rmsnorm_quantize`] needs: none on the CPU.
pub fn hc_rmsnorm_quantize_workspace_size(
    context: &Context,
    args: &nvfp4_hc_rmsnorm_quantize_args,
) -> Result<usize> {
    context.check_process()?;
    plan_hc(args, Regions::of_shapes()).map(|_| 0)
}

pub(super) fn plan(args: &nvfp4_rmsnorm_quantize_args, mut regions: Regions) -> Result<QuantizeProblem> {
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let cols = check::cols("cols", args.cols)?;
    let rows = check::count("rows", args.rows, 0, i64::MAX)?;
    let src_names = ("src", "src_row_stride");
    let src = operand::read_rows(src_names, args.src, dtype, args.src_row_stride, rows, cols, &mut regions)?;
    let residual = operand::write_rows(
        ("residual", "residual_row_stride"),
        args.residual,
        dtype,
        args.residual_row_stride,
        rows,
        cols,
        &mut regions,
    )?;
    finish(NormInput::Rows { src, residual }, &tail!(args), dtype, rows, cols, regions)
}

pub(super) fn plan_hc(
    args: &nvfp4_hc_rmsnorm_quantize_args,
    mut regions: Regions,
) -> Result<QuantizeProblem> {
    check::reserved("reserved", args.reserved)?;
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let cols = check::cols("cols", args.cols)?;
    let rows = check::count("rows", args.rows, 0, i64::MAX)?;
    let count = check::count("stream_count", args.stream_count as i64, 1, MAX_STREAMS)?;
    let stream_stride = check::stride("stream_stride", args.stream_stride, cols)?;
    let token = check::extent("streams", count, stream_stride, cols, 1)?.bytes;
    let row_stride = check::stride("streams_row_stride", args.streams_row_stride, token)?;
    let bytes = check::extent("streams", rows, row_stride, token, dtype.bytes())?;
    let base = regions.read("streams", args.streams.cast::<u8>(), bytes, check::MATRIX)?;
    let mix_row_stride = check::stride("mix_row_stride", args.mix_row_stride, count)?;
    let bytes = check::extent("mix", rows, mix_row_stride, count, size_of::<f32>())?;
    let mix = regions.read("mix", args.mix, bytes, align_of::<f32>())?;
    let mixed = operand::write_rows(
        ("mixed", "mixed_row_stride"),
        args.mixed,
        dtype,
        args.mixed_row_stride,
        rows,
        cols,
        &mut regions,
    )?;
    let streams = Matrix { base, dtype, row_stride, group_stride: 0 };
    let input =
        NormInput::Hyper(HyperConnection { streams, stream_stride, count, mix, mix_row_stride, mixed });
    finish(input, &tail!(args), dtype, rows, cols, regions)
}

/// The arguments that both norms share.
struct Tail<'a> {
    weight: *const core::ffi::c_void,
    weight_dtype: nvfp4_dtype,
    weight_offset: f32,
    eps: f32,
    normed: *mut core::ffi::c_void,
    normed_row_stride: i64,
    inv_rms: *mut f32,
    out: &'a nvfp4_quantized,
    workspace: (*mut core::ffi::c_void, usize),
}

fn finish(
    input: NormInput,
    tail: &Tail,
    dtype: Dtype,
    rows: usize,
    cols: usize,
    mut regions: Regions,
) -> Result<QuantizeProblem> {
    let groups = Groups::None { rows };
    let weight_dtype = check::float_dtype("weight_dtype", tail.weight_dtype)?;
    let weight = operand::read_vector("weight", tail.weight, weight_dtype, cols, &mut regions)?;
    let normed = operand::write_rows(
        ("normed", "normed_row_stride"),
        tail.normed,
        dtype,
        tail.normed_row_stride,
        rows,
        cols,
        &mut regions,
    )?;
    let inv_rms = match tail.inv_rms.is_null() {
        true => None,
        false => Some(regions.write_array("inv_rms", tail.inv_rms, rows)?),
    };
    let weight_offset = check::finite("weight_offset", tail.weight_offset)?;
    let norm = Norm { weight, weight_offset, eps: check::eps(tail.eps)?, normed, inv_rms };
    let out = operand::quantized(tail.out, &operand::OUT, &groups, cols, &mut regions)?;
    check::workspace(&mut regions, tail.workspace.0, tail.workspace.1, 0)?;
    regions.check_overlap()?;
    let producer = Producer::Norm { input, norm };
    Ok(QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None })
}

//! `nvfp4_swiglu_quantize`: activation (or only the de-interleaving) and quantize in one pass.
#![allow(non_camel_case_types)]

use super::check::{self, Regions};
use super::context::Context;
use super::operand;
use super::quantize::source;
use super::stream::Stream;
use super::types::*;
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::plan::quantize::{GatedActivation, Producer, QuantizeProblem};

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
    /// Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix.
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
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_swiglu_quantize_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_swiglu_quantize_args);

/// Columns of gate, then of up, in the interleaved form.
const INTERLEAVE: u32 = 8;

/// Applies the activation and quantizes.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn swiglu_quantize(
    context: &Context,
    args: &nvfp4_swiglu_quantize_args,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Quantize(problem), None, None) }
}

/// Bytes of workspace that [`swiglu_quantize`] needs: none on the CPU.
pub fn swiglu_quantize_workspace_size(context: &Context, args: &nvfp4_swiglu_quantize_args) -> Result<usize> {
    context.check_process()?;
    plan(args, Regions::of_shapes()).map(|_| 0)
}

pub(super) fn plan(args: &nvfp4_swiglu_quantize_args, mut regions: Regions) -> Result<QuantizeProblem> {
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let width = check::count("width", args.width, 1, i64::MAX / 4)?;
    let interleaved = match args.interleave {
        0 => false,
        INTERLEAVE => true,
        value => return Err(Error::UnknownValue { argument: "interleave", value, known: "0, 8" }),
    };
    let swiglu = check::swiglu(args.limit, args.alpha, args.beta)?;
    let (activation, src_cols, cols) = match args.activation {
        NVFP4_ACTIVATION_SWIGLU => (GatedActivation::SwiGlu(swiglu), 2 * width, width),
        NVFP4_ACTIVATION_RELU2 => (GatedActivation::Relu2, width, width),
        NVFP4_ACTIVATION_NONE => (GatedActivation::Identity, 2 * width, 2 * width),
        value => {
            let known = "NVFP4_ACTIVATION_NONE (0), _SWIGLU (1), _RELU2 (2)";
            return Err(Error::UnknownValue { argument: "activation", value, known });
        }
    };
    if interleaved {
        if activation == GatedActivation::Relu2 {
            return Err(Error::Conflict {
                argument: "interleave",
                problem: "8, but NVFP4_ACTIVATION_RELU2 has no gate to interleave; pass 0".into(),
            });
        }
        check::multiple("width", width as i64, INTERLEAVE as i64)?;
    }
    let per_block = if cols > width { 8 } else { 16 };
    check::multiple("width", width as i64, per_block)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    let (row_stride, group_stride) = (args.src_row_stride, args.src_group_stride);
    let src = source(args.src, dtype, row_stride, group_stride, &groups, src_cols, &mut regions)?;
    let activated = operand::write_rows(
        ("activated", "activated_row_stride"),
        args.activated,
        dtype,
        args.activated_row_stride,
        groups.total_rows(),
        cols,
        &mut regions,
    )?;
    let out = operand::quantized(&args.out, &operand::OUT, &groups, cols, &mut regions)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, 0)?;
    regions.check_overlap()?;
    let producer = Producer::Gated { src, interleaved, activation };
    Ok(QuantizeProblem { groups, cols, producer, activated, out: Some(out), amax: None })
}

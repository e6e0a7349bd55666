//! `nvfp4_stage_moe_inputs`: tokens quantized, scales packed, routes copied, in one pass.
#![allow(non_camel_case_types)]

use super::check::{self, MATRIX, Regions};
use super::context::Context;
use super::operand;
use super::stream::Stream;
use super::types::*;
use crate::error::{Error, Result};
use crate::format::layout::ScaleLayout;
use crate::plan::Job;
use crate::plan::groups::Groups;
use crate::plan::memory::Ptr;
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope, StageProblem};

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

/// Four scales make an int32.
const HIDDEN_MULTIPLE: i64 = 64;
const MAX_ROUTES: i64 = 64;

/// Quantizes tokens for expert kernels and copies their routes.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn stage_moe_inputs(
    context: &Context,
    args: &nvfp4_stage_moe_inputs_args,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Stage(problem), None, None) }
}

pub(super) fn plan(args: &nvfp4_stage_moe_inputs_args, mut regions: Regions) -> Result<StageProblem> {
    check::reserved("reserved", args.reserved)?;
    let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
    let rule = check::scale_rule("scale_rule", args.scale_rule)?;
    let cols = check::multiple("hidden", args.hidden, HIDDEN_MULTIPLE)?;
    let rows = check::count("tokens", args.tokens, 0, i64::MAX)?;
    let per_token = check::count("routes", args.routes as i64, 0, MAX_ROUTES)?;
    let names = ("src", "src_row_stride");
    let src = operand::read_rows(names, args.src, dtype, args.src_row_stride, rows, cols, &mut regions)?;
    let bytes = check::extent("codes", rows, cols / 2, cols / 2, 1)?;
    let codes = regions.write("codes", args.codes, bytes, MATRIX)?;
    let bytes = check::extent("packed_scales", rows, cols / 16, cols / 16, 1)?;
    let scales = regions.write("packed_scales", args.packed_scales.cast::<u8>(), bytes, MATRIX)?;
    let decode = match args.static_decode_scale.is_null() {
        true => Ptr::NULL,
        false => regions.read_array("static_decode_scale", args.static_decode_scale, 1)?,
    };
    let routes = rows.checked_mul(per_token).ok_or(Error::TooLarge { argument: "topk_ids" })?;
    let ids_in = regions.read_array("topk_ids", args.topk_ids, routes)?;
    let weights_in = regions.read_array("topk_weights", args.topk_weights, routes)?;
    let ids_out = regions.write_array("staged_ids", args.staged_ids, routes)?;
    let weights_out = regions.write_array("staged_weights", args.staged_weights, routes)?;
    regions.check_overlap()?;
    let out = QuantOut {
        codes,
        codes_row_stride: cols / 2,
        scales: Scales { base: scales, layout: ScaleLayout::Linear, row_stride: cols / 16 },
        rule,
        scope: Scope::Tensor,
        decode: DecodeScales::Static(decode),
    };
    let groups = Groups::None { rows };
    let producer = Producer::Plain { src };
    let quantize = QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None };
    Ok(StageProblem { quantize, routes, ids_in, ids_out, weights_in, weights_out })
}

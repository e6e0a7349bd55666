//! `nvfp4_moe_route`: logits → the experts of each token and their weights.
#![allow(non_camel_case_types)]

use super::super::check::{self, Regions};
use super::super::context::Context;
use super::super::operand;
use super::super::stream::Stream;
use super::super::types::*;
use crate::error::{Error, Result};
use crate::format::route::Score;
use crate::plan::Job;
use crate::plan::memory::Ptr;
use crate::plan::moe::{RouteProblem, Router};

/// How a router turns logits into scores.
pub type nvfp4_moe_score = u32;
/// exp(l - max) / sum over all experts.
pub const NVFP4_MOE_SCORE_SOFTMAX: nvfp4_moe_score = 0;
/// 1 / (1 + exp(-l)).
pub const NVFP4_MOE_SCORE_SIGMOID: nvfp4_moe_score = 1;
/// sqrt(log(1 + exp(l))).
pub const NVFP4_MOE_SCORE_SQRT_SOFTPLUS: nvfp4_moe_score = 2;

/// What a router does with the logits. All zero: softmax over all experts, weights as they are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_moe_router {
    /// One of NVFP4_MOE_SCORE_*.
    pub score: nvfp4_moe_score,
    /// 1: weights are divided by their sum, in slot order.
    pub renormalise: u32,
    /// Experts are split into this many groups of equal size, of which only the best are eligible; 0 or 1: none.
    pub groups: u32,
    /// Groups that stay eligible: those with the largest sum of their two largest selection scores. 0 with no groups.
    pub top_groups: u32,
    /// float[experts] in device memory, 4-byte aligned, added to the scores for selection only; NULL: none.
    pub bias: *const f32,
    /// Multiplies the weights in the end; default 0 means 1.
    pub scaling: f32,
    /// Must be 0.
    pub reserved: u32,
}

/// Arguments of nvfp4_moe_route.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_moe_route_args {
    /// sizeof(nvfp4_moe_route_args).
    pub struct_size: usize,
    /// [tokens, experts] values, 16-byte aligned.
    pub logits: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub logits_dtype: nvfp4_dtype,
    /// k: experts a token, 1 to 32, and no more than are eligible.
    pub topk: u32,
    /// Elements between rows of logits; 0: experts.
    pub logits_row_stride: i64,
    /// Rows, 0 or more.
    pub tokens: i64,
    /// E: 1 to 1024.
    pub experts: i64,
    /// Scores, selection, weights.
    pub router: nvfp4_moe_router,
    /// uint8[tokens] in device memory, 0 for tokens that are sent nowhere (padding): their ids are -1, their weights 0.
    /// NULL: none.
    pub token_mask: *const u8,
    /// int32[tokens, topk], written, 4-byte aligned: the largest selection score first, ties to the lower id.
    pub topk_ids: *mut i32,
    /// float[tokens, topk], written, 4-byte aligned: the scores of those experts, renormalised and scaled.
    pub topk_weights: *mut f32,
}

zeroed_default!(nvfp4_moe_router, nvfp4_moe_route_args);

/// Routes tokens to experts.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn route(context: &Context, args: &nvfp4_moe_route_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Route(problem), None, None) }
}

pub(in crate::api) fn plan(args: &nvfp4_moe_route_args, mut regions: Regions) -> Result<RouteProblem> {
    let (tokens, topk, slots) = super::slots(args.tokens, args.topk)?;
    let experts = super::experts(args.experts, 1)?;
    let dtype = check::float_dtype("logits_dtype", args.logits_dtype)?;
    let names = ("logits", "logits_row_stride");
    let logits =
        operand::read_rows(names, args.logits, dtype, args.logits_row_stride, tokens, experts, &mut regions)?;
    let router = router(&args.router, experts, topk, &mut regions)?;
    let mask = mask(args.token_mask, tokens, &mut regions)?;
    let ids = regions.write_array("topk_ids", args.topk_ids, slots)?;
    let weights = regions.write_array("topk_weights", args.topk_weights, slots)?;
    regions.check_overlap()?;
    Ok(RouteProblem { tokens, experts, topk, logits, router, mask, ids, weights })
}

/// A router for `experts` experts that selects `topk` of them.
pub(super) fn router(
    r: &nvfp4_moe_router,
    experts: usize,
    topk: usize,
    regions: &mut Regions,
) -> Result<Router> {
    check::reserved("router.reserved", r.reserved)?;
    let score = match r.score {
        NVFP4_MOE_SCORE_SOFTMAX => Score::Softmax,
        NVFP4_MOE_SCORE_SIGMOID => Score::Sigmoid,
        NVFP4_MOE_SCORE_SQRT_SOFTPLUS => Score::SqrtSoftplus,
        value => {
            let known = "NVFP4_MOE_SCORE_SOFTMAX (0), _SIGMOID (1), _SQRT_SOFTPLUS (2)";
            return Err(Error::UnknownValue { argument: "router.score", value, known });
        }
    };
    let renormalise = check::flag("router.renormalise", r.renormalise)?;
    let groups = check::count("router.groups", r.groups as i64, 0, experts as i64)?.max(1);
    if !experts.is_multiple_of(groups) {
        return Err(Error::Mismatch {
            argument: "router.groups",
            value: groups.to_string(),
            expected: format!("a divisor of the {experts} experts"),
        });
    }
    let top_groups = match groups {
        1 => check::count("router.top_groups", r.top_groups as i64, 0, 1)?.max(1),
        _ => check::count("router.top_groups", r.top_groups as i64, 1, groups as i64)?,
    };
    let eligible = experts / groups * top_groups;
    if topk > eligible {
        let range = format!("at most the {eligible} experts that are eligible");
        return Err(Error::OutOfRange { argument: "topk", value: topk.to_string(), range });
    }
    let bias = match r.bias.is_null() {
        true => Ptr::NULL,
        false => regions.read_array("router.bias", r.bias, experts)?,
    };
    Ok(Router {
        score,
        bias,
        renormalise,
        scaling: super::scaling("router.scaling", r.scaling)?,
        groups,
        top_groups,
    })
}

/// The tokens that are sent somewhere.
pub(super) fn mask(p: *const u8, tokens: usize, regions: &mut Regions) -> Result<Ptr<u8>> {
    if p.is_null() { Ok(Ptr::NULL) } else { regions.read_array("token_mask", p, tokens) }
}

//! `nvfp4_moe_forward`: hidden states and logits, or routes → the output of a whole mixture-of-experts layer.
#![allow(non_camel_case_types)]

use core::ffi::c_void;

use super::super::check::{self, Regions};
use super::super::context::Context;
use super::super::gemm::nvfp4_gemm_flags;
use super::super::handles::nvfp4_weights;
use super::super::stream::Stream;
use super::super::types::*;
use super::super::weights::Weights;
use super::route::nvfp4_moe_router;
use super::steps::plan;
use crate::error::Result;
use crate::plan::Job;

/// Arguments of nvfp4_moe_forward. E below is the number of local experts: the groups of w1 and w2.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_moe_forward_args {
    /// sizeof(nvfp4_moe_forward_args).
    pub struct_size: usize,
    /// Prepared weights [E, 2 * I, K] with gate_up for SWIGLU, or plain [E, I, K].
    pub w1: *const nvfp4_weights,
    /// Prepared weights [E, N, I], plain.
    pub w2: *const nvfp4_weights,
    /// Rows, 0 or more; tokens * topk may not pass 2^31 - 1.
    pub tokens: i64,
    /// All experts, of which w1 and w2 hold those from first_expert on; 0: no others. At most 1024.
    pub experts: i64,
    /// The first local expert.
    pub first_expert: i64,
    /// [tokens, K] values, 16-byte aligned; NULL when hidden_dtype is NVFP4.
    pub hidden: *const c_void,
    /// BF16 or F16; F32 where quantize is 1; or NVFP4 (hidden_quantized, quantize 1).
    pub hidden_dtype: nvfp4_dtype,
    /// 1: both products take NVFP4 activations; 0: they take values, BF16 or F16 as hidden's, which is more accurate.
    pub quantize: u32,
    /// Elements between rows of hidden; 0: dense.
    pub hidden_row_stride: i64,
    /// NVFP4 tokens, in scope TENSOR or ROW; all zero otherwise.
    pub hidden_quantized: nvfp4_quantized_input,
    /// [tokens, experts] values, 16-byte aligned, routed as nvfp4_moe_route does; NULL: topk_ids and topk_weights are given.
    pub logits: *const c_void,
    /// BF16, F16 or F32.
    pub logits_dtype: nvfp4_dtype,
    /// k: experts a token, 1 to 32.
    pub topk: u32,
    /// Elements between rows of logits; 0: experts.
    pub logits_row_stride: i64,
    /// With logits: what the router does; all zero otherwise.
    pub router: nvfp4_moe_router,
    /// With logits: uint8[tokens], 0 for tokens that are sent nowhere; NULL: none.
    pub token_mask: *const u8,
    /// Without logits: int32[tokens, topk], 4-byte aligned; -1 is skipped, and so are other processes' experts.
    pub topk_ids: *const i32,
    /// Without logits: float[tokens, topk], 4-byte aligned.
    pub topk_weights: *const f32,
    /// [E, rows of w1] added to the first product, in the row order of the canonical weights, 16-byte aligned; NULL: none.
    pub bias1: *const c_void,
    /// [E, N] added to the second product, 16-byte aligned; NULL: none.
    pub bias2: *const c_void,
    /// Of both: BF16, F16 or F32.
    pub bias_dtype: nvfp4_dtype,
    /// Behind the first product: SWIGLU, RELU2 or NONE.
    pub activation: nvfp4_activation,
    /// SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none.
    pub limit: f32,
    /// SWIGLU: factor inside the sigmoid; default 0 means 1.
    pub alpha: f32,
    /// SWIGLU: added to up; default 0.
    pub beta: f32,
    /// NVFP4_GEMM_* or'ed: _BATCH_INVARIANT, a token's bits depend on its own values alone (with scales that are static, per
    /// row); _DEPENDENT_LAUNCH, the layer's first launch may start before the work in front has ended, and waits for it.
    pub flags: nvfp4_gemm_flags,
    /// quantize 1: one of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// Of static_input_scales and static_intermediate_scales: TENSOR (one float) or GROUP (one a local expert).
    pub static_scope: nvfp4_scope,
    /// quantize 1: float array in device memory, decode scales of the first product's input; NULL: dynamic, per row.
    pub static_input_scales: *const f32,
    /// quantize 1: float array in device memory, decode scales of the second product's input; NULL: dynamic, per row.
    pub static_intermediate_scales: *const f32,
    /// [tokens, N] values, added last, 16-byte aligned (a shared expert, a residual); NULL: none.
    pub shared: *const c_void,
    /// Elements between rows of shared; 0: dense.
    pub shared_row_stride: i64,
    /// BF16, F16 or F32.
    pub shared_dtype: nvfp4_dtype,
    /// Multiplies a token's sum before shared is added; default 0 means 1.
    pub scaling: f32,
    /// [tokens, N] values, written, 16-byte aligned.
    pub out: *mut c_void,
    /// Elements between rows of out; 0: dense.
    pub out_row_stride: i64,
    /// BF16, F16 or F32.
    pub out_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
    /// Scratch in device memory, 64-byte aligned.
    pub workspace: *mut c_void,
    /// Its bytes, at least what nvfp4_moe_forward_workspace_size says.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_moe_forward_args);

/// Carries out a whole layer.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn forward(
    context: &Context,
    args: &nvfp4_moe_forward_args,
    w1: &Weights,
    w2: &Weights,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let mut regions = Regions::default();
    let (steps, needed) = plan(context, args, w1, w2, &mut regions)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, needed)?;
    regions.check_overlap()?;
    // SAFETY: the caller's promise, for all of them.
    unsafe {
        stream.submit(Job::Dispatch(steps.dispatch), None, None)?;
        stream.submit(Job::ChainedGemm(steps.first), w1.keep(), None)?;
        if let Some(round) = steps.round {
            stream.submit(Job::Round(round), None, None)?;
        }
        stream.submit(Job::Gemm(steps.second), w2.keep(), None)?;
        stream.submit(Job::Combine(steps.combine), None, None)
    }
}

/// The jobs of a call in their order, and the bytes of its workspace.
pub(in crate::api) fn jobs(
    context: &Context,
    args: &nvfp4_moe_forward_args,
    w1: &Weights,
    w2: &Weights,
    regions: &mut Regions,
) -> Result<(Vec<Job>, usize)> {
    let (steps, needed) = plan(context, args, w1, w2, regions)?;
    let mut jobs = vec![Job::Dispatch(steps.dispatch), Job::Gemm(steps.first)];
    jobs.extend(steps.round.map(Job::Round));
    jobs.extend([Job::Gemm(steps.second), Job::Combine(steps.combine)]);
    Ok((jobs, needed))
}

/// Bytes of workspace that [`forward`] needs, for any routes.
pub fn forward_workspace_size(
    context: &Context,
    args: &nvfp4_moe_forward_args,
    w1: &Weights,
    w2: &Weights,
) -> Result<usize> {
    context.check_process()?;
    plan(context, args, w1, w2, &mut Regions::of_shapes()).map(|(_, needed)| needed)
}

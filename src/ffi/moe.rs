//! Mixture of experts.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream, weights};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::moe::combine::{self, nvfp4_moe_combine_args};
use crate::api::moe::forward::{self, nvfp4_moe_forward_args};
use crate::api::moe::permute::{self, nvfp4_moe_permute_args};
use crate::api::moe::route::{self, nvfp4_moe_route_args};
use crate::api::weights::Weights;
use crate::error::{Result, nvfp4_status};

/// Routes tokens to experts: logits to scores, the topk largest of (score + bias) among the eligible groups, their scores
/// renormalised and scaled. docs/numerics.md fixes every sum and tie: the same ids and weights on every backend.
/// A score that is NaN ranks last; it sets NVFP4_FAULT_NON_FINITE, as does a weight that is not finite, which stays so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_route(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_route_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_moe_route", || unsafe {
        route::route(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Sorts slots by expert, stably, and gathers the tokens in that order if asked to: as values, as codes that a quantizer
/// wrote before, or quantized on the way. Rows of other processes' experts are skipped.
/// Sets NVFP4_FAULT_BAD_GROUP and, where it quantizes, the faults of nvfp4_quantize. A graph records up to three nodes for the
/// sort and one for the gathering.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_permute(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_permute_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_moe_permute", || unsafe {
        permute::permute(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_moe_permute needs with these arguments; 0 means none. Reads no device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_permute_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_permute_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_moe_permute_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(permute::permute_workspace_size(&context::get(context)?, &args::read("args", args)?)?);
        Ok(())
    })
}

/// Adds up each token's expert rows: acc = fma(weight_j, y_j, acc) in slot order from 0, in f32, then * scaling, then
/// + shared, one rounding in the end. No atomics: a token's bits do not depend on other tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_combine(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_combine_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_moe_combine", || unsafe {
        combine::combine(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// A whole layer: routes (or takes given ones), brings the tokens of the local experts into their order, multiplies with
/// w1, activates, multiplies with w2 and combines: the bits of nvfp4_moe_route, nvfp4_moe_permute, two calls of
/// nvfp4_grouped_gemm (values between them rounded to BF16, or to F16 where hidden is; or requantized) and
/// nvfp4_moe_combine, one after another. Tokens without local experts get shared, or 0.
/// A graph of the CPU records four nodes: all in front of the products, each of them, the combine. Sets the faults of its parts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_forward(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_forward_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_moe_forward", || unsafe {
        let args = args::read("args", args)?;
        let (w1, w2) = both(&args)?;
        forward::forward(&context::get(context)?, &args, &w1, &w2, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_moe_forward needs with these arguments, for any routes. Reads no device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_moe_forward_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_moe_forward_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_moe_forward_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        let args = args::read("args", args)?;
        let (w1, w2) = both(&args)?;
        out.set(forward::forward_workspace_size(&context::get(context)?, &args, &w1, &w2)?);
        Ok(())
    })
}

pub(super) fn both(args: &nvfp4_moe_forward_args) -> Result<(Weights, Weights)> {
    Ok((weights::get_named("w1", args.w1)?, weights::get_named("w2", args.w2)?))
}

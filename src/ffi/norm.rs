//! RMSNorm fused with quantization.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::norm::{self, nvfp4_hc_rmsnorm_quantize_args, nvfp4_rmsnorm_quantize_args};
use crate::error::nvfp4_status;

/// RMSNorm, with an optional residual add before it, and quantization in one pass: the bits of the separate steps.
/// Sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_rmsnorm_quantize(
    context: *mut nvfp4_context,
    args: *const nvfp4_rmsnorm_quantize_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_rmsnorm_quantize", || unsafe {
        norm::rmsnorm_quantize(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_rmsnorm_quantize needs with these arguments; 0 means none. Reads no device memory and needs
/// none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_rmsnorm_quantize_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_rmsnorm_quantize_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_rmsnorm_quantize_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(norm::rmsnorm_quantize_workspace_size(&context::get(context)?, &args::read("args", args)?)?);
        Ok(())
    })
}

/// Mixes up to four hyper-connection streams, then RMSNorm and quantization, in one pass.
/// Sets the same faults as nvfp4_rmsnorm_quantize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_hc_rmsnorm_quantize(
    context: *mut nvfp4_context,
    args: *const nvfp4_hc_rmsnorm_quantize_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_hc_rmsnorm_quantize", || unsafe {
        norm::hc_rmsnorm_quantize(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_hc_rmsnorm_quantize needs with these arguments; 0 means none. Reads no device memory and needs
/// none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_hc_rmsnorm_quantize_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_hc_rmsnorm_quantize_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_hc_rmsnorm_quantize_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(norm::hc_rmsnorm_quantize_workspace_size(
            &context::get(context)?,
            &args::read("args", args)?,
        )?);
        Ok(())
    })
}

//! Quantization of values.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::quantize::{self, nvfp4_amax_scale_args, nvfp4_quantize_args};
use crate::error::nvfp4_status;

/// Quantizes values to NVFP4: one tensor, groups of rows, or a weight stored [K, N]. Bit for bit as docs/numerics.md says.
/// Sets NVFP4_FAULT_BAD_GROUP, _BAD_DECODE_SCALE, _NON_FINITE and _SATURATED in the fault word.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_quantize(
    context: *mut nvfp4_context,
    args: *const nvfp4_quantize_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_quantize", || unsafe {
        quantize::quantize(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_quantize needs with these arguments; 0 means none. Reads no device memory and needs
/// none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_quantize_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_quantize_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_quantize_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(quantize::quantize_workspace_size(&context::get(context)?, &args::read("args", args)?)?);
        Ok(())
    })
}

/// Finds the decode scales that nvfp4_quantize would use (amax / 2688 of each scope) without quantizing.
/// Sets NVFP4_FAULT_BAD_GROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_amax_scale(
    context: *mut nvfp4_context,
    args: *const nvfp4_amax_scale_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_amax_scale", || unsafe {
        quantize::amax_scale(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_amax_scale needs with these arguments; 0 means none. Reads no device memory and needs
/// none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_amax_scale_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_amax_scale_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_amax_scale_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(quantize::amax_scale_workspace_size(&context::get(context)?, &args::read("args", args)?)?);
        Ok(())
    })
}

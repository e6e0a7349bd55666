//! Prepared weights.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, handle, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream, nvfp4_weights};
use crate::api::weights::{
    Weights, nvfp4_weights_export_args, nvfp4_weights_prepare_args, nvfp4_weights_shape,
};
use crate::error::{Result, nvfp4_status};

/// Bytes of storage that nvfp4_weights_prepare needs for weights of this shape (groups, rows, cols, gate_up).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_weights_storage_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_weights_prepare_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_weights_storage_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(Weights::storage_size(&context::get(context)?, &args::read("args", args)?)?);
        Ok(())
    })
}

/// Brings E matrices [N, K] into the layout of the backend's kernels, in the caller's storage. Destroy the handle with
/// nvfp4_weights_destroy; the storage must outlive it and every graph that uses it. Not a run call: it may allocate and
/// wait. Refused while the stream captures. From VALUES it sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_weights_prepare(
    context: *mut nvfp4_context,
    args: *const nvfp4_weights_prepare_args,
    stream: *mut nvfp4_stream,
    weights: *mut *mut nvfp4_weights,
) -> nvfp4_status {
    // SAFETY: the host's promise about all pointers.
    guard("nvfp4_weights_prepare", || unsafe {
        let out = Out::check("weights", weights)?;
        let args = args::read("args", args)?;
        out.set(handle::create(Weights::prepare(&context::get(context)?, &args, &stream::get(stream)?)?));
        Ok(())
    })
}

/// Writes prepared weights back in the canonical form, byte for byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_weights_export(
    context: *mut nvfp4_context,
    args: *const nvfp4_weights_export_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_weights_export", || unsafe {
        let args = args::read("args", args)?;
        get(args.weights)?.export(&context::get(context)?, &args, &stream::get(stream)?)
    })
}

/// Tells the shape of prepared weights. Refused after a fork, and after the destruction of their context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_weights_info(
    weights: *const nvfp4_weights,
    shape: *mut nvfp4_weights_shape,
) -> nvfp4_status {
    // SAFETY: the host's promise about `shape`.
    guard("nvfp4_weights_info", || unsafe {
        let weights = get(weights)?;
        weights.context().check_process()?;
        args::write("shape", shape, &weights.info())
    })
}

/// Destroys the handle of prepared weights; the storage stays the caller's. Graphs that use them keep working.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_weights_destroy(weights: *mut nvfp4_weights) -> nvfp4_status {
    guard("nvfp4_weights_destroy", || handle::destroy::<Weights>("weights", weights, |_| Ok(())))
}

pub(super) fn get(weights: *const nvfp4_weights) -> Result<Weights> {
    handle::get("weights", weights)
}

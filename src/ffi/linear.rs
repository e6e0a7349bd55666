//! Linear layers.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream, weights};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::linear::{self, Form, nvfp4_grouped_linear_args, nvfp4_linear_args};
use crate::error::nvfp4_status;

/// A linear layer: values, or activations that a quantizer has written, times one group's weights, with bias, activation,
/// accumulation or requantization on the way out. Values can be quantized first: the bits are those of nvfp4_quantize
/// and nvfp4_gemm.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_linear(
    context: *mut nvfp4_context,
    args: *const nvfp4_linear_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_linear", || unsafe { run(context, args, stream, Form::One) })
}

/// Bytes of workspace that nvfp4_linear needs with these arguments. Reads no device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_linear_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_linear_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_linear_workspace_size", || unsafe { size(context, args, bytes, Form::One) })
}

/// Linear layers side by side: "bgk,gnk->bgn" (the first half of an attention output, for one). The strided view is
/// quantized and multiplied where it lies: nothing is permuted, padded or copied. The bits are those of nvfp4_quantize and
/// nvfp4_grouped_gemm with NVFP4_GROUPING_STRIDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_grouped_linear(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_linear_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_grouped_linear", || unsafe { run(context, args, stream, Form::Grouped) })
}

/// Bytes of workspace that nvfp4_grouped_linear needs with these arguments. Reads no device memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_grouped_linear_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_linear_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_grouped_linear_workspace_size", || unsafe { size(context, args, bytes, Form::Grouped) })
}

/// # Safety
/// As the functions above.
unsafe fn run(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_linear_args,
    stream: *mut nvfp4_stream,
    form: Form,
) -> crate::error::Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        linear::linear(&context::get(context)?, &args, form, &weights, &stream::get(stream)?)
    }
}

/// # Safety
/// As the functions above.
unsafe fn size(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_linear_args,
    bytes: *mut usize,
    form: Form,
) -> crate::error::Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let out = Out::check("bytes", bytes)?;
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        out.set(linear::linear_workspace_size(&context::get(context)?, &args, form, &weights)?);
    }
    Ok(())
}

//! Values of NVFP4 tensors.

use super::args;
use super::guard::guard;
use super::{context, stream};
use crate::api::dequantize::{self, nvfp4_dequantize_args};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::error::nvfp4_status;

/// Writes the values (e2m1 * e4m3) * decode scale of an NVFP4 tensor. A NaN block scale gives NaN values.
/// Sets NVFP4_FAULT_BAD_GROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_dequantize(
    context: *mut nvfp4_context,
    args: *const nvfp4_dequantize_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_dequantize", || unsafe {
        dequantize::dequantize(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

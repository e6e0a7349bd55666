//! Staging of mixture-of-experts inputs.

use super::args;
use super::guard::guard;
use super::{context, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::stage::{self, nvfp4_stage_moe_inputs_args};
use crate::error::nvfp4_status;

/// Quantizes tokens with scales packed four to an int32, widens top-k ids to int64 and copies their weights.
/// Sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stage_moe_inputs(
    context: *mut nvfp4_context,
    args: *const nvfp4_stage_moe_inputs_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_stage_moe_inputs", || unsafe {
        stage::stage_moe_inputs(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

//! The arguments of a call that another call is about.

use core::ffi::c_void;

use super::{args, moe, weights};
use crate::api::gemm::nvfp4_grouped_gemm_args;
use crate::api::linear::{Form, nvfp4_grouped_linear_args};
use crate::api::moe::forward::nvfp4_moe_forward_args;
use crate::api::operation::*;
use crate::api::weights::nvfp4_weights_export_args;
use crate::error::{Error, Result};

/// The call that an operation and its arguments describe; none for NVFP4_OPERATION_ALL.
///
/// # Safety
/// `p` is NULL, or the arguments struct of the operation, readable for its `struct_size` bytes.
pub unsafe fn read_call(operation: nvfp4_operation, p: *const c_void) -> Result<Option<Call>> {
    macro_rules! read {
        () => {
            // SAFETY: the caller's promise; `read` checks NULL and the size.
            unsafe { args::read("args.args", p.cast())? }
        };
    }
    Ok(Some(match operation {
        NVFP4_OPERATION_ALL if p.is_null() => return Ok(None),
        NVFP4_OPERATION_ALL => {
            return Err(Error::Conflict {
                argument: "args.args",
                problem: "not NULL, but NVFP4_OPERATION_ALL has no arguments; set args.operation".into(),
            });
        }
        NVFP4_OPERATION_QUANTIZE => Call::Quantize(read!()),
        NVFP4_OPERATION_AMAX_SCALE => Call::AmaxScale(read!()),
        NVFP4_OPERATION_DEQUANTIZE => Call::Dequantize(read!()),
        NVFP4_OPERATION_RMSNORM_QUANTIZE => Call::RmsnormQuantize(read!()),
        NVFP4_OPERATION_HC_RMSNORM_QUANTIZE => Call::HcRmsnormQuantize(read!()),
        NVFP4_OPERATION_SWIGLU_QUANTIZE => Call::SwigluQuantize(read!()),
        NVFP4_OPERATION_STAGE_MOE_INPUTS => Call::StageMoeInputs(read!()),
        NVFP4_OPERATION_TILE_SCALES => Call::MoveScales(read!(), true),
        NVFP4_OPERATION_UNTILE_SCALES => Call::MoveScales(read!(), false),
        NVFP4_OPERATION_INTERLEAVE_GATE_UP => Call::InterleaveGateUp(read!(), true),
        NVFP4_OPERATION_DEINTERLEAVE_GATE_UP => Call::InterleaveGateUp(read!(), false),
        NVFP4_OPERATION_GROUP_ENDS => Call::GroupEnds(read!()),
        NVFP4_OPERATION_WEIGHTS_PREPARE => Call::WeightsPrepare(read!()),
        NVFP4_OPERATION_WEIGHTS_EXPORT => {
            let args: nvfp4_weights_export_args = read!();
            Call::WeightsExport(args, weights::get(args.weights)?)
        }
        NVFP4_OPERATION_GROUPED_GEMM => {
            let args: nvfp4_grouped_gemm_args = read!();
            Call::GroupedGemm(args, weights::get(args.weights)?)
        }
        NVFP4_OPERATION_LINEAR | NVFP4_OPERATION_GROUPED_LINEAR => {
            let args: nvfp4_grouped_linear_args = read!();
            let form = if operation == NVFP4_OPERATION_LINEAR { Form::One } else { Form::Grouped };
            Call::Linear(args, form, weights::get(args.weights)?)
        }
        NVFP4_OPERATION_MOE_ROUTE => Call::MoeRoute(read!()),
        NVFP4_OPERATION_MOE_PERMUTE => Call::MoePermute(read!()),
        NVFP4_OPERATION_MOE_COMBINE => Call::MoeCombine(read!()),
        NVFP4_OPERATION_MOE_FORWARD => {
            let args: nvfp4_moe_forward_args = read!();
            let (w1, w2) = moe::both(&args)?;
            Call::MoeForward(args, w1, w2)
        }
        value => {
            let known = "NVFP4_OPERATION_ALL (0) to NVFP4_OPERATION_MOE_FORWARD (21)";
            return Err(Error::UnknownValue { argument: "args.operation", value, known });
        }
    }))
}

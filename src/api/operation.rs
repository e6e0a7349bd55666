//! Operations named by a number, for calls about calls: nvfp4_prepare and nvfp4_tune.
#![allow(non_camel_case_types)]

use super::check::Regions;
use super::context::Context;
use super::weights::Weights;
use super::{dequantize, gemm, layouts, linear, moe, norm, quantize, stage, swiglu, weights};
use crate::backend::Work;
use crate::error::Result;
use crate::plan::Job;

/// An operation of the library.
pub type nvfp4_operation = u32;
/// Every operation.
pub const NVFP4_OPERATION_ALL: nvfp4_operation = 0;
/// nvfp4_quantize, with nvfp4_quantize_args.
pub const NVFP4_OPERATION_QUANTIZE: nvfp4_operation = 1;
/// nvfp4_amax_scale, with nvfp4_amax_scale_args.
pub const NVFP4_OPERATION_AMAX_SCALE: nvfp4_operation = 2;
/// nvfp4_dequantize, with nvfp4_dequantize_args.
pub const NVFP4_OPERATION_DEQUANTIZE: nvfp4_operation = 3;
/// nvfp4_rmsnorm_quantize, with nvfp4_rmsnorm_quantize_args.
pub const NVFP4_OPERATION_RMSNORM_QUANTIZE: nvfp4_operation = 4;
/// nvfp4_hc_rmsnorm_quantize, with nvfp4_hc_rmsnorm_quantize_args.
pub const NVFP4_OPERATION_HC_RMSNORM_QUANTIZE: nvfp4_operation = 5;
/// nvfp4_swiglu_quantize, with nvfp4_swiglu_quantize_args.
pub const NVFP4_OPERATION_SWIGLU_QUANTIZE: nvfp4_operation = 6;
/// nvfp4_stage_moe_inputs, with nvfp4_stage_moe_inputs_args.
pub const NVFP4_OPERATION_STAGE_MOE_INPUTS: nvfp4_operation = 7;
/// nvfp4_tile_scales, with nvfp4_tile_scales_args.
pub const NVFP4_OPERATION_TILE_SCALES: nvfp4_operation = 8;
/// nvfp4_untile_scales, with nvfp4_tile_scales_args.
pub const NVFP4_OPERATION_UNTILE_SCALES: nvfp4_operation = 9;
/// nvfp4_interleave_gate_up, with nvfp4_interleave_gate_up_args.
pub const NVFP4_OPERATION_INTERLEAVE_GATE_UP: nvfp4_operation = 10;
/// nvfp4_deinterleave_gate_up, with nvfp4_interleave_gate_up_args.
pub const NVFP4_OPERATION_DEINTERLEAVE_GATE_UP: nvfp4_operation = 11;
/// nvfp4_group_ends, with nvfp4_group_ends_args.
pub const NVFP4_OPERATION_GROUP_ENDS: nvfp4_operation = 12;
/// nvfp4_weights_prepare, with nvfp4_weights_prepare_args.
pub const NVFP4_OPERATION_WEIGHTS_PREPARE: nvfp4_operation = 13;
/// nvfp4_weights_export, with nvfp4_weights_export_args.
pub const NVFP4_OPERATION_WEIGHTS_EXPORT: nvfp4_operation = 14;
/// nvfp4_grouped_gemm and nvfp4_gemm, with nvfp4_grouped_gemm_args.
pub const NVFP4_OPERATION_GROUPED_GEMM: nvfp4_operation = 15;

/// nvfp4_linear, with nvfp4_linear_args.
pub const NVFP4_OPERATION_LINEAR: nvfp4_operation = 16;
/// nvfp4_grouped_linear, with nvfp4_grouped_linear_args.
pub const NVFP4_OPERATION_GROUPED_LINEAR: nvfp4_operation = 17;
/// nvfp4_moe_route, with nvfp4_moe_route_args.
pub const NVFP4_OPERATION_MOE_ROUTE: nvfp4_operation = 18;
/// nvfp4_moe_permute, with nvfp4_moe_permute_args.
pub const NVFP4_OPERATION_MOE_PERMUTE: nvfp4_operation = 19;
/// nvfp4_moe_combine, with nvfp4_moe_combine_args.
pub const NVFP4_OPERATION_MOE_COMBINE: nvfp4_operation = 20;
/// nvfp4_moe_forward, with nvfp4_moe_forward_args.
pub const NVFP4_OPERATION_MOE_FORWARD: nvfp4_operation = 21;

/// The arguments of a call that is asked about. Pointers in them may be NULL.
#[allow(clippy::large_enum_variant)]
pub enum Call {
    Quantize(quantize::nvfp4_quantize_args),
    AmaxScale(quantize::nvfp4_amax_scale_args),
    Dequantize(dequantize::nvfp4_dequantize_args),
    RmsnormQuantize(norm::nvfp4_rmsnorm_quantize_args),
    HcRmsnormQuantize(norm::nvfp4_hc_rmsnorm_quantize_args),
    SwigluQuantize(swiglu::nvfp4_swiglu_quantize_args),
    StageMoeInputs(stage::nvfp4_stage_moe_inputs_args),
    MoveScales(layouts::nvfp4_tile_scales_args, bool),
    InterleaveGateUp(layouts::nvfp4_interleave_gate_up_args, bool),
    GroupEnds(layouts::nvfp4_group_ends_args),
    WeightsPrepare(weights::nvfp4_weights_prepare_args),
    WeightsExport(weights::nvfp4_weights_export_args, Weights),
    GroupedGemm(gemm::nvfp4_grouped_gemm_args, Weights),
    Linear(linear::nvfp4_grouped_linear_args, linear::Form, Weights),
    MoeRoute(moe::route::nvfp4_moe_route_args),
    MoePermute(moe::permute::nvfp4_moe_permute_args),
    MoeCombine(moe::combine::nvfp4_moe_combine_args),
    MoeForward(moe::forward::nvfp4_moe_forward_args, Weights, Weights),
}

impl Call {
    /// What the call would do, every argument checked but for memory that is not there yet.
    pub(super) fn work(&self, context: &Context) -> Result<Vec<Work>> {
        let mut regions = Regions::of_shapes();
        let job = match self {
            Call::Quantize(args) => Job::Quantize(quantize::plan(args, regions)?),
            Call::AmaxScale(args) => Job::Quantize(quantize::plan_amax(args, regions)?),
            Call::Dequantize(args) => Job::Dequantize(dequantize::plan(args, regions)?),
            Call::RmsnormQuantize(args) => Job::Quantize(norm::plan(args, regions)?),
            Call::HcRmsnormQuantize(args) => Job::Quantize(norm::plan_hc(args, regions)?),
            Call::SwigluQuantize(args) => Job::Quantize(swiglu::plan(args, regions)?),
            Call::StageMoeInputs(args) => Job::Stage(stage::plan(args, regions)?),
            Call::MoveScales(args, forward) => Job::MoveScales(layouts::plan_tiles(args, *forward, regions)?),
            Call::InterleaveGateUp(args, forward) => {
                Job::Interleave(layouts::plan_interleave(args, *forward, regions)?)
            }
            Call::GroupEnds(args) => {
                Job::GroupEnds(layouts::plan_ends(args, [regions, Regions::of_shapes()])?)
            }
            Call::WeightsPrepare(args) => {
                let (problem, _) = Weights::plan_prepare(context, args, regions)?;
                return Ok(vec![Work::PrepareWeights(problem)]);
            }
            Call::WeightsExport(args, weights) => {
                weights.check(context, "args.weights")?;
                Job::Export(weights.plan_export(args, regions)?)
            }
            Call::GroupedGemm(args, weights) => {
                weights.check(context, "args.weights")?;
                Job::Gemm(gemm::plan(args, weights, regions)?.0)
            }
            Call::MoeRoute(args) => Job::Route(moe::route::plan(args, regions)?),
            Call::MoeCombine(args) => Job::Combine(moe::combine::plan(args, regions)?),
            Call::MoePermute(args) => {
                let (permute, gather) = moe::permute::plan(args, regions)?;
                moe::permute::job(permute, gather)
            }
            Call::Linear(args, form, weights) => {
                let (jobs, _) = linear::jobs(context, args, *form, weights, &mut regions)?;
                return Ok(jobs.into_iter().map(Work::Job).collect());
            }
            Call::MoeForward(args, w1, w2) => {
                let (jobs, _) = moe::forward::jobs(context, args, w1, w2, &mut regions)?;
                return Ok(jobs.into_iter().map(Work::Job).collect());
            }
        };
        Ok(vec![Work::Job(job)])
    }
}

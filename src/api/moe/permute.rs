//! `nvfp4_moe_permute`: ids → the rows of each expert, and the tokens gathered or quantized in that order.
#![allow(non_camel_case_types)]

use super::super::check::{self, Regions};
use super::super::context::Context;
use super::super::operand;
use super::super::stream::Stream;
use super::super::types::*;
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::plan::groups::Groups;
use crate::plan::moe::{DispatchProblem, Gather, GatherProblem, PermuteProblem};
use crate::plan::quantize::{DecodeScales, QuantOut, Scope};

/// Arguments of nvfp4_moe_permute.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_moe_permute_args {
    /// sizeof(nvfp4_moe_permute_args).
    pub struct_size: usize,
    /// Rows, 0 or more; tokens * topk may not pass 2^31 - 1.
    pub tokens: i64,
    /// E: all experts, 0 to 1024.
    pub experts: i64,
    /// The experts of this process are first_expert to first_expert + local_experts - 1; rows of others are skipped.
    pub first_expert: i64,
    /// 0: all from first_expert on.
    pub local_experts: i64,
    /// k: slots a token, 1 to 32.
    pub topk: u32,
    /// BF16, F16, F32, or NVFP4 (src_quantized).
    pub src_dtype: nvfp4_dtype,
    /// int32[tokens, topk], 4-byte aligned. -1 is skipped; so is what is no expert, which sets NVFP4_FAULT_BAD_GROUP
    /// (bad_group is the id, or 0 where it is negative). An id may stand in several slots of a token.
    pub topk_ids: *const i32,
    /// int32[local experts], written, 4-byte aligned: inclusive cumulative ends, as NVFP4_GROUPING_ENDS takes them with
    /// rows = tokens * topk.
    pub ends: *mut i32,
    /// int32[tokens * topk], written, 4-byte aligned: the token of each row, expert after expert, in slot order inside an
    /// expert; -1 behind the last row.
    pub source_rows: *mut i32,
    /// int32[tokens, topk], written, 4-byte aligned: the row of each slot; -1 where it was skipped.
    pub inverse: *mut i32,
    /// Values a row; 0: nothing is gathered, and all that follows must be 0. A multiple of 16 where codes are written.
    pub cols: i64,
    /// [tokens, cols] values, 16-byte aligned; NULL when src_dtype is NVFP4.
    pub src: *const core::ffi::c_void,
    /// Elements between rows of src; 0: dense.
    pub src_row_stride: i64,
    /// NVFP4 tokens, in scope TENSOR or ROW; all zero otherwise.
    pub src_quantized: nvfp4_quantized_input,
    /// [tokens * topk, cols] values of src_dtype by row, written; 16-byte aligned. NULL: the rows are written to out.
    pub gathered: *mut core::ffi::c_void,
    /// Elements between rows of gathered; 0: dense.
    pub gathered_row_stride: i64,
    /// NVFP4 rows in expert order, as grouped by `ends`, each expert's scales tiled on their own. From values: what
    /// nvfp4_quantize gives for the gathered rows; static scales of any scope, or dynamic ones per ROW. From NVFP4 tokens:
    /// their codes and scales, with scope ROW, dynamic decode_scales (the token's) and scale_rule 0.
    pub out: nvfp4_quantized,
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_moe_permute_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

zeroed_default!(nvfp4_moe_permute_args);

/// Sorts slots by expert, and gathers tokens in that order.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn permute(context: &Context, args: &nvfp4_moe_permute_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let (permute, gather) = plan(args, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(job(permute, gather), None, None) }
}

/// Sort and gather are one job, which a backend may do in one go.
pub(in crate::api) fn job(permute: PermuteProblem, gather: Option<GatherProblem>) -> Job {
    match gather {
        Some(gather) => Job::Dispatch(DispatchProblem { route: None, gather, dependent_launch: false }),
        None => Job::Permute(permute),
    }
}

/// Bytes of workspace that [`permute`] needs: none on either backend.
pub fn permute_workspace_size(context: &Context, args: &nvfp4_moe_permute_args) -> Result<usize> {
    context.check_process()?;
    plan(args, Regions::of_shapes()).map(|_| 0)
}

pub(in crate::api) fn plan(
    args: &nvfp4_moe_permute_args,
    mut regions: Regions,
) -> Result<(PermuteProblem, Option<GatherProblem>)> {
    let (tokens, topk, slots) = super::slots(args.tokens, args.topk)?;
    let experts = super::experts(args.experts, 0)?;
    let local = check::count("local_experts", args.local_experts, 0, experts as i64)?;
    let first_expert = super::first_expert(args.first_expert, local, experts)?;
    let local_experts = if args.local_experts == 0 { experts - first_expert } else { local };
    let permute = PermuteProblem {
        tokens,
        topk,
        experts,
        first_expert,
        local_experts,
        ids: regions.read_array("topk_ids", args.topk_ids, slots)?,
        ends: regions.write_array("ends", args.ends, local_experts)?,
        source_rows: regions.write_array("source_rows", args.source_rows, slots)?,
        inverse: regions.write_array("inverse", args.inverse, slots)?,
    };
    let gather = gather(args, &permute, &mut regions)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, 0)?;
    regions.check_overlap()?;
    Ok((permute, gather))
}

fn gather(
    args: &nvfp4_moe_permute_args,
    permute: &PermuteProblem,
    regions: &mut Regions,
) -> Result<Option<GatherProblem>> {
    let groups = permute.groups();
    let why = "when cols is 0";
    if args.cols == 0 {
        super::unused("src", !args.src.is_null(), why)?;
        super::unused("src_dtype", args.src_dtype != 0, why)?;
        super::unused("src_quantized", super::input_is_set(&args.src_quantized), why)?;
        super::unused("gathered", !args.gathered.is_null(), why)?;
        super::unused("out", super::quantized_is_set(&args.out), why)?;
        return Ok(None);
    }
    let what = match super::dtype_or_codes("src_dtype", args.src_dtype)? {
        None => codes(args, permute, &groups, regions)?,
        Some(dtype) => {
            super::unused("src_quantized", super::input_is_set(&args.src_quantized), "by this src_dtype")?;
            let to_codes = super::quantized_is_set(&args.out);
            let cols = match to_codes {
                true => check::cols("cols", args.cols)?,
                false => check::count("cols", args.cols, 1, i64::MAX)?,
            };
            let names = ("src", "src_row_stride");
            let stride = args.src_row_stride;
            let src = operand::read_rows(names, args.src, dtype, stride, permute.tokens, cols, regions)?;
            if to_codes {
                super::unused("gathered", !args.gathered.is_null(), "beside out")?;
                let out = operand::quantized(&args.out, &operand::OUT, &groups, cols, regions)?;
                check_gathered(&out)?;
                Gather::Quantize { src, out }
            } else {
                let names = ("gathered", "gathered_row_stride");
                let (p, stride, rows) = (args.gathered, args.gathered_row_stride, groups.total_rows());
                match operand::write_rows(names, p, dtype, stride, rows, cols, regions)? {
                    Some(dst) => Gather::Values { src, dst },
                    // Without rows nothing is gathered.
                    None if rows == 0 => return Ok(None),
                    // The question is about shapes; any place will do.
                    None if regions.is_of_shapes() => Gather::Values { src, dst: src },
                    None => return Err(Error::Null { argument: "gathered" }),
                }
            }
        }
    };
    Ok(Some(GatherProblem { permute: *permute, cols: args.cols as usize, what }))
}

/// Refuses dynamic scales that need a second look at all rows.
fn check_gathered(out: &QuantOut) -> Result<()> {
    if matches!(out.decode, DecodeScales::Dynamic(_)) && out.scope != Scope::Row {
        return Err(Error::Unsupported {
            what: "quantizing into expert order with dynamic scales of scope TENSOR or GROUP".into(),
            next: "use NVFP4_SCOPE_ROW or static scales, or quantize the tokens first",
        });
    }
    Ok(())
}

fn codes(
    args: &nvfp4_moe_permute_args,
    permute: &PermuteProblem,
    groups: &Groups,
    regions: &mut Regions,
) -> Result<Gather> {
    let why = "when src_dtype is NVFP4";
    super::unused("src", !args.src.is_null(), why)?;
    super::unused("src_row_stride", args.src_row_stride != 0, why)?;
    super::unused("gathered", !args.gathered.is_null(), why)?;
    super::unused("gathered_row_stride", args.gathered_row_stride != 0, why)?;
    super::unused("out.scale_rule", args.out.scale_rule != 0, why)?;
    super::unused("out.static_decode_scales", !args.out.static_decode_scales.is_null(), why)?;
    let cols = check::cols("cols", args.cols)?;
    let tokens = Groups::None { rows: permute.tokens };
    let src = operand::quantized_tokens(&args.src_quantized, &tokens, cols, regions)?;
    let out = operand::quantized(&args.out, &operand::OUT, groups, cols, regions)?;
    match (out.scope, out.decode) {
        (Scope::Row, DecodeScales::Dynamic(decode)) => Ok(Gather::Codes {
            src,
            codes: out.codes,
            codes_row_stride: out.codes_row_stride,
            scales: out.scales,
            decode,
        }),
        _ => Err(Error::Conflict {
            argument: "out.scope",
            problem: "codes of tokens keep their decode scales; use NVFP4_SCOPE_ROW and decode_scales".into(),
        }),
    }
}

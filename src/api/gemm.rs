//! `nvfp4_grouped_gemm` and its one-group form `nvfp4_gemm`.
#![allow(non_camel_case_types)]

use super::check::{self, CACHE_LINE, MATRIX, Regions};
use super::context::Context;
use super::operand;
use super::stream::Stream;
use super::types::*;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::format::dtype::Dtype;
use crate::plan::Job;
use crate::plan::gemm::{Activation, Activations, GemmOut, GemmProblem};
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::quantize::{DecodeScales, Scope};
use crate::plan::weights::WeightsShape;

/// Flags of a product.
pub type nvfp4_gemm_flags = u32;
/// out = round(v + old out); value outputs without an activation.
pub const NVFP4_GEMM_ACCUMULATE: nvfp4_gemm_flags = 1;
/// A row's bits depend on its own values and its group's weights alone.
pub const NVFP4_GEMM_BATCH_INVARIANT: nvfp4_gemm_flags = 2;

/// GPU, compute capability 9.0 and up (NVFP4_FEATURE_DEPENDENT_LAUNCH): the product may start before the call in front
/// of it in the stream has ended (programmatic dependent launch), which hides the start of few-token products. By setting
/// it the caller promises that the call directly in front of this one, if it is a kernel, has written neither the weights
/// nor groups.ends or groups.counts: they were ready at least one call earlier. Activations, decode scales, bias and what
/// `out` held may come from that call. No bits change. Ignored where the device or the kernel that is taken has no such
/// launch, and inside of a call that needs a second launch in front of the product.
pub const NVFP4_GEMM_DEPENDENT_LAUNCH: nvfp4_gemm_flags = 4;

/// Arguments of nvfp4_grouped_gemm and nvfp4_gemm: out = epilogue((a * weights^T) * decode scales + bias).
///
/// FP32 accumulation of exact products; the bound is in docs/numerics.md. Deterministic. On the CPU every product is
/// batch-invariant, with or without the flag.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_grouped_gemm_args {
    /// sizeof(nvfp4_grouped_gemm_args).
    pub struct_size: usize,
    /// Prepared weights [E, N, K] of the same context.
    pub weights: *const super::handles::nvfp4_weights,
    /// Rows of a over all groups, 0 or more.
    pub rows: i64,
    /// The split of rows, count = E. All zero where E is 1.
    pub groups: nvfp4_groups,
    /// Activations [rows, K], 16-byte aligned: BF16 or F16 values. NULL when a_dtype is NVFP4.
    pub a: *const core::ffi::c_void,
    /// BF16, F16, or NVFP4 (a_quantized).
    pub a_dtype: nvfp4_dtype,
    /// Scope of a_decode_scales.
    pub a_scope: nvfp4_scope,
    /// Elements between rows of a; 0: K.
    pub a_row_stride: i64,
    /// NVFP4_GROUPING_STRIDED: elements between groups of a, or bytes between groups of a_quantized.codes.
    /// 0: every group multiplies the same max_tokens rows (their scales and decode scales are shared as well).
    pub a_group_stride: i64,
    /// Value activations: float array by a_scope that multiplies the product; NULL: 1.
    pub a_decode_scales: *const f32,
    /// NVFP4 activations; all zero otherwise.
    pub a_quantized: nvfp4_quantized_input,
    /// [E, N] added to the scaled product, 16-byte aligned, in the row order of the canonical weights; NULL: none.
    pub bias: *const core::ffi::c_void,
    /// BF16, F16 or F32.
    pub bias_dtype: nvfp4_dtype,
    /// NONE, SWIGLU (weights prepared with gate_up; N/2 output columns) or RELU2.
    pub activation: nvfp4_activation,
    /// SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none.
    pub limit: f32,
    /// SWIGLU: factor inside the sigmoid; default 0 means 1.
    pub alpha: f32,
    /// SWIGLU: added to up; default 0.
    pub beta: f32,
    /// NVFP4_GEMM_* or'ed.
    pub flags: nvfp4_gemm_flags,
    /// [rows, output columns] values by logical row, written; 16-byte aligned. NULL when out_dtype is NVFP4.
    pub out: *mut core::ffi::c_void,
    /// BF16, F16, F32, or NVFP4 (out_quantized).
    pub out_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
    /// Elements between rows of out; 0: dense.
    pub out_row_stride: i64,
    /// NVFP4_GROUPING_STRIDED: elements between groups of out; no default: the rows of two groups may not meet.
    pub out_group_stride: i64,
    /// NVFP4 output: output columns a multiple of 16; static scales of any scope, or dynamic per ROW. All zero otherwise.
    pub out_quantized: nvfp4_quantized,
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_grouped_gemm_workspace_size says 0.
    pub workspace: *mut core::ffi::c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

/// Arguments of nvfp4_gemm: those of the grouped product with groups all zero and weights of one group.
pub type nvfp4_gemm_args = nvfp4_grouped_gemm_args;

zeroed_default!(nvfp4_grouped_gemm_args);

const ALL_FLAGS: nvfp4_gemm_flags =
    NVFP4_GEMM_ACCUMULATE | NVFP4_GEMM_BATCH_INVARIANT | NVFP4_GEMM_DEPENDENT_LAUNCH;

/// Multiplies the rows of each group with its weights.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn grouped_gemm(
    context: &Context,
    args: &nvfp4_grouped_gemm_args,
    weights: &Weights,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    weights.check(context, "weights")?;
    let (mut problem, mut regions) = plan(args, weights, Regions::default())?;
    let needed = workspace_size(context, &mut problem)?;
    problem.workspace = check::workspace(&mut regions, args.workspace, args.workspace_size, needed)?;
    regions.check_overlap()?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Gemm(problem), weights.keep(), None) }
}

/// Bytes of workspace that [`grouped_gemm`] needs for any split of the rows into the groups.
pub fn grouped_gemm_workspace_size(
    context: &Context,
    args: &nvfp4_grouped_gemm_args,
    weights: &Weights,
) -> Result<usize> {
    context.check_process()?;
    weights.check(context, "weights")?;
    let (mut problem, _) = plan(args, weights, Regions::of_shapes())?;
    workspace_size(context, &mut problem)
}

fn workspace_size(context: &Context, problem: &mut GemmProblem) -> Result<usize> {
    context.backend().gemm_workspace_size(problem).ok_or(Error::TooLarge { argument: "workspace" })
}

/// Refuses what the one-group form does not have.
pub fn check_single(args: &nvfp4_gemm_args, weights: &Weights) -> Result<()> {
    if args.groups.grouping != NVFP4_GROUPING_NONE {
        return Err(Error::Conflict {
            argument: "groups.grouping",
            problem: "nvfp4_gemm has one group; leave groups all zero or use nvfp4_grouped_gemm".into(),
        });
    }
    match weights.plan().shape.groups {
        1 => Ok(()),
        groups => Err(Error::Mismatch {
            argument: "weights",
            value: format!("{groups} groups"),
            expected: "weights of 1 group, or nvfp4_grouped_gemm".into(),
        }),
    }
}

/// Everything but the workspace and the final overlap check.
pub(super) fn plan(
    args: &nvfp4_grouped_gemm_args,
    weights: &Weights,
    mut regions: Regions,
) -> Result<(GemmProblem, Regions)> {
    let shape = weights.plan().shape;
    check::reserved("reserved", args.reserved)?;
    check_flags(args.flags)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    if groups.count() != shape.groups {
        return Err(Error::Mismatch {
            argument: "groups.count",
            value: groups.count().to_string(),
            expected: format!("the {} groups of the weights", shape.groups),
        });
    }
    regions.read("weights", weights.plan().storage.get(), weights.storage_bytes(), CACHE_LINE)?;
    let activation = activation(args, &shape)?;
    let a = activations(args, &groups, shape.cols, &mut regions)?;
    let bias = bias(args, &shape, &mut regions)?;
    let cols = if matches!(activation, Activation::SwiGlu(_)) { shape.rows / 2 } else { shape.rows };
    let out = output(args, &groups, cols, activation, &mut regions)?;
    let batch_invariant = args.flags & NVFP4_GEMM_BATCH_INVARIANT != 0;
    let problem = GemmProblem {
        groups,
        a,
        weights: weights.plan(),
        bias,
        activation,
        out,
        batch_invariant,
        dependent_launch: args.flags & NVFP4_GEMM_DEPENDENT_LAUNCH != 0,
        workspace: Ptr::NULL,
        plan: None,
    };
    Ok((problem, regions))
}

pub(super) fn check_flags(flags: nvfp4_gemm_flags) -> Result<()> {
    let known = "NVFP4_GEMM_ACCUMULATE (1), _BATCH_INVARIANT (2), _DEPENDENT_LAUNCH (4), or'ed";
    match flags & !ALL_FLAGS {
        0 => Ok(()),
        _ => Err(Error::UnknownValue { argument: "flags", value: flags, known }),
    }
}

pub(super) fn bias(
    args: &nvfp4_grouped_gemm_args,
    shape: &WeightsShape,
    regions: &mut Regions,
) -> Result<Option<Vector>> {
    if args.bias.is_null() {
        return Ok(None);
    }
    let dtype = check::float_dtype("bias_dtype", args.bias_dtype)?;
    let entries = shape.groups.checked_mul(shape.rows).ok_or(Error::TooLarge { argument: "bias" })?;
    operand::read_vector("bias", args.bias, dtype, entries, regions).map(Some)
}

pub(super) fn activation(args: &nvfp4_grouped_gemm_args, shape: &WeightsShape) -> Result<Activation> {
    let swiglu = check::swiglu(args.limit, args.alpha, args.beta)?;
    let gated = args.activation == NVFP4_ACTIVATION_SWIGLU;
    if gated != shape.gate_up {
        return Err(Error::Conflict {
            argument: "activation",
            problem: match gated {
                true => "NVFP4_ACTIVATION_SWIGLU needs weights that were prepared with gate_up = 1".into(),
                false => "weights prepared with gate_up = 1 need NVFP4_ACTIVATION_SWIGLU; prepare them plain"
                    .into(),
            },
        });
    }
    match args.activation {
        NVFP4_ACTIVATION_NONE => Ok(Activation::None),
        NVFP4_ACTIVATION_SWIGLU => Ok(Activation::SwiGlu(swiglu)),
        NVFP4_ACTIVATION_RELU2 => Ok(Activation::Relu2),
        value => Err(Error::UnknownValue {
            argument: "activation",
            value,
            known: "NVFP4_ACTIVATION_NONE (0), _SWIGLU (1), _RELU2 (2)",
        }),
    }
}

fn activations(
    args: &nvfp4_grouped_gemm_args,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<Activations> {
    let unused = |argument: &'static str, present: bool| match present {
        true => Err(Error::Conflict { argument, problem: "not used by this a_dtype; leave it 0".into() }),
        false => Ok(()),
    };
    let group_stride = check::read_group_stride("a_group_stride", args.a_group_stride, groups)?;
    let dtype = match args.a_dtype {
        NVFP4_DTYPE_BF16 => Dtype::Bf16,
        NVFP4_DTYPE_F16 => Dtype::F16,
        NVFP4_DTYPE_NVFP4 => {
            unused("a", !args.a.is_null())?;
            unused("a_row_stride", args.a_row_stride != 0)?;
            unused("a_scope", args.a_scope != 0)?;
            unused("a_decode_scales", !args.a_decode_scales.is_null())?;
            let input = &args.a_quantized;
            let input = operand::quantized_activations(input, groups, cols, group_stride, regions)?;
            return Ok(Activations::Codes(input));
        }
        value => {
            return Err(Error::UnknownValue {
                argument: "a_dtype",
                value,
                known: "NVFP4_DTYPE_BF16 (0), NVFP4_DTYPE_F16 (1), NVFP4_DTYPE_NVFP4 (3)",
            });
        }
    };
    unused("a_quantized.codes", !args.a_quantized.codes.is_null())?;
    unused("a_quantized.scales", !args.a_quantized.scales.is_null())?;
    unused("a_quantized.decode_scales", !args.a_quantized.decode_scales.is_null())?;
    let row_stride = check::stride("a_row_stride", args.a_row_stride, cols)?;
    let stored = operand::stored_groups(groups, group_stride);
    let bytes = check::grouped_extent("a", &stored, row_stride, group_stride, cols, dtype.bytes())?;
    let base = regions.read("a", args.a.cast::<u8>(), bytes, MATRIX)?;
    let scope = check::scope("a_scope", args.a_scope, groups)?;
    let given = args.a_decode_scales;
    let decode = operand::optional_decode("a_decode_scales", given, scope, groups, &stored, regions)?;
    Ok(Activations::Values { a: Matrix { base, dtype, row_stride, group_stride }, scope, decode })
}

pub(super) fn output(
    args: &nvfp4_grouped_gemm_args,
    groups: &Groups,
    cols: usize,
    activation: Activation,
    regions: &mut Regions,
) -> Result<GemmOut> {
    let unused = |argument: &'static str, present: bool| match present {
        true => Err(Error::Conflict { argument, problem: "not used by this out_dtype; leave it 0".into() }),
        false => Ok(()),
    };
    let accumulate = args.flags & NVFP4_GEMM_ACCUMULATE != 0;
    if args.out_dtype == NVFP4_DTYPE_NVFP4 {
        unused("out", !args.out.is_null())?;
        unused("out_row_stride", args.out_row_stride != 0)?;
        unused("out_group_stride", args.out_group_stride != 0)?;
        if accumulate {
            return Err(Error::Conflict {
                argument: "flags",
                problem: "NVFP4_GEMM_ACCUMULATE cannot add onto codes; use a BF16, F16 or F32 output".into(),
            });
        }
        check::multiple("output columns", cols as i64, 16)?;
        let out = operand::quantized(&args.out_quantized, &operand::OUT_QUANTIZED, groups, cols, regions)?;
        if matches!(out.decode, DecodeScales::Dynamic(_)) && out.scope != Scope::Row {
            return Err(Error::Unsupported {
                what: "a requantized product with dynamic scales of scope TENSOR or GROUP".into(),
                next: "use NVFP4_SCOPE_ROW, static scales, or nvfp4_quantize on a BF16 output",
            });
        }
        return Ok(GemmOut::Codes(out));
    }
    unused("out_quantized.codes", !args.out_quantized.codes.is_null())?;
    unused("out_quantized.scales", !args.out_quantized.scales.is_null())?;
    if accumulate && activation != Activation::None {
        return Err(Error::Conflict {
            argument: "flags",
            problem: "NVFP4_GEMM_ACCUMULATE goes with NVFP4_ACTIVATION_NONE only; drop one of them".into(),
        });
    }
    let dtype = check::float_dtype("out_dtype", args.out_dtype)?;
    let row_stride = check::stride("out_row_stride", args.out_row_stride, cols)?;
    let group_stride =
        check::write_group_stride("out_group_stride", args.out_group_stride, groups, row_stride, cols)?;
    let bytes = check::grouped_extent("out", groups, row_stride, group_stride, cols, dtype.bytes())?;
    let base = regions.write("out", args.out.cast::<u8>(), bytes, MATRIX)?;
    Ok(GemmOut::Values { out: Matrix { base, dtype, row_stride, group_stride }, accumulate })
}

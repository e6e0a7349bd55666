//! `nvfp4_linear` and `nvfp4_grouped_linear`: layers that quantize their input if asked to, and multiply.
#![allow(non_camel_case_types)]

use core::ffi::c_void;

use super::check::{self, CACHE_LINE, MATRIX, Regions};
use super::context::Context;
use super::gemm::{
    self, NVFP4_GEMM_BATCH_INVARIANT, NVFP4_GEMM_DEPENDENT_LAUNCH, nvfp4_gemm_flags, nvfp4_grouped_gemm_args,
};
use super::handles::nvfp4_weights;
use super::operand;
use super::stream::Stream;
use super::types::*;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::Job;
use crate::plan::dequantize::QuantIn;
use crate::plan::gemm::{Activation, Activations, GemmProblem};
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope};
use crate::plan::scratch::Scratch;

/// Arguments of nvfp4_grouped_linear and nvfp4_linear: [tokens, G, K] -> [tokens, G, N], group g by weights g.
/// G is the number of groups of the weights; nvfp4_linear has 1.
///
/// Static decode scales come from a checkpoint, or from a sample by nvfp4_amax_scale with the same shape (rows G * tokens,
/// NVFP4_GROUPING_STRIDED, src_row_stride G * K, src_group_stride K, scope TENSOR or GROUP).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_grouped_linear_args {
    /// sizeof(nvfp4_grouped_linear_args).
    pub struct_size: usize,
    /// Prepared weights [G, N, K] of the same context.
    pub weights: *const nvfp4_weights,
    /// Rows, 0 or more.
    pub tokens: i64,
    /// [tokens, G, K] values, 16-byte aligned. NULL when a_dtype is NVFP4.
    pub a: *const c_void,
    /// BF16 or F16; F32 where quantize is 1; or NVFP4 (a_quantized).
    pub a_dtype: nvfp4_dtype,
    /// 1: values are quantized first; 0: they are multiplied as they are.
    pub quantize: u32,
    /// Elements between tokens of a; 0: G * K.
    pub a_row_stride: i64,
    /// Elements between groups of a; 0: K.
    pub a_group_stride: i64,
    /// NVFP4 activations of any quantizer, [G, tokens, K/2] codes: logical row g * tokens + t, as
    /// NVFP4_GROUPING_STRIDED writes them. Decode scales of any scope (GROUP for nvfp4_grouped_linear). All zero otherwise.
    pub a_quantized: nvfp4_quantized_input,
    /// quantize 1: one of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// quantize 1: what shares a decode scale; ROW makes a token's codes its own.
    pub scope: nvfp4_scope,
    /// quantize 1: float array by scope in device memory, row g * tokens + t; NULL: dynamic.
    pub static_decode_scales: *const f32,
    /// [G, N] added to the scaled product, 16-byte aligned, in the row order of the canonical weights; NULL: none.
    pub bias: *const c_void,
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
    /// NVFP4_GEMM_* or'ed; _DEPENDENT_LAUNCH counts where quantize is 0: behind its own quantizer the product starts early.
    pub flags: nvfp4_gemm_flags,
    /// [tokens, G, output columns] values, written; 16-byte aligned. NULL when out_dtype is NVFP4.
    pub out: *mut c_void,
    /// BF16, F16, F32, or NVFP4 (out_quantized).
    pub out_dtype: nvfp4_dtype,
    /// Must be 0.
    pub reserved: u32,
    /// Elements between tokens of out; 0: G * output columns.
    pub out_row_stride: i64,
    /// Elements between groups of out; 0: output columns.
    pub out_group_stride: i64,
    /// NVFP4 output, as of nvfp4_grouped_gemm with strided groups: logical row g * tokens + t. All zero otherwise.
    pub out_quantized: nvfp4_quantized,
    /// Scratch in device memory, 64-byte aligned; NULL where nvfp4_grouped_linear_workspace_size says 0.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: usize,
}

/// Arguments of nvfp4_linear: those of the grouped layer, with weights of one group.
pub type nvfp4_linear_args = nvfp4_grouped_linear_args;

zeroed_default!(nvfp4_grouped_linear_args);

/// Which of the two functions is called.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    One,
    Grouped,
}

/// Quantizes the input if asked to, and multiplies it with the weights.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn linear(
    context: &Context,
    args: &nvfp4_grouped_linear_args,
    form: Form,
    weights: &Weights,
    stream: &Stream,
) -> Result<()> {
    stream.check(context)?;
    let mut regions = Regions::default();
    let (job, needed) = plan(context, args, form, weights, &mut regions)?;
    check::workspace(&mut regions, args.workspace, args.workspace_size, needed)?;
    regions.check_overlap()?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(job, weights.keep(), None) }
}

/// Bytes of workspace that [`linear`] needs.
pub fn linear_workspace_size(
    context: &Context,
    args: &nvfp4_grouped_linear_args,
    form: Form,
    weights: &Weights,
) -> Result<usize> {
    context.check_process()?;
    plan(context, args, form, weights, &mut Regions::of_shapes()).map(|(_, needed)| needed)
}

/// The jobs of a call in their order, and the bytes of its workspace.
pub(super) fn jobs(
    context: &Context,
    args: &nvfp4_grouped_linear_args,
    form: Form,
    weights: &Weights,
    regions: &mut Regions,
) -> Result<(Vec<Job>, usize)> {
    let (job, needed) = plan(context, args, form, weights, regions)?;
    Ok((vec![job], needed))
}

fn plan(
    context: &Context,
    args: &nvfp4_grouped_linear_args,
    form: Form,
    weights: &Weights,
    regions: &mut Regions,
) -> Result<(Job, usize)> {
    weights.check(context, "weights")?;
    let shape = weights.plan().shape;
    check::reserved("reserved", args.reserved)?;
    gemm::check_flags(args.flags)?;
    let tokens = check::count("tokens", args.tokens, 0, i64::MAX)?;
    if form == Form::One && shape.groups != 1 {
        return Err(Error::Mismatch {
            argument: "weights",
            value: format!("{} groups", shape.groups),
            expected: "weights of 1 group, or nvfp4_grouped_linear".into(),
        });
    }
    tokens.checked_mul(shape.groups).ok_or(Error::TooLarge { argument: "a" })?;
    let groups = match form {
        Form::One => Groups::None { rows: tokens },
        Form::Grouped => Groups::Strided { count: shape.groups, rows: tokens },
    };
    regions.read("weights", weights.plan().storage.get(), weights.storage_bytes(), CACHE_LINE)?;

    let mut scratch = Scratch::new(Ptr::from_mut(args.workspace.cast()));
    let (a, quantize) = input(args, &groups, shape.cols, &mut scratch, regions)?;
    let tail = tail(args, &groups, shape.rows);
    let activation = gemm::activation(&tail, &shape)?;
    let cols = if matches!(activation, Activation::SwiGlu(_)) { shape.rows / 2 } else { shape.rows };
    let bias = gemm::bias(&tail, &shape, regions)?;
    let out = gemm::output(&tail, &groups, cols, activation, regions)?;
    let batch_invariant = args.flags & NVFP4_GEMM_BATCH_INVARIANT != 0;
    // A quantizer of this very call begins behind all that was there before, so that weights may be read beside it.
    let dependent_launch = args.flags & NVFP4_GEMM_DEPENDENT_LAUNCH != 0 || quantize.is_some();
    let mut product = GemmProblem {
        groups,
        a,
        weights: weights.plan(),
        bias,
        activation,
        out,
        batch_invariant,
        dependent_launch,
        workspace: Ptr::NULL,
        plan: None,
    };
    let backend = context.backend();
    let size = match &quantize {
        Some(quantize) => backend.quantized_gemm_workspace_size(quantize, &mut product),
        None => backend.gemm_workspace_size(&mut product),
    };
    product.workspace = scratch.take(size.ok_or(Error::TooLarge { argument: "workspace" })?, 1);
    let needed = scratch.bytes().ok_or(Error::TooLarge { argument: "workspace" })?;
    let job = match quantize {
        Some(quantize) => Job::QuantizedGemm(quantize, product),
        None => Job::Gemm(product),
    };
    Ok((job, needed))
}

/// What the product does with its result, in the words of the grouped product: defaults of a layer filled in.
fn tail(args: &nvfp4_grouped_linear_args, groups: &Groups, rows: usize) -> nvfp4_grouped_gemm_args {
    let cols = if args.activation == NVFP4_ACTIVATION_SWIGLU { rows / 2 } else { rows } as i64;
    let or = |value: i64, default: Option<i64>| if value == 0 { default.unwrap_or(i64::MAX) } else { value };
    let (out_row_stride, out_group_stride) = match groups {
        Groups::Strided { count, .. } if args.out_dtype != NVFP4_DTYPE_NVFP4 => {
            let row = cols.checked_mul((*count).max(1) as i64);
            (or(args.out_row_stride, row), or(args.out_group_stride, Some(cols)))
        }
        _ => (args.out_row_stride, args.out_group_stride),
    };
    nvfp4_grouped_gemm_args {
        bias: args.bias,
        bias_dtype: args.bias_dtype,
        activation: args.activation,
        limit: args.limit,
        alpha: args.alpha,
        beta: args.beta,
        flags: args.flags,
        out: args.out,
        out_dtype: args.out_dtype,
        out_row_stride,
        out_group_stride,
        out_quantized: args.out_quantized,
        ..Default::default()
    }
}

/// Operand A, and what has to be done for it.
fn input(
    args: &nvfp4_grouped_linear_args,
    groups: &Groups,
    cols: usize,
    scratch: &mut Scratch,
    regions: &mut Regions,
) -> Result<(Activations, Option<QuantizeProblem>)> {
    let unused = |argument: &'static str, present: bool, why: &str| match present {
        true => Err(Error::Conflict { argument, problem: format!("not used {why}; leave it 0") }),
        false => Ok(()),
    };
    let quantize = check::flag("quantize", args.quantize)?;
    if !quantize {
        unused("scale_rule", args.scale_rule != 0, "when quantize is 0")?;
        unused("scope", args.scope != 0, "when quantize is 0")?;
        unused("static_decode_scales", !args.static_decode_scales.is_null(), "when quantize is 0")?;
    }
    if args.a_dtype == NVFP4_DTYPE_NVFP4 {
        let why = "when a_dtype is NVFP4";
        unused("quantize", quantize, why)?;
        unused("a", !args.a.is_null(), why)?;
        unused("a_row_stride", args.a_row_stride != 0, why)?;
        unused("a_group_stride", args.a_group_stride != 0, why)?;
        let a = operand::quantized_rows(&args.a_quantized, groups, cols, regions)?;
        return Ok((Activations::Codes(a), None));
    }
    let q = &args.a_quantized;
    let present = !(q.codes.is_null() && q.scales.is_null() && q.decode_scales.is_null());
    unused("a_quantized", present, "by this a_dtype")?;
    let src = values(args, groups, cols, regions)?;
    if !quantize {
        if src.dtype == Dtype::F32 {
            return Err(Error::Conflict {
                argument: "a_dtype",
                problem: "F32 values are quantized first; pass quantize = 1, or BF16 or F16 values".into(),
            });
        }
        return Ok((Activations::Values { a: src, scope: Scope::Tensor, decode: Ptr::NULL }, None));
    }
    let rule = check::scale_rule("scale_rule", args.scale_rule)?;
    let scope = check::scope("scope", args.scope, groups)?;
    let entries = check::scope_entries(scope, groups);
    let (rows, codes_row_stride, row_stride) = (groups.total_rows(), cols / 2, cols / BLOCK);
    let codes = scratch.take(rows, codes_row_stride);
    let scales = Scales { base: scratch.take(rows, row_stride), layout: ScaleLayout::Linear, row_stride };
    let (written, read) = match args.static_decode_scales.is_null() {
        true => {
            let decode = scratch.take(entries, size_of::<f32>());
            (DecodeScales::Dynamic(decode), decode)
        }
        false => {
            let given = regions.read_array("static_decode_scales", args.static_decode_scales, entries)?;
            (DecodeScales::Static(given), given)
        }
    };
    let out = QuantOut { codes, codes_row_stride, scales, rule, scope, decode: written };
    let codes_group_stride = match groups {
        Groups::Strided { rows, .. } => rows.saturating_mul(codes_row_stride),
        _ => 0,
    };
    let a = QuantIn { codes, codes_row_stride, codes_group_stride, scales, scope, decode: read };
    let producer = Producer::Plain { src };
    let problem =
        QuantizeProblem { groups: *groups, cols, producer, activated: None, out: Some(out), amax: None };
    Ok((Activations::Codes(a), Some(problem)))
}

/// [tokens, G, K] as rows of strided groups.
fn values(
    args: &nvfp4_grouped_linear_args,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<Matrix> {
    let dtype = match args.a_dtype {
        NVFP4_DTYPE_BF16 | NVFP4_DTYPE_F16 | NVFP4_DTYPE_F32 => check::float_dtype("a_dtype", args.a_dtype)?,
        value => {
            let known = "NVFP4_DTYPE_BF16 (0), _F16 (1), _F32 (2), _NVFP4 (3)";
            return Err(Error::UnknownValue { argument: "a_dtype", value, known });
        }
    };
    let dense = cols.checked_mul(groups.count().max(1)).ok_or(Error::TooLarge { argument: "a" })?;
    let row_stride = match args.a_row_stride {
        0 => dense,
        value => check::stride("a_row_stride", value, cols)?,
    };
    let group_stride = match check::read_group_stride("a_group_stride", args.a_group_stride, groups)? {
        0 => cols,
        value => value,
    };
    let bytes = check::grouped_extent("a", groups, row_stride, group_stride, cols, dtype.bytes())?;
    let base = regions.read("a", args.a.cast::<u8>(), bytes, MATRIX)?;
    Ok(Matrix { base, dtype, row_stride, group_stride })
}

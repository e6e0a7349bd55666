//! The steps of `nvfp4_moe_forward`: its arguments checked, its workspace laid out, its problems put together.

use core::ffi::c_void;

use super::super::check::{self, CACHE_LINE, Regions};
use super::super::context::Context;
use super::super::gemm::{
    self, NVFP4_GEMM_BATCH_INVARIANT, NVFP4_GEMM_DEPENDENT_LAUNCH, nvfp4_grouped_gemm_args,
};
use super::super::operand;
use super::super::types::*;
use super::super::weights::Weights;
use super::forward::nvfp4_moe_forward_args;
use super::route;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::dequantize::QuantIn;
use crate::plan::gemm::{Activation, Activations, GemmOut, GemmProblem};
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::moe::{
    CombineProblem, DispatchProblem, Gather, GatherProblem, PermuteProblem, RoundProblem, RouteProblem,
};
use crate::plan::quantize::{DecodeScales, DecodedOut, QuantOut, Scales, Scope};
use crate::plan::scratch::Scratch;

/// The steps of a layer.
pub struct Steps {
    pub dispatch: DispatchProblem,
    pub first: GemmProblem,
    /// Where the first product's rows are rounded to NVFP4 by themselves.
    pub round: Option<RoundProblem>,
    pub second: GemmProblem,
    pub combine: CombineProblem,
}

/// A product's input between the steps: how it is written, and how it is read.
#[derive(Clone, Copy)]
enum Rows {
    Values(Matrix),
    Codes(QuantOut, QuantIn),
    /// NVFP4 as the bfloat16 rows that it stands for.
    Decoded(DecodedOut),
}

/// How activations become NVFP4.
#[derive(Clone, Copy)]
struct Rounding {
    rule: ScaleRule,
    /// Products of this backend rather multiply decoded rows.
    decodes: bool,
}

impl Rows {
    /// `rows` rows of `cols` values in the scratch. NVFP4 where there is a rounding; `given`: its static decode scales.
    fn take(
        scratch: &mut Scratch,
        (rows, cols): (usize, usize),
        dtype: Dtype,
        rounding: Option<Rounding>,
        given: Option<(Scope, Ptr<f32>)>,
    ) -> Rows {
        let Some(Rounding { rule, decodes }) = rounding else {
            return Rows::Values(matrix(scratch, (rows, cols), dtype));
        };
        let scales_of = |scratch: &mut Scratch| match given {
            Some((scope, given)) => (scope, DecodeScales::Static(given), given),
            None => {
                let decode = scratch.take(rows, size_of::<f32>());
                (Scope::Row, DecodeScales::Dynamic(decode), decode)
            }
        };
        if decodes {
            let rows = matrix(scratch, (rows, cols), Dtype::Bf16);
            let (scope, decode, _) = scales_of(scratch);
            return Rows::Decoded(DecodedOut { rows, rule, scope, decode });
        }
        let (codes_row_stride, row_stride) = (cols / 2, cols / BLOCK);
        let codes = scratch.take(rows, codes_row_stride);
        let base = scratch.take(rows, row_stride);
        let scales = Scales { base, layout: ScaleLayout::Linear, row_stride };
        let (scope, written, read) = scales_of(scratch);
        Rows::Codes(
            QuantOut { codes, codes_row_stride, scales, rule, scope, decode: written },
            QuantIn { codes, codes_row_stride, codes_group_stride: 0, scales, scope, decode: read },
        )
    }

    fn read(self) -> Activations {
        match self {
            Rows::Values(a) => Activations::Values { a, scope: Scope::Tensor, decode: Ptr::NULL },
            Rows::Codes(_, input) => Activations::Codes(input),
            Rows::Decoded(DecodedOut { rows: a, scope, decode, .. }) => {
                let (DecodeScales::Static(decode) | DecodeScales::Dynamic(decode)) = decode;
                Activations::Values { a, scope, decode }
            }
        }
    }
}

/// Dense rows in the scratch.
fn matrix(scratch: &mut Scratch, (rows, cols): (usize, usize), dtype: Dtype) -> Matrix {
    let base = scratch.take(rows, cols.saturating_mul(dtype.bytes()));
    Matrix { base, dtype, row_stride: cols, group_stride: 0 }
}

/// Where tokens come from.
enum Hidden {
    Values(Matrix),
    Codes(QuantIn),
}

/// All steps, and the bytes of their workspace; memory of the caller's goes into `regions`.
pub fn plan(
    context: &Context,
    args: &nvfp4_moe_forward_args,
    w1: &Weights,
    w2: &Weights,
    regions: &mut Regions,
) -> Result<(Steps, usize)> {
    check::reserved("reserved", args.reserved)?;
    if args.flags & !(NVFP4_GEMM_BATCH_INVARIANT | NVFP4_GEMM_DEPENDENT_LAUNCH) != 0 {
        let known = "NVFP4_GEMM_BATCH_INVARIANT (2), _DEPENDENT_LAUNCH (4)";
        return Err(Error::UnknownValue { argument: "flags", value: args.flags, known });
    }
    let (tokens, topk, slots) = super::slots(args.tokens, args.topk)?;
    weights(context, "w1", w1, regions)?;
    weights(context, "w2", w2, regions)?;
    let activation = activation(args, w1, w2)?;
    let (shape1, shape2) = (w1.plan().shape, w2.plan().shape);
    let experts = match args.experts {
        0 => super::experts(shape1.groups as i64, 0)?,
        value => super::experts(value, 1)?,
    };
    let first_expert = super::first_expert(args.first_expert, shape1.groups, experts)?;

    let mut scratch = Scratch::new(Ptr::from_mut(args.workspace.cast()));
    let (route, ids, token_weights) = routes(args, (tokens, topk, slots, experts), &mut scratch, regions)?;
    let permute = PermuteProblem {
        tokens,
        topk,
        experts,
        first_expert,
        local_experts: shape1.groups,
        ids,
        ends: scratch.take(shape1.groups, size_of::<i32>()),
        source_rows: scratch.take(slots, size_of::<i32>()),
        inverse: scratch.take(slots, size_of::<i32>()),
    };
    let groups = permute.groups();

    let (hidden, dtype) = hidden(args, tokens, shape1.cols, regions)?;
    let rounding = match check::flag("quantize", args.quantize)? {
        true => Some(Rounding {
            rule: check::scale_rule("scale_rule", args.scale_rule)?,
            decodes: context.backend().decodes_activations(),
        }),
        false => None,
    };
    // Codes of tokens are gathered as they are.
    let gathered = match hidden {
        Hidden::Codes(_) => rounding.map(|rounding| Rounding { decodes: false, ..rounding }),
        Hidden::Values(_) => rounding,
    };
    let (given1, given2) = static_scales(args, &hidden, &groups, regions)?;
    let h = Rows::take(&mut scratch, (slots, shape2.cols), dtype, rounding, given2);
    // The rows before they are rounded.
    let whole =
        matches!(h, Rows::Decoded(_)).then(|| matrix(&mut scratch, (slots, shape2.cols), Dtype::Bf16));
    // The second product's rows may take the place of the first one's input.
    let (a, y) = scratch.either(
        |scratch| Rows::take(scratch, (slots, shape1.cols), dtype, gathered, given1),
        |scratch| scratch.take::<u8>(slots, shape2.rows.saturating_mul(dtype.bytes())),
    );
    let y = Matrix { base: y, dtype, row_stride: shape2.rows, group_stride: 0 };
    let what = match (hidden, a) {
        (Hidden::Values(src), Rows::Values(dst)) => Gather::Values { src, dst },
        (Hidden::Values(src), Rows::Codes(out, _)) => Gather::Quantize { src, out },
        (Hidden::Values(src), Rows::Decoded(out)) => Gather::Decode { src, out },
        (Hidden::Codes(src), Rows::Codes(out, input)) => Gather::Codes {
            src,
            codes: out.codes,
            codes_row_stride: out.codes_row_stride,
            scales: out.scales,
            decode: input.decode,
        },
        (Hidden::Codes(_), _) => {
            return Err(Error::Conflict {
                argument: "quantize",
                problem: "0, but hidden states that are NVFP4 need 1".into(),
            });
        }
    };
    let (written, round) = match (h, whole) {
        (Rows::Decoded(out), Some(src)) => {
            let round = RoundProblem { rows: permute, cols: shape2.cols, src, out };
            (GemmOut::Values { out: src, accumulate: false }, Some(round))
        }
        (Rows::Codes(out, _), _) => (GemmOut::Codes(out), None),
        (Rows::Values(out) | Rows::Decoded(DecodedOut { rows: out, .. }), _) => {
            (GemmOut::Values { out, accumulate: false }, None)
        }
    };
    let dispatch = DispatchProblem {
        route,
        gather: GatherProblem { permute, cols: shape1.cols, what },
        dependent_launch: args.flags & NVFP4_GEMM_DEPENDENT_LAUNCH != 0,
    };

    let batch_invariant = args.flags & NVFP4_GEMM_BATCH_INVARIANT != 0;
    let product = |a, weights: &Weights, bias, activation, out| {
        let weights = weights.plan();
        let (dependent_launch, workspace) = (false, Ptr::NULL);
        GemmProblem {
            groups,
            a,
            weights,
            bias,
            activation,
            out,
            batch_invariant,
            dependent_launch,
            workspace,
            plan: None,
        }
    };
    let bias1 = bias("bias1", args.bias1, args.bias_dtype, shape1.groups, shape1.rows, regions)?;
    let bias2 = bias("bias2", args.bias2, args.bias_dtype, shape2.groups, shape2.rows, regions)?;
    let mut first = product(a.read(), w1, bias1, activation, written);
    let out = GemmOut::Values { out: y, accumulate: false };
    let mut second = product(h.read(), w2, bias2, Activation::None, out);
    // The ends stand behind the first product's launch, the weights behind more.
    second.dependent_launch = true;
    let size = |p: &mut GemmProblem| {
        context.backend().gemm_workspace_size(p).ok_or(Error::TooLarge { argument: "workspace" })
    };
    let workspace = scratch.take(size(&mut first)?.max(size(&mut second)?), 1);
    (first.workspace, second.workspace) = (workspace, workspace);

    let cols = shape2.rows;
    let combine = CombineProblem {
        tokens,
        topk,
        cols,
        rows: slots,
        y,
        inverse: permute.inverse,
        weights: token_weights,
        scaling: super::scaling("scaling", args.scaling)?,
        shared: super::shared(args.shared, args.shared_dtype, args.shared_row_stride, tokens, cols, regions)?,
        out: super::out(args.out, args.out_dtype, args.out_row_stride, tokens, cols, regions)?,
        in_layer: shape1.groups > 0,
    };
    let needed = scratch.bytes().ok_or(Error::TooLarge { argument: "workspace" })?;
    Ok((Steps { dispatch, first, round, second, combine }, needed))
}

fn weights(context: &Context, name: &'static str, weights: &Weights, regions: &mut Regions) -> Result<()> {
    weights.check(context, name)?;
    regions.read(name, weights.plan().storage.get(), weights.storage_bytes(), CACHE_LINE).map(|_| ())
}

/// Checks that the weights belong together, and the activation between them.
fn activation(args: &nvfp4_moe_forward_args, w1: &Weights, w2: &Weights) -> Result<Activation> {
    let (shape1, shape2) = (w1.plan().shape, w2.plan().shape);
    let gate = nvfp4_grouped_gemm_args {
        activation: args.activation,
        limit: args.limit,
        alpha: args.alpha,
        beta: args.beta,
        ..Default::default()
    };
    let activation = gemm::activation(&gate, &shape1)?;
    let mismatch = |value: String, expected: String| Err(Error::Mismatch { argument: "w2", value, expected });
    if shape2.groups != shape1.groups {
        return mismatch(format!("{} groups", shape2.groups), format!("the {} experts of w1", shape1.groups));
    }
    if shape2.gate_up {
        return mismatch("gate_up = 1".into(), "plain weights".into());
    }
    let width = if shape1.gate_up { shape1.rows / 2 } else { shape1.rows };
    if shape2.cols != width {
        return mismatch(format!("K = {}", shape2.cols), format!("the {width} columns behind w1"));
    }
    Ok(activation)
}

/// The routes that are given, or a router and room for its routes.
fn routes(
    args: &nvfp4_moe_forward_args,
    (tokens, topk, slots, experts): (usize, usize, usize, usize),
    scratch: &mut Scratch,
    regions: &mut Regions,
) -> Result<(Option<RouteProblem>, Ptr<i32>, Ptr<f32>)> {
    if args.logits.is_null() && (slots == 0 || !args.topk_ids.is_null()) {
        let (why, r) = ("without logits", &args.router);
        let router = r.score | r.renormalise | r.groups | r.top_groups | r.scaling.to_bits();
        super::unused("router", router != 0 || !r.bias.is_null(), why)?;
        super::unused("token_mask", !args.token_mask.is_null(), why)?;
        let ids = regions.read_array("topk_ids", args.topk_ids, slots)?;
        return Ok((None, ids, regions.read_array("topk_weights", args.topk_weights, slots)?));
    }
    super::unused("topk_ids", !args.topk_ids.is_null(), "beside logits")?;
    super::unused("topk_weights", !args.topk_weights.is_null(), "beside logits")?;
    let dtype = check::float_dtype("logits_dtype", args.logits_dtype)?;
    let names = ("logits", "logits_row_stride");
    let logits =
        operand::read_rows(names, args.logits, dtype, args.logits_row_stride, tokens, experts, regions)?;
    let route = RouteProblem {
        tokens,
        experts,
        topk,
        logits,
        router: route::router(&args.router, experts, topk, regions)?,
        mask: route::mask(args.token_mask, tokens, regions)?,
        ids: scratch.take(slots, size_of::<i32>()),
        weights: scratch.take(slots, size_of::<f32>()),
    };
    Ok((Some(route), route.ids, route.weights))
}

/// The tokens, and the dtype of what is rounded between the steps.
fn hidden(
    args: &nvfp4_moe_forward_args,
    tokens: usize,
    cols: usize,
    regions: &mut Regions,
) -> Result<(Hidden, Dtype)> {
    let Some(dtype) = super::dtype_or_codes("hidden_dtype", args.hidden_dtype)? else {
        let why = "when hidden_dtype is NVFP4";
        super::unused("hidden", !args.hidden.is_null(), why)?;
        super::unused("hidden_row_stride", args.hidden_row_stride != 0, why)?;
        let groups = Groups::None { rows: tokens };
        let src = operand::quantized_hidden(&args.hidden_quantized, &groups, cols, regions)?;
        return Ok((Hidden::Codes(src), Dtype::Bf16));
    };
    super::unused("hidden_quantized", super::input_is_set(&args.hidden_quantized), "by this hidden_dtype")?;
    if dtype == Dtype::F32 && args.quantize == 0 {
        return Err(Error::Conflict {
            argument: "hidden_dtype",
            problem: "F32 states are quantized first; pass quantize = 1, or BF16 or F16 states".into(),
        });
    }
    let names = ("hidden", "hidden_row_stride");
    let stride = args.hidden_row_stride;
    let src = operand::read_rows(names, args.hidden, dtype, stride, tokens, cols, regions)?;
    Ok((Hidden::Values(src), if dtype == Dtype::F16 { Dtype::F16 } else { Dtype::Bf16 }))
}

type Given = Option<(Scope, Ptr<f32>)>;

/// Static decode scales of both products' inputs.
fn static_scales(
    args: &nvfp4_moe_forward_args,
    hidden: &Hidden,
    groups: &Groups,
    regions: &mut Regions,
) -> Result<(Given, Given)> {
    let (input, intermediate) = (args.static_input_scales, args.static_intermediate_scales);
    if args.quantize == 0 {
        let why = "when quantize is 0";
        super::unused("static_input_scales", !input.is_null(), why)?;
        super::unused("static_intermediate_scales", !intermediate.is_null(), why)?;
        super::unused("scale_rule", args.scale_rule != 0, why)?;
        super::unused("static_scope", args.static_scope != 0, why)?;
    }
    if matches!(hidden, Hidden::Codes(_)) {
        super::unused("static_input_scales", !input.is_null(), "when hidden_dtype is NVFP4")?;
    }
    let scope = match check::scope("static_scope", args.static_scope, groups)? {
        Scope::Row => {
            return Err(Error::UnknownValue {
                argument: "static_scope",
                value: args.static_scope,
                known: "NVFP4_SCOPE_TENSOR (0), _GROUP (1); rows have dynamic scales",
            });
        }
        scope => scope,
    };
    let mut read = |argument, p: *const f32| match p.is_null() {
        true => Ok(None),
        false => {
            let entries = check::scope_entries(scope, groups);
            regions.read_array(argument, p, entries).map(|given| Some((scope, given)))
        }
    };
    Ok((read("static_input_scales", input)?, read("static_intermediate_scales", intermediate)?))
}

fn bias(
    argument: &'static str,
    p: *const c_void,
    dtype: nvfp4_dtype,
    groups: usize,
    rows: usize,
    regions: &mut Regions,
) -> Result<Option<Vector>> {
    let dtype = check::float_dtype("bias_dtype", dtype)?;
    if p.is_null() {
        return Ok(None);
    }
    let entries = groups.checked_mul(rows).ok_or(Error::TooLarge { argument })?;
    operand::read_vector(argument, p, dtype, entries, regions).map(Some)
}

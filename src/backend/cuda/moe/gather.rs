//! Ways into expert order: a CTA a token, or a row of the padded row space where codes with tiled scales are gathered.

use super::steps::{WIDE_GROUPS, permute_params, route_params};
use super::*;
use crate::backend::cuda::rows;
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::plan::groups::Groups;
use crate::plan::memory::Ptr;
use crate::plan::moe::Gather;
use crate::plan::quantize::{DecodeScales, DecodedOut, Producer, QuantOut, QuantizeProblem, Scope};

/// Slots of a call that one launch sorts and gathers, its threads, and tokens up to which it routes them too.
const DISPATCH_SLOTS: usize = 256;
const DISPATCH_THREADS: usize = 256;
const DISPATCH_ROUTED: usize = 2;

/// The launch of a gather, by its parameters.
#[allow(clippy::large_enum_variant)]
pub enum GatherLaunch {
    Values(Launch<GatherParams>),
    Codes(Launch<GatherCodesParams>),
    /// And what makes tiles of the scales, if the first one leaves that.
    Quantize(Launch<GatherRowsParams>, Option<Launch<GatherRowsParams>>),
}

pub fn plan_gather(p: &GatherProblem, facts: &DeviceFacts) -> Option<GatherLaunch> {
    if p.permute.tokens * p.permute.topk == 0 || p.permute.local_experts == 0 {
        return None;
    }
    let tokens = (p.permute.tokens.min(MOST_CTAS), 1);
    // Rows of tiles pass through the padded row space.
    let padded = |scales: &Scales, each: usize| {
        let rows = p.permute.groups().scale_rows(scales.layout.tile_rows());
        (walkers(rows, each, facts), 1)
    };
    Some(match p.what {
        Gather::Values { src, dst } => {
            let params = values(p, src, dst);
            let words = params.row_bytes as usize / 16;
            let parts = if p.permute.tokens < facts.sm_count as usize { words.div_ceil(128) } else { 1 };
            GatherLaunch::Values(Launch::new(SCATTER, (tokens.0, parts.clamp(1, MOST_PARTS)), 128, params))
        }
        Gather::Codes { scales, .. } => {
            let params = codes(p);
            GatherLaunch::Codes(match scales.layout {
                ScaleLayout::Linear => Launch::new(SCATTER_CODES, tokens, 128, params),
                _ => Launch::new(GATHER_CODES, padded(&scales, 16), 128, params),
            })
        }
        Gather::Quantize { src, out } => {
            many_tokens(p, src, out, facts).unwrap_or_else(|| rows(p, src, Out::Codes(out), facts))
        }
        Gather::Decode { src, out } => rows(p, src, Out::Decoded(out), facts),
    })
}

/// Rows of the experts that are quantized and decoded where they are.
pub fn plan_round(p: &RoundProblem, facts: &DeviceFacts) -> Option<Launch<GatherRowsParams>> {
    /// Columns of a warp's row, and its rows that an SM has at once.
    const MOST_COLS: usize = 2048;
    const WARPS: usize = 8;
    const CTAS: usize = 3;
    // A token a row, which is where it goes.
    let permute =
        PermuteProblem { tokens: p.rows.tokens * p.rows.topk, topk: 1, inverse: Ptr::NULL, ..p.rows };
    let gather = GatherProblem { permute, cols: p.cols, what: Gather::Decode { src: p.src, out: p.out } };
    if permute.tokens == 0 || permute.local_experts == 0 {
        return None;
    }
    let (params, form) = quantize(&gather, p.src, Out::Decoded(p.out), facts);
    // As many rows as an even router sends here; few answer sooner with a CTA each.
    let expected = permute.tokens * permute.local_experts / permute.experts.max(1);
    if form == BF16 && p.cols <= MOST_COLS && expected > WARPS * facts.sm_count as usize {
        let grid = walkers(permute.tokens.div_ceil(WARPS), CTAS, facts);
        return Some(Launch::new(ROUND, (grid, 1), 32 * WARPS, params));
    }
    match rows(&gather, p.src, Out::Decoded(p.out), facts) {
        GatherLaunch::Quantize(launch, _) => Some(launch),
        _ => unreachable!("rows are quantized"),
    }
}

/// What comes of rows that are quantized.
#[derive(Clone, Copy)]
enum Out {
    Codes(QuantOut),
    Decoded(DecodedOut),
}

fn rows(p: &GatherProblem, src: Matrix, out: Out, facts: &DeviceFacts) -> GatherLaunch {
    const MOST_THREADS: usize = 512;
    let (params, form) = quantize(p, src, out, facts);
    let most = if form == ANY { MOST_THREADS / 2 } else { MOST_THREADS };
    let threads = (p.cols / BLOCK).next_multiple_of(32).min(most);
    // As many as fit by their registers, so that each loads a token ahead.
    let grid = walkers(p.permute.tokens, 2 * most / threads, facts);
    GatherLaunch::Quantize(Launch::new(SCATTER_QUANTIZE + form, (grid, 1), threads, params), None)
}

/// Many tokens whose rows are whole words → codes. `None`: [`rows`] takes them.
fn many_tokens(p: &GatherProblem, src: Matrix, out: QuantOut, facts: &DeviceFacts) -> Option<GatherLaunch> {
    /// Tokens an SM up to which a block a thread answers sooner.
    const FEW: usize = 8;
    /// Rows that share a scale: warps a CTA at most, and an SM.
    const SHARED_WARPS: (usize, usize) = (8, 40);
    /// Scales one an expert: warps a CTA, and CTAs an SM.
    const EACH_WARPS: usize = 16;
    const EACH_CTAS: usize = 2;
    if p.permute.tokens <= FEW * facts.sm_count as usize {
        return None;
    }
    let (params, form) = quantize(p, src, Out::Codes(out), facts);
    let (tokens, groups, layout) = (p.permute.tokens, p.permute.groups(), out.scales.layout);
    let linear = layout == ScaleLayout::Linear;
    let line = if linear { out.scales.row_stride } else { p.cols / BLOCK };
    let scale_bytes = groups.scale_rows(layout.tile_rows()) * line;
    let shared = params.rows.mode == mode::ROW || out.scope == Scope::Tensor;
    let warps = (p.cols / BLOCK).div_ceil(64);
    let takes = form != ANY
        && scale_bytes.max(out.codes_row_stride) <= u32::MAX as usize
        && all_multiples(16, &[address(out.codes)], &[out.codes_row_stride, p.cols / 2])
        && in_words(&out.scales)
        && p.cols.is_multiple_of(4 * BLOCK)
        && if shared { warps <= SHARED_WARPS.0 } else { out.scope == Scope::Group };
    if !takes {
        return None;
    }
    let turn = if linear { None } else { Some(turn(params, p.cols, layout, &groups)?) };
    let (kernel, grid, threads) = match shared {
        // CTAs that look for their tiles first go on to other tokens.
        true if linear => (TOKENS, tokens.min(MOST_CTAS), 32 * warps),
        true => (TOKENS, walkers(tokens, SHARED_WARPS.1 / warps, facts), 32 * warps),
        false => (TOKENS_EACH, walkers(tokens.div_ceil(EACH_WARPS), EACH_CTAS, facts), 32 * EACH_WARPS),
    };
    Some(GatherLaunch::Quantize(Launch::new(kernel + form, (grid, 1), threads, params), turn))
}

/// Rows of scales → tiles, where they are; `None`: rows that are no whole words, or too long for a CTA.
fn turn(
    params: GatherRowsParams,
    cols: usize,
    layout: ScaleLayout,
    groups: &Groups,
) -> Option<Launch<GatherRowsParams>> {
    /// Units of four rows × four words that a thread has at most.
    const EACH: usize = 2;
    const MOST_THREADS: usize = 1024;
    let (height, words) = (layout.tile_rows(), cols / BLOCK / 16);
    let (kernel, units) = match layout {
        ScaleLayout::Tiled128x4 => (TURN_128X4, words.next_multiple_of(4) * height / 4),
        _ => (TURN_8X4, words * height / 4),
    };
    let takes = cols.is_multiple_of(16 * BLOCK)
        && params.rows.scales.base.is_multiple_of(16)
        && units <= EACH * MOST_THREADS;
    takes.then(|| {
        let grid = groups.scale_rows(height).div_ceil(height);
        Launch::new(kernel, (grid, 1), units.next_multiple_of(32).min(MOST_THREADS), params)
    })
}

/// CTAs that walk over tokens, and parts of a token's columns.
const MOST_CTAS: usize = 1 << 20;
const MOST_PARTS: usize = 8;

fn values(p: &GatherProblem, src: Matrix, dst: Matrix) -> GatherParams {
    let bytes = src.dtype.bytes();
    let (row_bytes, from, to) = (p.cols * bytes, src.row_stride * bytes, dst.row_stride * bytes);
    let vector = all_multiples(16, &[address(src.base), address(dst.base)], &[row_bytes, from, to]);
    GatherParams {
        inverse: address(p.permute.inverse),
        src: address(src.base),
        dst: address(dst.base),
        tokens: p.permute.tokens as u64,
        row_bytes: row_bytes as u64,
        src_row_stride: from as u64,
        dst_row_stride: to as u64,
        topk: p.permute.topk as u32,
        vector: vector as u32,
    }
}

/// Of a gather of codes.
fn codes(p: &GatherProblem) -> GatherCodesParams {
    let Gather::Codes { src, codes, codes_row_stride, scales, decode } = p.what else {
        unreachable!("codes are gathered");
    };
    let addresses = [address(src.codes), address(codes)];
    let strides = [src.codes_row_stride, codes_row_stride, p.cols / 2];
    GatherCodesParams {
        groups: (&p.permute.groups()).into(),
        scale_rows: p.permute.groups().scale_rows(scales.layout.tile_rows()) as u64,
        blocks: (p.cols / BLOCK) as u64,
        source_rows: address(p.permute.source_rows),
        inverse: address(p.permute.inverse),
        src_codes: address(src.codes),
        src_codes_row_stride: src.codes_row_stride as u64,
        src_decode: address(src.decode),
        codes: address(codes),
        codes_row_stride: codes_row_stride as u64,
        decode: address(decode),
        src_scales: (&src.scales).into(),
        scales: (&scales).into(),
        tokens: p.permute.tokens as u64,
        src_scope: params::scope(src.scope),
        vector: all_multiples(16, &addresses, &strides) as u32,
        words: (in_words(&src.scales) && in_words(&scales)) as u32,
        topk: p.permute.topk as u32,
    }
}

/// Forms of the kernels that quantize, in their order.
const BF16: usize = 0;
const F16: usize = 1;
const ANY: usize = 2;

/// Of a gather that quantizes, and the form that takes it.
fn quantize(p: &GatherProblem, src: Matrix, out: Out, facts: &DeviceFacts) -> (GatherRowsParams, usize) {
    let decoded = matches!(out, Out::Decoded(_));
    let out = match out {
        Out::Codes(out) => out,
        Out::Decoded(DecodedOut { rows, rule, scope, decode }) => QuantOut {
            codes: rows.base,
            codes_row_stride: rows.row_stride * rows.dtype.bytes(),
            scales: Scales { base: Ptr::NULL, layout: ScaleLayout::Linear, row_stride: 0 },
            rule,
            scope,
            decode,
        },
    };
    let problem = QuantizeProblem {
        groups: p.permute.groups(),
        cols: p.cols,
        producer: Producer::Plain { src },
        activated: None,
        out: Some(out),
        amax: None,
    };
    let mut base = rows::base_params(&problem, facts, out.scope);
    (base.mode, base.decode) = match out.decode {
        DecodeScales::Static(given) => (mode::STATIC, address(given)),
        DecodeScales::Dynamic(slots) => (mode::ROW, address(slots)),
    };
    let hot = out.rule == ScaleRule::Amax && rows::is_aligned(&problem);
    let form = match src.dtype {
        Dtype::Bf16 if hot => BF16,
        Dtype::F16 if hot => F16,
        _ => ANY,
    };
    let params = GatherRowsParams {
        rows: base,
        inverse: address(p.permute.inverse),
        ids: address(p.permute.ids),
        tokens: p.permute.tokens as u64,
        topk: p.permute.topk as u32,
        first_expert: p.permute.first_expert as u32,
        decoded: decoded as u32,
        reserved: 0,
    };
    (params, form)
}

/// Everything in front of a layer's products as one launch, or two.
pub struct DispatchPlan {
    /// Routing in a launch of its own.
    pub route: Option<Launch<RouteParams>>,
    pub gather: DispatchLaunch,
}

#[allow(clippy::large_enum_variant)]
pub enum DispatchLaunch {
    Values(Launch<DispatchParams<GatherParams>>),
    Codes(Launch<DispatchParams<GatherCodesParams>>),
    Quantize(Launch<DispatchParams<GatherRowsParams>>),
}

/// `None`: each step by itself.
pub fn plan_dispatch(p: &DispatchProblem, facts: &DeviceFacts) -> Option<DispatchPlan> {
    let permute = &p.gather.permute;
    let slots = permute.tokens * permute.topk;
    if slots == 0 || slots > DISPATCH_SLOTS || permute.local_experts == 0 {
        return None;
    }
    let routed = p.route.filter(|route| {
        let wide = route.experts <= DISPATCH_THREADS && route.router.groups <= WIDE_GROUPS;
        wide && permute.tokens <= DISPATCH_ROUTED
    });
    let route = if routed.is_some() { None } else { p.route.and_then(|route| plan_route(&route, facts)) };
    let routing = routed.map_or(RouteParams::default(), |route| route_params(&route, facts));
    let sort = permute_params(permute, slots, 1, true, facts);
    let routed = routed.is_some() as u32;
    let quantized = |src: Matrix, out: Out| {
        let (gather, form) = quantize(&p.gather, src, out, facts);
        let params = DispatchParams { route: routing, permute: sort, gather, routed, reserved: 0 };
        let kernel = DISPATCH_QUANTIZE + form;
        DispatchLaunch::Quantize(Launch::new(kernel, (permute.tokens, 2), DISPATCH_THREADS, params))
    };
    // A row of CTAs more writes the order.
    let gather = match p.gather.what {
        Gather::Values { src, dst } => {
            let gather = values(&p.gather, src, dst);
            let parts = (gather.row_bytes as usize / 16).div_ceil(DISPATCH_THREADS).clamp(1, MOST_PARTS);
            let params = DispatchParams { route: routing, permute: sort, gather, routed, reserved: 0 };
            DispatchLaunch::Values(Launch::new(
                DISPATCH,
                (permute.tokens, parts + 1),
                DISPATCH_THREADS,
                params,
            ))
        }
        Gather::Codes { scales, .. } if scales.layout == ScaleLayout::Linear => {
            let gather = codes(&p.gather);
            let params = DispatchParams { route: routing, permute: sort, gather, routed, reserved: 0 };
            DispatchLaunch::Codes(Launch::new(DISPATCH_CODES, (permute.tokens, 2), DISPATCH_THREADS, params))
        }
        Gather::Quantize { src, out } if out.scales.layout == ScaleLayout::Linear => {
            quantized(src, Out::Codes(out))
        }
        Gather::Decode { src, out } => quantized(src, Out::Decoded(out)),
        Gather::Codes { .. } | Gather::Quantize { .. } => return None,
    };
    Some(DispatchPlan { route, gather })
}

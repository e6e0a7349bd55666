//! Routing: a CTA a token for few tokens, a warp a token for many. The counting sort: one launch for short calls and three for long
//! ones, whose counts lie in `source_rows` until that is written, so that it needs no workspace. Combining: a CTA a token and
//! a stretch of columns.

use super::*;
use crate::format::dtype::Dtype;

/// Tokens up to which routing has a CTA for each.
const WIDE_TOKENS: usize = 1024;
/// Groups of experts that it takes.
pub(super) const WIDE_GROUPS: usize = 32;
/// Slots up to which each CTA of the sort counts all of them.
const SHORT: usize = 4096;
/// Slots of a chunk of the counting sort otherwise.
const CHUNK: usize = 1024;
/// Every chunk adds up the counts of all of them.
const MOST_CHUNKS: usize = 256;
/// A chunk is a run a warp, of whole warps.
pub(super) const PERMUTE_WARPS: usize = 8;
const LEAST_CHUNK: usize = 32 * PERMUTE_WARPS;
const GRID_Y: usize = 65535;

/// `None`: nothing to do, here and below.
pub fn plan_route(p: &RouteProblem, facts: &DeviceFacts) -> Option<Launch<RouteParams>> {
    const WARPS: usize = 4;
    let params = route_params(p, facts);
    if p.tokens == 0 {
        return None;
    }
    if p.tokens <= WIDE_TOKENS && p.router.groups <= WIDE_GROUPS {
        return Some(Launch::new(ROUTE_FEW, (p.tokens, 1), p.experts.next_multiple_of(32), params));
    }
    let kernel = if p.experts <= 256 { ROUTE } else { ROUTE_MANY };
    let grid = walkers(p.tokens.div_ceil(WARPS), 64, facts);
    Some(Launch::new(kernel, (grid, 1), 32 * WARPS, params))
}

pub(super) fn route_params(p: &RouteProblem, facts: &DeviceFacts) -> RouteParams {
    RouteParams {
        logits: address(p.logits.base),
        logits_row_stride: p.logits.row_stride as u64,
        bias: address(p.router.bias),
        mask: address(p.mask),
        ids: address(p.ids),
        weights: address(p.weights),
        fault: facts.fault,
        tokens: p.tokens as u64,
        dtype: params::dtype(p.logits.dtype),
        score: score(p.router.score),
        experts: p.experts as u32,
        topk: p.topk as u32,
        groups: p.router.groups as u32,
        top_groups: p.router.top_groups as u32,
        renormalise: p.router.renormalise as u32,
        scaling: p.router.scaling,
    }
}

/// Up to three launches.
pub fn plan_permute(p: &PermuteProblem, facts: &DeviceFacts) -> [Option<Launch<PermuteParams>>; 3] {
    let slots = p.tokens * p.topk;
    if slots == 0 && p.local_experts == 0 {
        return [None; 3];
    }
    let is_short = slots <= SHORT;
    let chunk = match is_short {
        true => LEAST_CHUNK,
        // The counts of all of them have room in the source rows.
        false => slots.div_ceil(MOST_CHUNKS).max(CHUNK).max(2 * (p.local_experts + 1)),
    };
    let chunk = chunk.next_multiple_of(LEAST_CHUNK);
    let chunks = slots.div_ceil(chunk).max(1);
    let params = permute_params(p, chunk, chunks, is_short, facts);
    let launch = |kernel, grid| Some(Launch::new(kernel, (grid, 1), 32 * PERMUTE_WARPS, params));
    if is_short {
        return [launch(PLACE, chunks), None, None];
    }
    debug_assert!(chunks * (p.local_experts + 1) <= slots, "the counts fit into source_rows");
    let sources = walkers(slots.div_ceil(LEAST_CHUNK), 8, facts);
    [launch(COUNT, chunks), launch(PLACE, chunks), launch(SOURCES, sources)]
}

pub(super) fn permute_params(
    p: &PermuteProblem,
    chunk: usize,
    chunks: usize,
    is_short: bool,
    facts: &DeviceFacts,
) -> PermuteParams {
    PermuteParams {
        ids: address(p.ids),
        ends: address(p.ends),
        source_rows: address(p.source_rows),
        inverse: address(p.inverse),
        fault: facts.fault,
        slots: (p.tokens * p.topk) as u64,
        chunk: chunk as u64,
        chunks: chunks as u32,
        topk: p.topk as u32,
        experts: p.experts as u32,
        first_expert: p.first_expert as u32,
        local_experts: p.local_experts as u32,
        is_short: is_short as u32,
    }
}

pub fn plan_combine(p: &CombineProblem, facts: &DeviceFacts) -> Option<Launch<CombineParams>> {
    let params = CombineParams {
        y: address(p.y.base),
        y_row_stride: p.y.row_stride as u64,
        inverse: address(p.inverse),
        weights: address(p.weights),
        shared: p.shared.map_or(0, |shared| address(shared.base)),
        shared_row_stride: p.shared.map_or(0, |shared| shared.row_stride as u64),
        out: address(p.out.base),
        out_row_stride: p.out.row_stride as u64,
        fault: facts.fault,
        tokens: p.tokens as u64,
        cols: p.cols as u64,
        rows: p.rows as u64,
        topk: p.topk as u32,
        y_dtype: params::dtype(p.y.dtype),
        shared_dtype: p.shared.map_or(0, |shared| params::dtype(shared.dtype)),
        out_dtype: params::dtype(p.out.dtype),
        scaling: p.scaling,
        early: p.in_layer as u32,
    };
    // Without rows there may be no y, and no slot names one.
    let matrices = [(p.rows > 0).then_some(p.y), p.shared, Some(p.out)];
    let words = p.cols.is_multiple_of(8) && matrices.iter().flatten().all(in_16_bytes);
    let (kernel, threads, a_thread) = match p.y.dtype {
        Dtype::Bf16 if words => (COMBINE_BF16, 128, 8),
        Dtype::F16 if words => (COMBINE_F16, 128, 8),
        _ => (COMBINE_ANY, 256, 1),
    };
    // Short rows leave no warp without work.
    let across = p.cols.div_ceil(a_thread);
    let threads = across.next_multiple_of(32).min(threads);
    let grid = (p.tokens, across.div_ceil(threads).min(GRID_Y));
    (p.tokens > 0).then(|| Launch::new(kernel, grid, threads, params))
}

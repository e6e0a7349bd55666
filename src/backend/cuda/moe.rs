//! Mixture of experts → launches of moe.cu. Twin of backend/cpu/moe.rs.
//!
//! The planners are pure. Routing is a CTA a token for few tokens and a warp a token for many; the counting sort one launch for
//! short calls and three for long ones, whose counts lie in `source_rows` until that is written, so that it needs no
//! workspace; gathers take a CTA a token, or a row of the padded row space where scales are tiled; combines one a token and a
//! stretch of columns. Inside of a layer few slots are sorted and gathered by one launch.

use super::context::DeviceFacts;
use super::launch::{Kernel, Queue};
use super::params::{self, address, mode};
use super::params_moe::*;
use super::rows;
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::memory::Matrix;
use crate::plan::moe::{
    CombineProblem, DispatchProblem, Gather, GatherProblem, PermuteProblem, RouteProblem,
};
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales};

const fn kernel(name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file: "moe", name, registers, threads }
}

/// In the order of the constants below.
pub static KERNELS: &[Kernel] = &[
    kernel("nvfp4_moe_route", 80, 128),
    kernel("nvfp4_moe_route_many", 168, 128),
    kernel("nvfp4_moe_count", 64, 256),
    kernel("nvfp4_moe_place", 64, 256),
    kernel("nvfp4_moe_sources", 64, 256),
    kernel("nvfp4_moe_route_few", 64, 1024),
    kernel("nvfp4_moe_gather_codes", 64, 128),
    kernel("nvfp4_moe_quantize_bf16", 64, 512),
    kernel("nvfp4_moe_quantize_f16", 64, 512),
    kernel("nvfp4_moe_quantize_any", 128, 256),
    kernel("nvfp4_moe_scatter", 64, 128),
    kernel("nvfp4_moe_scatter_codes", 64, 128),
    kernel("nvfp4_moe_scatter_bf16", 64, 512),
    kernel("nvfp4_moe_scatter_f16", 64, 512),
    kernel("nvfp4_moe_scatter_any", 128, 256),
    kernel("nvfp4_moe_dispatch", 128, 256),
    kernel("nvfp4_moe_dispatch_codes", 128, 256),
    kernel("nvfp4_moe_dispatch_bf16", 128, 256),
    kernel("nvfp4_moe_dispatch_f16", 128, 256),
    kernel("nvfp4_moe_dispatch_any", 128, 256),
    kernel("nvfp4_moe_combine_bf16", 102, 128),
    kernel("nvfp4_moe_combine_f16", 102, 128),
    kernel("nvfp4_moe_combine_any", 64, 256),
];

const ROUTE: usize = 0;
const ROUTE_MANY: usize = 1;
const COUNT: usize = 2;
const PLACE: usize = 3;
const SOURCES: usize = 4;
const ROUTE_FEW: usize = 5;
const GATHER_CODES: usize = 6;
/// Kernels that quantize, of bf16; those of f16 and of anything follow.
const QUANTIZE: usize = 7;
const SCATTER: usize = 10;
const SCATTER_CODES: usize = 11;
const SCATTER_QUANTIZE: usize = 12;
const DISPATCH: usize = 15;
const DISPATCH_CODES: usize = 16;
const DISPATCH_QUANTIZE: usize = 17;
const COMBINE_BF16: usize = 20;
const COMBINE_F16: usize = 21;
const COMBINE_ANY: usize = 22;

/// Tokens up to which routing has a CTA for each.
const WIDE_TOKENS: usize = 1024;
/// Groups of experts that it takes.
const WIDE_GROUPS: usize = 32;
/// Slots of a call that one launch sorts and gathers, its threads, and tokens up to which it routes them too.
const DISPATCH_SLOTS: usize = 256;
const DISPATCH_THREADS: usize = 256;
const DISPATCH_ROUTED: usize = 2;
/// Slots of a chunk of the counting sort, and of a call that is one chunk.
const CHUNK: usize = 1024;
const ONE_CHUNK: usize = 4 * CHUNK;
/// Every chunk adds up the counts of all of them.
const MOST_CHUNKS: usize = 256;
/// A chunk is a run a warp.
const PERMUTE_WARPS: usize = 8;
const GRID_Y: usize = 65535;

/// One launch.
#[derive(Clone, Copy)]
pub struct Launch<P> {
    pub kernel: &'static Kernel,
    pub grid: (u32, u32),
    pub threads: u32,
    pub params: P,
}

impl<P: Copy> Launch<P> {
    fn new(kernel: usize, grid: (usize, usize), threads: usize, params: P) -> Launch<P> {
        Launch {
            kernel: &KERNELS[kernel],
            grid: (grid.0 as u32, grid.1 as u32),
            threads: threads as u32,
            params,
        }
    }

    /// # Safety
    /// The addresses in the parameters are valid on the device.
    unsafe fn run(&self, queue: &Queue) -> Result<()> {
        // SAFETY: the caller's promise; the struct is the kernel's.
        unsafe { queue.launch(self.kernel, (self.grid.0, self.grid.1, 1), self.threads, 0, &self.params) }
    }

    /// Behind a launch of the same call, which may still be at work: the kernel waits for it.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_early(&self, queue: &Queue) -> Result<()> {
        let grid = (self.grid.0, self.grid.1, 1);
        // SAFETY: the caller's promise; the struct is the kernel's.
        unsafe { queue.launch_dependent(self.kernel, grid, self.threads, 0, &self.params) }
    }
}

/// # Safety
/// Every address of the problem is valid on the device for what its documentation says.
pub unsafe fn route(queue: &Queue, p: &RouteProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_route(p, queue.facts).map_or(Ok(()), |launch| unsafe { launch.run(queue) })
}

/// # Safety
/// As [`route`].
pub unsafe fn permute(queue: &Queue, p: &PermuteProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    let launches = plan_permute(p, queue.facts);
    launches.iter().flatten().enumerate().try_for_each(|(i, launch)| unsafe {
        if i == 0 { launch.run(queue) } else { launch.run_early(queue) }
    })
}

/// Behind [`permute`], which may still be at work.
///
/// # Safety
/// As [`route`]; the permutation was made by [`permute`].
unsafe fn gather(queue: &Queue, p: &GatherProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        match plan_gather(p, queue.facts) {
            None => Ok(()),
            Some(GatherLaunch::Values(launch)) => launch.run_early(queue),
            Some(GatherLaunch::Codes(launch)) => launch.run_early(queue),
            Some(GatherLaunch::Quantize(launch)) => launch.run_early(queue),
        }
    }
}

/// # Safety
/// As [`route`].
pub unsafe fn combine(queue: &Queue, p: &CombineProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_combine(p, queue.facts).map_or(Ok(()), |launch| unsafe {
        if p.in_layer { launch.run_early(queue) } else { launch.run(queue) }
    })
}

/// # Safety
/// As [`route`].
pub unsafe fn dispatch(queue: &Queue, p: &DispatchProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(plan) = plan_dispatch(p, queue.facts) else {
            if let Some(routing) = &p.route {
                route(queue, routing)?;
            }
            permute(queue, &p.gather.permute)?;
            return gather(queue, &p.gather);
        };
        if let Some(route) = &plan.route {
            // The kernels of many tokens do not wait.
            if p.dependent_launch && std::ptr::eq(route.kernel, &KERNELS[ROUTE_FEW]) {
                route.run_early(queue)?;
            } else {
                route.run(queue)?;
            }
        }
        // Behind nothing of this call it is an ordinary launch, unless it may start early there too.
        match (&plan.gather, p.dependent_launch || plan.route.is_some()) {
            (DispatchLaunch::Values(launch), false) => launch.run(queue),
            (DispatchLaunch::Codes(launch), false) => launch.run(queue),
            (DispatchLaunch::Quantize(launch), false) => launch.run(queue),
            (DispatchLaunch::Values(launch), true) => launch.run_early(queue),
            (DispatchLaunch::Codes(launch), true) => launch.run_early(queue),
            (DispatchLaunch::Quantize(launch), true) => launch.run_early(queue),
        }
    }
}

/// CTAs that walk `units`, at most `each` of them an SM.
fn walkers(units: usize, each: usize, facts: &DeviceFacts) -> usize {
    units.min(each * facts.sm_count as usize)
}

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

fn route_params(p: &RouteProblem, facts: &DeviceFacts) -> RouteParams {
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
    let chunk = match slots {
        0..=ONE_CHUNK => slots.max(1),
        // The counts of all of them have room in the source rows.
        _ => slots.div_ceil(MOST_CHUNKS).max(CHUNK).max(2 * (p.local_experts + 1)),
    };
    // Runs of whole warps.
    let chunk = chunk.next_multiple_of(32 * PERMUTE_WARPS);
    let chunks = slots.div_ceil(chunk).max(1);
    let params = permute_params(p, chunk, chunks, facts);
    let launch = |kernel, grid| Some(Launch::new(kernel, (grid, 1), 32 * PERMUTE_WARPS, params));
    if chunks == 1 {
        return [launch(PLACE, 1), None, None];
    }
    debug_assert!(chunks * (p.local_experts + 1) <= slots, "the counts fit into source_rows");
    let sources = walkers(slots.div_ceil(32 * PERMUTE_WARPS), 8, facts);
    [launch(COUNT, chunks), launch(PLACE, chunks), launch(SOURCES, sources)]
}

fn permute_params(p: &PermuteProblem, chunk: usize, chunks: usize, facts: &DeviceFacts) -> PermuteParams {
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
        reserved: 0,
    }
}

/// The launch of a gather, by its parameters.
#[allow(clippy::large_enum_variant)]
pub enum GatherLaunch {
    Values(Launch<GatherParams>),
    Codes(Launch<GatherCodesParams>),
    Quantize(Launch<GatherRowsParams>),
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
            const MOST_THREADS: usize = 512;
            let (params, form) = quantize(p, src, out, facts);
            let most = if form == ANY { MOST_THREADS / 2 } else { MOST_THREADS };
            let threads = (p.cols / BLOCK).next_multiple_of(32).min(most);
            GatherLaunch::Quantize(match out.scales.layout {
                ScaleLayout::Linear => {
                    let grid = walkers(p.permute.tokens, 2048 / threads, facts);
                    Launch::new(SCATTER_QUANTIZE + form, (grid, 1), threads, params)
                }
                _ => Launch::new(QUANTIZE + form, padded(&out.scales, 2048 / threads), threads, params),
            })
        }
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
fn quantize(p: &GatherProblem, src: Matrix, out: QuantOut, facts: &DeviceFacts) -> (GatherRowsParams, usize) {
    let problem = QuantizeProblem {
        groups: p.permute.groups(),
        cols: p.cols,
        producer: Producer::Plain { src },
        activated: None,
        out: Some(out),
        amax: None,
    };
    let mut base = rows::base_params(&problem, facts, out.scope);
    base.scale_rows = problem.groups.scale_rows(out.scales.layout.tile_rows()) as u64;
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
        source_rows: address(p.permute.source_rows),
        inverse: address(p.permute.inverse),
        ids: address(p.permute.ids),
        tokens: p.permute.tokens as u64,
        topk: p.permute.topk as u32,
        first_expert: p.permute.first_expert as u32,
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
    let sort = permute_params(permute, slots, 1, facts);
    let routed = routed.is_some() as u32;
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
            let (gather, form) = quantize(&p.gather, src, out, facts);
            let params = DispatchParams { route: routing, permute: sort, gather, routed, reserved: 0 };
            let kernel = DISPATCH_QUANTIZE + form;
            DispatchLaunch::Quantize(Launch::new(kernel, (permute.tokens, 2), DISPATCH_THREADS, params))
        }
        _ => return None,
    };
    Some(DispatchPlan { route, gather })
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

fn all_multiples(of: usize, addresses: &[u64], sizes: &[usize]) -> bool {
    addresses.iter().all(|a| a.is_multiple_of(of as u64)) && sizes.iter().all(|s| s.is_multiple_of(of))
}

fn in_16_bytes(m: &Matrix) -> bool {
    all_multiples(16, &[address(m.base)], &[m.row_stride * m.dtype.bytes()])
}

/// Whether four neighbouring scales of a row, from a column that is a multiple of four on, are an aligned word.
fn in_words(s: &Scales) -> bool {
    let strides = if s.layout == ScaleLayout::Linear { s.row_stride } else { 0 };
    all_multiples(4, &[address(s.base)], &[strides])
}

#[cfg(test)]
mod tests;

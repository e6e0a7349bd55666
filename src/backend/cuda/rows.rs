//! Quantizing problems → launches of quantize.cu, norm.cu and swiglu.cu. Twin of backend/cpu/rows.rs.
//!
//! `plan` is pure: (problem, device facts) → up to four steps. Aligned rows go to the passes that hold a block a thread
//! (known scales) or whole rows in registers (scales per row, norms); everything else to one general kernel.
//! Scales of a tensor or of groups take two looks: the array of decode scales holds amax bits in between, as on the CPU.

use super::context::DeviceFacts;
use super::launch::{Kernel, Queue};
use super::params::{self, FinishParams, MatrixParams, RoutesParams, RowsParams, address, mode, producer};
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{
    DecodeScales, GatedActivation, NormInput, Producer, QuantizeProblem, Scope, StageProblem,
};

const fn kernel(file: &'static str, name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file, name, registers, threads }
}

/// By what they do; `find` looks them up by name.
pub static KERNELS: &[Kernel] = &[
    kernel("quantize", "nvfp4_quantize_bf16_amax", 80, 256),
    kernel("quantize", "nvfp4_quantize_f16_amax", 80, 256),
    kernel("quantize", "nvfp4_quantize_f32_amax", 80, 256),
    kernel("quantize", "nvfp4_quantize_bf16_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_f16_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_f32_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_bf16_min_mse", 64, 256),
    kernel("quantize", "nvfp4_quantize_f16_min_mse", 64, 256),
    kernel("quantize", "nvfp4_quantize_f32_min_mse", 64, 256),
    kernel("quantize", "nvfp4_amax_bf16", 64, 256),
    kernel("quantize", "nvfp4_amax_f16", 64, 256),
    kernel("quantize", "nvfp4_amax_f32", 64, 256),
    kernel("quantize", "nvfp4_rows_bf16", 64, 512),
    kernel("quantize", "nvfp4_rows_f16", 64, 512),
    kernel("quantize", "nvfp4_rows_f32", 128, 512),
    kernel("quantize", "nvfp4_rows_bf16_x4", 72, 448),
    kernel("quantize", "nvfp4_rows_f16_x4", 72, 448),
    kernel("quantize", "nvfp4_rows_bf16_long", 64, 512),
    kernel("quantize", "nvfp4_rows_f16_long", 64, 512),
    kernel("quantize", "nvfp4_rows_f32_long", 128, 512),
    kernel("quantize", "nvfp4_rows_bf16_rule", 128, 512),
    kernel("quantize", "nvfp4_rows_f16_rule", 128, 512),
    kernel("quantize", "nvfp4_rows_f32_rule", 128, 512),
    kernel("quantize", "nvfp4_general", 128, 256),
    kernel("quantize", "nvfp4_finish_scales", 32, 256),
    kernel("quantize", "nvfp4_stage_routes", 32, 256),
    kernel("norm", "nvfp4_norm_bf16", 64, 512),
    kernel("norm", "nvfp4_norm_f16", 64, 512),
    kernel("norm", "nvfp4_norm_bf16_x4", 144, 448),
    kernel("norm", "nvfp4_norm_f16_x4", 144, 448),
    kernel("norm", "nvfp4_norm_bf16_rule", 128, 512),
    kernel("norm", "nvfp4_norm_f16_rule", 128, 512),
    kernel("norm", "nvfp4_norm_f32_rule", 128, 512),
    kernel("norm", "nvfp4_hyper_bf16", 128, 512),
    kernel("norm", "nvfp4_hyper_f16", 128, 512),
    kernel("norm", "nvfp4_hyper_bf16_rule", 128, 512),
    kernel("norm", "nvfp4_hyper_f16_rule", 128, 512),
    kernel("swiglu", "nvfp4_gated_bf16", 128, 256),
    kernel("swiglu", "nvfp4_gated_f16", 128, 256),
    kernel("swiglu", "nvfp4_gated_amax_bf16", 64, 256),
    kernel("swiglu", "nvfp4_gated_amax_f16", 64, 256),
    kernel("swiglu", "nvfp4_gated_rows_bf16", 64, 512),
    kernel("swiglu", "nvfp4_gated_rows_f16", 64, 512),
    kernel("swiglu", "nvfp4_gated_rows_bf16_rule", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_f16_rule", 128, 512),
];

fn find(parts: [&str; 3]) -> &'static Kernel {
    // Asked at every launch: names of another length, or with another end, are most of them.
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let matches = |k: &&Kernel| {
        let mut rest = k.name;
        rest.len() == length && parts.iter().rev().all(|p| rest.strip_suffix(p).map(|r| rest = r).is_some())
    };
    KERNELS.iter().find(matches).expect("the planner names kernels of its table")
}

/// Blocks that a thread of `cached_rows` may hold, times the threads of a CTA.
const CACHED_THREADS: usize = 512;
/// Threads of a CTA that holds four rows: more would not leave each the registers it needs.
const FOUR_ROWS_THREADS: usize = 448;
/// Columns that the passes with 32-bit block indices take.
const MOST_BLOCKS: usize = 1 << 24;
const GRID_Y: usize = 65535;

/// One thing to put on the stream. Four of them live on the stack of a call: boxing would allocate.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy)]
pub enum Step {
    /// Words of zeros.
    Zero {
        dst: u64,
        words: usize,
    },
    Rows {
        kernel: &'static Kernel,
        grid: (u32, u32),
        threads: u32,
        params: RowsParams,
    },
    Finish {
        blocks: u32,
        params: FinishParams,
    },
}

/// The steps of a call, in order.
#[derive(Clone, Copy, Default)]
pub struct Plan {
    steps: [Option<Step>; 4],
    len: usize,
}

impl Plan {
    fn push(&mut self, step: Step) {
        self.steps[self.len] = Some(step);
        self.len += 1;
    }
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flatten()
    }
}

/// Carries out one quantizing (or amax) call.
///
/// # Safety
/// Every address of the problem is valid on the device for what its documentation says.
pub unsafe fn quantize(queue: &Queue, p: &QuantizeProblem) -> Result<()> {
    for step in plan(p, queue.facts).steps() {
        // SAFETY: the caller's promise; the structs are the kernels'.
        unsafe {
            match step {
                Step::Zero { dst, words } => queue.memset32(*dst, 0, *words)?,
                Step::Rows { kernel, grid, threads, params } => {
                    queue.launch(kernel, (grid.0, grid.1, 1), *threads, 0, params)?;
                }
                Step::Finish { blocks, params } => {
                    queue.launch(find(["nvfp4_finish_scales", "", ""]), (*blocks, 1, 1), 256, 0, params)?;
                }
            }
        }
    }
    Ok(())
}

/// Quantizes the tokens and copies the routes.
///
/// # Safety
/// As [`quantize`].
pub unsafe fn stage(queue: &Queue, p: &StageProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        quantize(queue, &p.quantize)?;
        let (kernel, blocks, params) = routes(p);
        queue.launch(kernel, (blocks, 1, 1), 256, 0, &params)
    }
}

/// The launch behind a staging call's tokens.
pub fn routes(p: &StageProblem) -> (&'static Kernel, u32, RoutesParams) {
    let params = RoutesParams {
        ids_in: address(p.ids_in),
        ids_out: address(p.ids_out),
        weights_in: address(p.weights_in),
        weights_out: address(p.weights_out),
        count: p.routes as u64,
    };
    (find(["nvfp4_stage_routes", "", ""]), p.routes.div_ceil(256).min(4096) as u32, params)
}

/// Which launches carry out a problem.
pub fn plan(p: &QuantizeProblem, facts: &DeviceFacts) -> Plan {
    let mut plan = Plan::default();
    let (scope, decode) = match (&p.out, p.amax) {
        (Some(out), _) => (out.scope, out.decode),
        (None, Some((scope, decode))) => (scope, DecodeScales::Dynamic(decode)),
        (None, None) => return plan,
    };
    let passes = Passes { p, facts, base: base_params(p, facts, scope), fast: is_aligned(p) };
    match decode {
        DecodeScales::Dynamic(slots) if scope != Scope::Row => {
            let count = if scope == Scope::Tensor { 1 } else { p.groups.count() };
            plan.push(Step::Zero { dst: address(slots), words: count });
            passes.push(&mut plan, mode::FIND_AMAX, slots, true);
            if p.out.is_some() {
                passes.push(&mut plan, mode::FROM_AMAX, slots, false);
            }
            if count > 0 {
                let params = FinishParams { decode: address(slots), count: count as u64 };
                plan.push(Step::Finish { blocks: count.div_ceil(256) as u32, params });
            }
        }
        DecodeScales::Dynamic(slots) if p.out.is_some() => passes.push(&mut plan, mode::ROW, slots, true),
        DecodeScales::Dynamic(slots) => passes.push(&mut plan, mode::ROW_AMAX, slots, true),
        DecodeScales::Static(given) => passes.push(&mut plan, mode::STATIC, given, true),
    }
    plan
}

/// Everything of a problem that its passes share.
fn base_params(p: &QuantizeProblem, facts: &DeviceFacts, scope: Scope) -> RowsParams {
    let mut params = RowsParams {
        groups: (&p.groups).into(),
        cols: p.cols as u64,
        fault: facts.fault,
        scope: params::scope(scope),
        ..RowsParams::default()
    };
    if let Some(out) = &p.out {
        params.codes = address(out.codes);
        params.codes_row_stride = out.codes_row_stride as u64;
        params.scales = (&out.scales).into();
        params.rule = params::rule(out.rule);
    }
    let copy = |m: Option<Matrix>| m.as_ref().map_or(MatrixParams::default(), MatrixParams::from);
    let src = source(&p.producer);
    params.src = (&src).into();
    params.dtype = params::dtype(src.dtype);
    match &p.producer {
        Producer::Plain { .. } => params.producer = producer::PLAIN,
        Producer::Transposed { .. } => params.producer = producer::TRANSPOSED,
        Producer::Gated { interleaved, activation, .. } => {
            params.copy = copy(p.activated);
            params.interleaved = *interleaved as u32;
            params.producer = match activation {
                GatedActivation::SwiGlu(s) => {
                    (params.limit, params.alpha, params.beta) = (s.limit, s.alpha, s.beta);
                    producer::SWIGLU
                }
                GatedActivation::Relu2 => producer::RELU2,
                GatedActivation::Identity => producer::IDENTITY,
            };
        }
        Producer::Norm { input, norm } => {
            match input {
                NormInput::Rows { residual, .. } => {
                    params.producer = producer::NORM;
                    params.copy = copy(*residual);
                }
                NormInput::Hyper(hc) => {
                    params.producer = producer::HYPER;
                    params.copy = copy(hc.mixed);
                    params.stream_stride = hc.stream_stride as u64;
                    params.streams = hc.count as u32;
                    params.mix = address(hc.mix);
                    params.mix_row_stride = hc.mix_row_stride as u64;
                }
            }
            params.normed = copy(norm.normed);
            params.inv_rms = norm.inv_rms.map_or(0, address);
            params.weight = address(norm.weight.base);
            params.weight_dtype = params::dtype(norm.weight.dtype);
            params.weight_offset = norm.weight_offset;
            params.eps = norm.eps;
        }
    }
    params
}

fn source(p: &Producer) -> Matrix {
    match p {
        Producer::Plain { src } | Producer::Transposed { src } | Producer::Gated { src, .. } => *src,
        Producer::Norm { input: NormInput::Rows { src, .. }, .. } => *src,
        Producer::Norm { input: NormInput::Hyper(hc), .. } => hc.streams,
    }
}

/// Whether every 16-byte access of values and 8-byte access of codes is aligned.
fn is_aligned(p: &QuantizeProblem) -> bool {
    let strided = matches!(p.groups, Groups::Strided { .. });
    let matrix = |m: &Matrix| {
        let bytes = m.dtype.bytes();
        m.base.get().addr().is_multiple_of(16)
            && (m.row_stride * bytes).is_multiple_of(16)
            && (!strided || (m.group_stride * bytes).is_multiple_of(16))
    };
    let all = |list: [Option<Matrix>; 2]| list.iter().flatten().all(matrix);
    let codes = p
        .out
        .is_none_or(|out| out.codes.get().addr().is_multiple_of(8) && out.codes_row_stride.is_multiple_of(8));
    let rest = match &p.producer {
        Producer::Plain { .. } => true,
        Producer::Transposed { .. } => false,
        Producer::Gated { interleaved, activation, .. } => {
            let halves = *activation == GatedActivation::Identity && *interleaved;
            all([p.activated, None]) && (!halves || (p.cols / 2).is_multiple_of(BLOCK))
        }
        Producer::Norm { input, norm } => {
            let input = match input {
                NormInput::Rows { residual, .. } => all([*residual, None]),
                NormInput::Hyper(hc) => {
                    all([hc.mixed, None]) && (hc.stream_stride * hc.streams.dtype.bytes()).is_multiple_of(16)
                }
            };
            input && all([norm.normed, None]) && norm.weight.base.get().addr().is_multiple_of(16)
        }
    };
    codes && rest && matrix(&source(&p.producer)) && p.cols / BLOCK <= MOST_BLOCKS
}

struct Passes<'a> {
    p: &'a QuantizeProblem,
    facts: &'a DeviceFacts,
    base: RowsParams,
    fast: bool,
}

impl Passes<'_> {
    /// Adds the pass that works in `mode`, with the decode scales (or amax bits) at `decode`.
    fn push(&self, plan: &mut Plan, mode: u32, decode: Ptr<f32>, first: bool) {
        let quantizes = mode <= mode::ROW;
        let layout = match &self.p.out {
            Some(out) if quantizes => out.scales.layout,
            _ => ScaleLayout::Linear,
        };
        let rows = match self.p.groups.total_rows() {
            0 => 0,
            _ => self.p.groups.scale_rows(layout.tile_rows()),
        };
        let mut params = self.base;
        params.mode = mode;
        params.decode = address(decode);
        params.first = first as u32;
        params.scale_rows = rows as u64;
        if mode == mode::FROM_AMAX {
            params.fault = self.facts.fault;
        }
        let step = match rows {
            // Nobody's rows; a split that says otherwise is reported all the same.
            0 if params.groups.count == 0 || params.groups.index == 0 => return,
            0 => self.general(params, 1),
            _ => self.cached(params, layout, rows).or_else(|| self.tiles(params, layout, rows)),
        };
        plan.push(step.or_else(|| self.general(params, rows)).expect("the general kernel takes everything"));
    }

    fn general(&self, params: RowsParams, rows: usize) -> Option<Step> {
        let grid = (self.capped(rows), 1);
        Some(Step::Rows { kernel: find(["nvfp4_general", "", ""]), grid, threads: 256, params })
    }

    /// CTAs for so many rows. Where each has to look through many groups for its first row, fewer that go on.
    fn capped(&self, rows: usize) -> u32 {
        let many = matches!(self.p.groups, Groups::Ends { count, .. } if count > 512);
        let most = if many { 8 * self.facts.sm_count as usize } else { i32::MAX as usize };
        rows.min(most) as u32
    }

    /// Rows held in registers: scales per row, and norms.
    fn cached(&self, params: RowsParams, layout: ScaleLayout, rows: usize) -> Option<Step> {
        let norm = matches!(self.p.producer, Producer::Norm { .. });
        let blocks = self.p.cols / BLOCK;
        let wanted = params.mode == mode::ROW || (norm && params.mode == mode::STATIC);
        if !self.fast || !wanted || blocks > 2 * CACHED_THREADS {
            return None;
        }
        let dtype = source(&self.p.producer).dtype;
        let family = match &self.p.producer {
            Producer::Norm { input: NormInput::Hyper(_), .. } => "nvfp4_hyper_",
            Producer::Norm { .. } => "nvfp4_norm_",
            Producer::Gated { .. } => "nvfp4_gated_rows_",
            _ => "nvfp4_rows_",
        };
        let (plain, hot) = (params.rule == params::rule(ScaleRule::Amax), dtype != Dtype::F32);
        if !hot && matches!(family, "nvfp4_hyper_" | "nvfp4_gated_rows_") {
            return None;
        }
        // Four rows a CTA pay once every SM has some; below, a row a CTA answers sooner.
        let four = layout == ScaleLayout::Tiled128x4
            && matches!(family, "nvfp4_rows_" | "nvfp4_norm_")
            && rows >= 8 * self.facts.sm_count as usize;
        let variant = match blocks <= CACHED_THREADS {
            true if plain && hot && four && blocks <= FOUR_ROWS_THREADS => "_x4",
            true if plain && (hot || family == "nvfp4_rows_") => "",
            false if plain && family == "nvfp4_rows_" => "_long",
            _ => "_rule",
        };
        let a_thread = if matches!(variant, "_long" | "_rule") { 2 } else { 1 };
        let kernel = find([family, dtype_name(dtype), variant]);
        let threads = blocks.div_ceil(a_thread).next_multiple_of(32) as u32;
        let units = if variant == "_x4" { rows / 4 } else { rows };
        Some(Step::Rows { kernel, grid: (self.capped(units), 1), threads, params })
    }

    /// A block a thread: decode scales that are known, or the amax of larger scopes.
    fn tiles(&self, mut params: RowsParams, layout: ScaleLayout, rows: usize) -> Option<Step> {
        let finds = params.mode == mode::FIND_AMAX;
        let dtype = source(&self.p.producer).dtype;
        let rule = self.p.out.map_or(ScaleRule::Amax, |out| out.rule);
        let gated = match self.p.producer {
            Producer::Plain { .. } => false,
            Producer::Gated { .. } if dtype != Dtype::F32 && (finds || rule == ScaleRule::Amax) => true,
            _ => return None,
        };
        if !self.fast || !(finds || params.mode <= mode::FROM_AMAX) {
            return None;
        }
        let (kernel, most_steps) = match (gated, finds) {
            (false, true) => {
                (find(["nvfp4_amax_", dtype_name(dtype), ""]), if dtype == Dtype::F32 { 1 } else { 2 })
            }
            (true, true) => (find(["nvfp4_gated_amax_", dtype_name(dtype), ""]), 1),
            (true, false) => (find(["nvfp4_gated_", dtype_name(dtype), ""]), 1),
            (false, false) => {
                let (name, steps) = match rule {
                    ScaleRule::Amax => ("_amax", 4),
                    ScaleRule::FourOverSix => ("_four_over_six", 2),
                    ScaleRule::MinMse => ("_min_mse", 1),
                };
                let steps = if dtype == Dtype::F32 { usize::max(steps / 2, 1) } else { steps };
                (find(["nvfp4_quantize_", dtype_name(dtype), name]), steps)
            }
        };
        let shape =
            TileShape::new(layout, self.p.cols / BLOCK, rows, most_steps, self.facts.sm_count as usize);
        params.steps = shape.steps as u32;
        let most_y = match (finds, &self.p.groups) {
            (true, _) => (16 * self.facts.sm_count as usize).div_ceil(shape.grid_x),
            (_, Groups::Ends { count, .. }) if *count > 256 => {
                (8 * self.facts.sm_count as usize).div_ceil(shape.grid_x)
            }
            _ => GRID_Y,
        };
        let grid = (shape.grid_x as u32, shape.tiles.min(most_y).min(GRID_Y) as u32);
        Some(Step::Rows { kernel, grid, threads: shape.threads as u32, params })
    }
}

pub(super) fn dtype_name(d: Dtype) -> &'static str {
    match d {
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::F32 => "f32",
    }
}

/// How a pass with a block a thread covers rows × columns.
pub(super) struct TileShape {
    pub steps: usize,
    pub grid_x: usize,
    pub tiles: usize,
    pub threads: usize,
}

impl TileShape {
    /// The most column steps a warp that still leave every SM work enough.
    pub fn new(
        layout: ScaleLayout,
        blocks: usize,
        rows: usize,
        most_steps: usize,
        sm_count: usize,
    ) -> TileShape {
        let columns = if layout.is_tiled() { blocks.div_ceil(4) } else { blocks.div_ceil(32) };
        let across = if layout == ScaleLayout::Tiled128x4 { 16 } else { 1 };
        let tiles = rows / layout.tile_rows();
        let warps = |steps: usize| across * columns.div_ceil(steps);
        let mut steps = most_steps;
        // Halved while warps are few, or while a row's last warp would idle through most of its steps.
        while steps > 1
            && (tiles * warps(steps) < 32 * sm_count || warps(steps) * steps * 8 > across * columns * 9)
        {
            steps /= 2;
        }
        let threads = 32 * warps(steps).min(8);
        TileShape { steps, grid_x: warps(steps).div_ceil(8), tiles, threads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::math::SwiGlu;
    use crate::plan::quantize::{Norm, QuantOut, Scales};

    const FACTS: DeviceFacts = DeviceFacts {
        sm_count: 132,
        compute_capability: (9, 0),
        shared_per_block_optin: 227 << 10,
        l2_bytes: 60 << 20,
        fault: 64,
    };

    fn matrix(dtype: Dtype, row_stride: usize) -> Matrix {
        Matrix { base: Ptr::new(4096 as *const u8), dtype, row_stride, group_stride: 0 }
    }

    fn problem(rows: usize, cols: usize, scope: Scope, dynamic: bool, dtype: Dtype) -> QuantizeProblem {
        let decode = Ptr::new(256 as *const f32);
        QuantizeProblem {
            groups: Groups::None { rows },
            cols,
            producer: Producer::Plain { src: matrix(dtype, cols) },
            activated: None,
            out: Some(QuantOut {
                codes: Ptr::new(8192 as *const u8),
                codes_row_stride: cols / 2,
                scales: Scales {
                    base: Ptr::new(1024 as *const u8),
                    layout: ScaleLayout::Tiled128x4,
                    row_stride: 0,
                },
                rule: ScaleRule::Amax,
                scope,
                decode: if dynamic { DecodeScales::Dynamic(decode) } else { DecodeScales::Static(decode) },
            }),
            amax: None,
        }
    }

    /// Names of the steps; every launch has a grid and whole warps within its kernel's limit.
    fn names(p: &QuantizeProblem) -> Vec<&'static str> {
        let name = |step: &Step| match step {
            Step::Zero { words, .. } => {
                assert!(*words > 0);
                "zero"
            }
            Step::Finish { .. } => "finish",
            Step::Rows { kernel, grid, threads, .. } => {
                assert!(grid.0 > 0 && grid.1 > 0 && grid.1 <= 65535);
                assert!(*threads > 0 && threads % 32 == 0 && *threads <= kernel.threads, "{}", kernel.name);
                kernel.name
            }
        };
        plan(p, &FACTS).steps().map(name).collect()
    }

    #[test]
    fn aligned_rows_take_the_fast_passes() {
        let p = |rows, cols, scope, dynamic, dtype| names(&problem(rows, cols, scope, dynamic, dtype));
        assert_eq!(p(8192, 7168, Scope::Tensor, false, Dtype::Bf16), ["nvfp4_quantize_bf16_amax"]);
        assert_eq!(p(8192, 7168, Scope::Row, true, Dtype::Bf16), ["nvfp4_rows_bf16_x4"]);
        assert_eq!(p(64, 7168, Scope::Row, true, Dtype::Bf16), ["nvfp4_rows_bf16"]);
        assert_eq!(p(8192, 8192, Scope::Row, true, Dtype::F16), ["nvfp4_rows_f16"]);
        assert_eq!(p(8192, 16384, Scope::Row, true, Dtype::F32), ["nvfp4_rows_f32_long"]);
        assert_eq!(p(8192, 16400, Scope::Row, true, Dtype::Bf16), ["nvfp4_general"]);
        assert_eq!(
            p(300, 64, Scope::Tensor, true, Dtype::F16),
            ["zero", "nvfp4_amax_f16", "nvfp4_quantize_f16_amax", "finish"]
        );
    }

    #[test]
    fn every_alignment_rule_is_seen() {
        let odd = |edit: fn(&mut QuantizeProblem)| {
            let mut p = problem(64, 128, Scope::Tensor, false, Dtype::Bf16);
            edit(&mut p);
            assert_eq!(names(&p), ["nvfp4_general"]);
        };
        odd(|p| p.producer = Producer::Plain { src: matrix(Dtype::Bf16, 129) });
        odd(|p| p.producer = Producer::Transposed { src: matrix(Dtype::Bf16, 64) });
        odd(|p| p.out.as_mut().unwrap().codes_row_stride = 65);
        odd(|p| {
            let src = Matrix { base: Ptr::new(4098 as *const u8), ..matrix(Dtype::Bf16, 128) };
            p.producer = Producer::Plain { src };
        });
        odd(|p| {
            p.activated = Some(matrix(Dtype::Bf16, 132));
            let activation = GatedActivation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 });
            p.producer = Producer::Gated { src: matrix(Dtype::Bf16, 256), interleaved: false, activation };
        });
        odd(|p| {
            let weight = crate::plan::memory::Vector { base: Ptr::new(4104 as *const u8), dtype: Dtype::F32 };
            let norm = Norm { weight, weight_offset: 0.0, eps: 1e-6, normed: None, inv_rms: None };
            let input = NormInput::Rows { src: matrix(Dtype::Bf16, 128), residual: None };
            p.producer = Producer::Norm { input, norm };
        });
    }

    #[test]
    fn no_rows_are_no_launch_but_slots_become_one() {
        assert_eq!(names(&problem(0, 64, Scope::Row, true, Dtype::Bf16)), [""; 0]);
        assert_eq!(names(&problem(0, 64, Scope::Tensor, true, Dtype::Bf16)), ["zero", "finish"]);
        let mut p = problem(0, 64, Scope::Row, true, Dtype::Bf16);
        p.groups = Groups::Ends { ends: Ptr::new(16 as *const i32), count: 3, rows: 0 };
        assert_eq!(names(&p), ["nvfp4_general"], "the ends may still be wrong, and that is reported");
    }

    #[test]
    fn any_shape_has_a_launch() {
        for rows in [1, 7, 128, 129, 1 << 20, 1 << 40] {
            for cols in [16, 48, 7168, 1 << 20, 1 << 30] {
                for scope in [Scope::Tensor, Scope::Row] {
                    for (dynamic, dtype) in [(false, Dtype::Bf16), (true, Dtype::F32), (true, Dtype::F16)] {
                        assert!(!names(&problem(rows, cols, scope, dynamic, dtype)).is_empty());
                    }
                }
            }
        }
    }
}

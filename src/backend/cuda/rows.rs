//! Quantizing problems → launches of quantize.cu, values.cu, norm.cu and swiglu.cu. Twin of backend/cpu/rows.rs.
//!
//! `plan` is pure: (problem, device facts) → up to four steps. Aligned rows go to the passes that hold a block a thread
//! (known scales) or whole rows in registers (scales per row, norms); everything else to one general kernel.
//! Scales of a tensor or of groups take two looks: the array of decode scales holds amax bits in between, as on the CPU.

mod kernels;
mod problem;
mod shape;

use super::context::DeviceFacts;
use super::launch::{Kernel, Queue};
use super::params::{self, FinishParams, RoutesParams, RowsParams, ScalesParams, address, mode};
use crate::error::Result;
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{DecodeScales, NormInput, Producer, QuantizeProblem, Scope, StageProblem};
pub use kernels::KERNELS;
use kernels::find;
use problem::source;
pub(super) use problem::{base_params, dtype_name, is_aligned};
use shape::TileShape;

/// Threads of a CTA that holds rows in registers. Rows of up to twice as many blocks are held.
const CACHED_THREADS: usize = 512;
/// Threads of a CTA that holds four rows or mixes streams: more would not leave each the registers it needs.
const FOUR_ROWS_THREADS: usize = 448;
/// Warps of a CTA of `gated_pass`.
const GATED_WARPS: usize = 4;
/// Columns that the passes with 32-bit block indices take.
const MOST_BLOCKS: usize = 1 << 24;
/// Rows of the padded row space that they take.
const MOST_ROWS: usize = 1 << 30;
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
    // SAFETY: the caller's promise.
    unsafe { run(queue, &plan(p, queue.facts)) }
}

/// As [`quantize`], but in place of codes and scales `to` takes what they decode to, e2m1 · e4m3, as bfloat16: a row each of the
/// logical rows. Decode scales are written as ever.
///
/// # Safety
/// As [`quantize`]; the problem is one of those that [`takes_values`] names, `to` writable and its rows aligned to 16 bytes.
pub unsafe fn quantize_values(queue: &Queue, p: &QuantizeProblem, to: &Matrix) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { run(queue, &plan_to(p, Some(*to), queue.facts)) }
}

/// As [`quantize`], of bfloat16 rows that the launch in front, a product of the same call, still writes. Where it can, the pass
/// starts early: it reads all but the rows before the product has ended.
///
/// # Safety
/// As [`quantize`]; the product has waited for what was in front of it.
pub unsafe fn quantize_behind(queue: &Queue, p: &QuantizeProblem) -> Result<()> {
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe {
        match flat_rows(p, queue.facts) {
            Some((kernel, blocks, params)) => {
                queue.launch_dependent(kernel, (blocks, 1, 1), kernel.threads, 0, &params)
            }
            None => quantize(queue, p),
        }
    }
}

/// The launch of kernels/flat_rows.cuh for a problem, if it is one: values, codes and linear scales are one long row each, with
/// one known decode scale.
fn flat_rows(p: &QuantizeProblem, facts: &DeviceFacts) -> Option<(&'static Kernel, u32, RowsParams)> {
    /// Column steps of a warp; CTAs that fit an SM.
    const STEPS: usize = 4;
    const MOST: usize = 6;
    let (out, blocks, rows) = (p.out?, p.cols / BLOCK, p.groups.total_rows());
    let (Producer::Plain { src }, DecodeScales::Static(decode)) = (p.producer, out.decode) else {
        return None;
    };
    let one = matches!(p.groups, Groups::None { .. } | Groups::Ends { .. })
        && src.dtype == Dtype::Bf16
        && (out.rule, out.scope, out.scales.layout) == (ScaleRule::Amax, Scope::Tensor, ScaleLayout::Linear)
        && (src.row_stride, 2 * out.codes_row_stride, out.scales.row_stride) == (p.cols, p.cols, blocks);
    if !one || rows == 0 || rows.saturating_mul(blocks) > MOST_ROWS || !is_aligned(p) {
        return None;
    }
    let kernel = find(["nvfp4_flat_bf16"]);
    let warps = (rows * blocks).div_ceil(32 * STEPS);
    let ctas = warps.div_ceil(kernel.threads as usize / 32).min(MOST * facts.sm_count as usize);
    let mut params = base_params(p, facts, out.scope);
    (params.mode, params.decode) = (mode::STATIC, address(decode));
    Some((kernel, ctas as u32, params))
}

unsafe fn run(queue: &Queue, plan: &Plan) -> Result<()> {
    for step in plan.steps() {
        // SAFETY: the caller's promise; the structs are the kernels'.
        unsafe {
            match step {
                Step::Zero { dst, words } => queue.memset32(*dst, 0, *words)?,
                Step::Rows { kernel, grid, threads, params } => {
                    queue.launch(kernel, (grid.0, grid.1, 1), *threads, 0, params)?;
                }
                Step::Finish { blocks, params } => {
                    queue.launch(find(["nvfp4_finish_scales"]), (*blocks, 1, 1), 256, 0, params)?;
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
    (find(["nvfp4_stage_routes"]), p.routes.div_ceil(256).min(4096) as u32, params)
}

/// Which launches carry out a problem.
pub fn plan(p: &QuantizeProblem, facts: &DeviceFacts) -> Plan {
    plan_to(p, None, facts)
}

/// Whether [`quantize_values`] has a kernel for a problem.
pub fn takes_values(p: &QuantizeProblem) -> bool {
    p.out.is_some_and(|out| {
        let by_row = matches!(out.decode, DecodeScales::Dynamic(_)) && out.scope == Scope::Row;
        matches!(p.producer, Producer::Plain { .. })
            && source(&p.producer).dtype != Dtype::F32
            && out.rule == ScaleRule::Amax
            && is_aligned(p)
            && (1..=MOST_ROWS).contains(&p.groups.total_rows())
            && (!by_row || p.cols / BLOCK <= 2 * CACHED_THREADS)
    })
}

fn plan_to(p: &QuantizeProblem, values: Option<Matrix>, facts: &DeviceFacts) -> Plan {
    let mut plan = Plan::default();
    let (scope, decode) = match (&p.out, p.amax) {
        (Some(out), _) => (out.scope, out.decode),
        (None, Some((scope, decode))) => (scope, DecodeScales::Dynamic(decode)),
        (None, None) => return plan,
    };
    let passes = Passes { p, values, facts, base: base_params(p, facts, scope), fast: is_aligned(p) };
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

struct Passes<'a> {
    p: &'a QuantizeProblem,
    /// Where what codes decode to goes in place of them.
    values: Option<Matrix>,
    facts: &'a DeviceFacts,
    base: RowsParams,
    fast: bool,
}

impl Passes<'_> {
    /// Adds the pass that works in `mode`, with the decode scales (or amax bits) at `decode`.
    fn push(&self, plan: &mut Plan, mode: u32, decode: Ptr<f32>, first: bool) {
        let quantizes = mode <= mode::ROW;
        let layout = match &self.p.out {
            Some(out) if quantizes && self.values.is_none() => out.scales.layout,
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
        if let (Some(to), true) = (&self.values, quantizes) {
            return plan.push(self.value_rows(params, to, rows));
        }
        let step = match rows {
            // Nobody's rows; a split that says otherwise is reported all the same.
            0 if params.groups.count == 0 || params.groups.index == 0 => return,
            0 => self.general(params, 1),
            _ if !self.fast || rows > MOST_ROWS => None,
            _ => self.held(params, layout, rows).or_else(|| self.tiles(params, layout, rows)),
        };
        plan.push(step.or_else(|| self.general(params, rows)).expect("the general kernel takes everything"));
    }

    /// Rows → what their codes decode to, by the plain rule.
    fn value_rows(&self, mut params: RowsParams, to: &Matrix, rows: usize) -> Step {
        let (blocks, sms) = (self.p.cols / BLOCK, self.facts.sm_count as usize);
        let name = dtype_name(source(&self.p.producer).dtype);
        params.codes = address(to.base);
        params.codes_row_stride = 2 * to.row_stride as u64;
        params.scales = ScalesParams::default();
        if params.mode == mode::ROW {
            // Few rows answer sooner with a block a thread, as long as all are under way at once.
            let few = rows * blocks <= 2 * CACHED_THREADS * sms && blocks <= CACHED_THREADS;
            let (variant, a_thread) = if few { ("_few", 1) } else { ("", 4) };
            let threads = blocks.div_ceil(a_thread).next_multiple_of(32) as u32;
            let kernel = find(["nvfp4_rows_values_", name, variant]);
            return Step::Rows { kernel, grid: (self.capped(rows), 1), threads, params };
        }
        let shape = TileShape::new(ScaleLayout::Linear, blocks, rows, 4, sms);
        params.steps = shape.steps as u32;
        let most = match &self.p.groups {
            Groups::Ends { count, .. } if *count > 256 => (8 * sms).div_ceil(shape.grid_x),
            _ => GRID_Y,
        };
        let grid = (shape.grid_x as u32, shape.units.min(most).min(GRID_Y) as u32);
        Step::Rows { kernel: find(["nvfp4_values_", name]), grid, threads: shape.threads as u32, params }
    }

    fn general(&self, params: RowsParams, rows: usize) -> Option<Step> {
        let grid = (self.capped(rows), 1);
        Some(Step::Rows { kernel: find(["nvfp4_general"]), grid, threads: 256, params })
    }

    /// CTAs for so many rows. Where each has to look through many groups for its first row, fewer that go on.
    fn capped(&self, rows: usize) -> u32 {
        let many = matches!(self.p.groups, Groups::Ends { count, .. } if count > 512);
        let most = if many { 8 * self.facts.sm_count as usize } else { i32::MAX as usize };
        rows.min(most) as u32
    }

    /// Rows held in registers: scales per row, and norms.
    fn held(&self, params: RowsParams, layout: ScaleLayout, rows: usize) -> Option<Step> {
        let norm = matches!(self.p.producer, Producer::Norm { .. });
        let blocks = self.p.cols / BLOCK;
        let wanted = params.mode == mode::ROW || (norm && params.mode == mode::STATIC);
        if !wanted || blocks > 2 * CACHED_THREADS {
            return None;
        }
        let plain = matches!(self.p.producer, Producer::Plain { .. });
        if plain && params.rule == params::rule(ScaleRule::Amax) {
            return Some(self.plain_rows(params, layout, rows));
        }
        self.fused_rows(params, rows).or_else(|| self.cached(params, rows))
    }

    /// Values as they stand with scales per row: rows in the registers of small CTAs.
    fn plain_rows(&self, params: RowsParams, layout: ScaleLayout, rows: usize) -> Step {
        let (blocks, sms) = (self.p.cols / BLOCK, self.facts.sm_count as usize);
        let dtype = source(&self.p.producer).dtype;
        // Four rows a CTA fill sectors of tiled scales, once every SM has some; few rows answer sooner with a block a
        // thread.
        let (variant, a_thread, a_cta) = match (dtype, self.is_grouped()) {
            (Dtype::F32, _) => ("", 2, 1),
            _ if layout.is_tiled() && rows >= 16 * sms => ("_x4", 4, 4),
            (_, false) if rows < 4 * sms && blocks <= CACHED_THREADS => ("_few", 1, 1),
            _ => ("", 4, 1),
        };
        let kernel = find(["nvfp4_rows_", dtype_name(dtype), variant, self.suffix()]);
        let threads = blocks.div_ceil(a_thread).next_multiple_of(32) as u32;
        // Without groups there is a CTA for every unit of rows.
        let units = rows / a_cta;
        let grid = if self.is_grouped() { self.capped(units) } else { units as u32 };
        Step::Rows { kernel, grid: (grid, 1), threads, params }
    }

    fn is_grouped(&self) -> bool {
        !matches!(self.p.groups, Groups::None { .. })
    }

    /// What kernels that have to look for groups are called beside those that need not.
    fn suffix(&self) -> &'static str {
        if self.is_grouped() { "_grouped" } else { "" }
    }

    /// Norms and gated activations of 16-bit types by the plain rule.
    fn fused_rows(&self, params: RowsParams, rows: usize) -> Option<Step> {
        let blocks = self.p.cols / BLOCK;
        let dtype = source(&self.p.producer).dtype;
        if params.rule != params::rule(ScaleRule::Amax) || dtype == Dtype::F32 {
            return None;
        }
        // Four rows a CTA share what a row needs once; they pay when every SM has some, below a row a CTA answers sooner.
        let four =
            rows >= 8 * self.facts.sm_count as usize && blocks <= FOUR_ROWS_THREADS && !self.is_grouped();
        let (family, variant, height, most_threads) = match &self.p.producer {
            Producer::Norm { input: NormInput::Hyper(_), .. } => ("nvfp4_hyper_", "", 1, FOUR_ROWS_THREADS),
            Producer::Norm { .. } if four => ("nvfp4_norm_", "_x4", 4, FOUR_ROWS_THREADS),
            Producer::Norm { .. } => ("nvfp4_norm_", "", 1, CACHED_THREADS),
            Producer::Gated { .. } => ("nvfp4_gated_rows_", self.suffix(), 1, CACHED_THREADS),
            _ => return None,
        };
        let threads = blocks.next_multiple_of(32);
        let kernel = find([family, dtype_name(dtype), variant]);
        // CTAs of four rows stay and walk on. Of small ones more fit, and more of them than fit balance better.
        let most = match (height, threads) {
            (4, ..=256) => 8 * self.facts.sm_count,
            (4, _) => 2 * self.facts.sm_count,
            _ => u32::MAX,
        };
        let grid = (self.capped(rows.div_ceil(height)).min(most), 1);
        (threads <= most_threads).then_some(Step::Rows { kernel, grid, threads: threads as u32, params })
    }

    /// Gated activations where the decode scales are known: 8 rows a CTA, or one where groups may end anywhere.
    fn gated_pass(&self, mut params: RowsParams, layout: ScaleLayout, rows: usize) -> Step {
        let sms = self.facts.sm_count as usize;
        let (height, step) = match (layout.is_tiled(), self.is_grouped()) {
            (true, _) => (8, 4 * GATED_WARPS),
            (false, false) => (GATED_WARPS, 32),
            (false, true) => (1, 32 * GATED_WARPS),
        };
        let units = rows.div_ceil(height);
        let all = (self.p.cols / BLOCK).next_multiple_of(4).div_ceil(step);
        let mut steps = all;
        while steps > 1 && units * all.div_ceil(steps) < 10 * sms {
            steps = steps.div_ceil(2);
        }
        params.steps = steps as u32;
        let across = all.div_ceil(steps);
        let most = match &self.p.groups {
            Groups::Ends { count, .. } if *count > 256 => (8 * sms).div_ceil(across),
            _ => GRID_Y,
        };
        let grid = (across as u32, units.min(most).min(GRID_Y) as u32);
        let kernel = find(["nvfp4_gated_", dtype_name(source(&self.p.producer).dtype), self.suffix()]);
        Step::Rows { kernel, grid, threads: 32 * GATED_WARPS as u32, params }
    }

    /// Rows of the producers that more than one pass would have to repeat, and rules that look again.
    fn cached(&self, params: RowsParams, rows: usize) -> Option<Step> {
        let dtype = source(&self.p.producer).dtype;
        let family = match &self.p.producer {
            Producer::Norm { input: NormInput::Hyper(_), .. } => "nvfp4_hyper_",
            Producer::Norm { .. } => "nvfp4_norm_",
            Producer::Gated { .. } => "nvfp4_gated_rows_",
            _ => "nvfp4_rows_",
        };
        if dtype == Dtype::F32 && matches!(family, "nvfp4_hyper_" | "nvfp4_gated_rows_") {
            return None;
        }
        let kernel = find([family, dtype_name(dtype), "_rule"]);
        let threads = (self.p.cols / BLOCK).div_ceil(2).next_multiple_of(32) as u32;
        Some(Step::Rows { kernel, grid: (self.capped(rows), 1), threads, params })
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
        if !(finds || params.mode <= mode::FROM_AMAX) {
            return None;
        }
        if gated && !finds {
            return Some(self.gated_pass(params, layout, rows));
        }
        let (name, wide) = (dtype_name(dtype), dtype == Dtype::F32);
        let (kernel, most_steps) = match (gated, finds) {
            (false, true) => (find(["nvfp4_amax_", name, self.suffix()]), if wide { 1 } else { 2 }),
            (true, true) => (find(["nvfp4_gated_amax_", name]), 1),
            (_, false) => match rule {
                ScaleRule::MinMse => (find(["nvfp4_quantize_", name, "_min_mse"]), 1),
                ScaleRule::Amax => {
                    (find(["nvfp4_quantize_", name, "_amax", self.suffix()]), if wide { 2 } else { 4 })
                }
                ScaleRule::FourOverSix => (
                    find(["nvfp4_quantize_", name, "_four_over_six", self.suffix()]),
                    if wide { 1 } else { 2 },
                ),
            },
        };
        let (blocks, sms) = (self.p.cols / BLOCK, self.facts.sm_count as usize);
        let shape = match most_steps {
            _ if finds || !layout.is_tiled() => TileShape::new(layout, blocks, rows, most_steps, sms),
            1 => TileShape::new(layout, blocks, rows, 1, sms),
            _ => TileShape::sectors(blocks, rows, sms)
                .unwrap_or_else(|| TileShape::new(layout, blocks, rows, 1, sms)),
        };
        params.steps = shape.steps as u32;
        let most_y = match (finds, &self.p.groups) {
            (true, _) => (16 * sms).div_ceil(shape.grid_x),
            (_, Groups::Ends { count, .. }) if *count > 256 => (8 * sms).div_ceil(shape.grid_x),
            // A warp of linear rows looks at all ends first.
            (_, Groups::Ends { .. }) if !layout.is_tiled() => (16 * sms).div_ceil(shape.grid_x),
            _ => GRID_Y,
        };
        let grid = (shape.grid_x as u32, shape.units.min(most_y).min(GRID_Y) as u32);
        Some(Step::Rows { kernel, grid, threads: shape.threads as u32, params })
    }
}

#[cfg(test)]
mod tests;

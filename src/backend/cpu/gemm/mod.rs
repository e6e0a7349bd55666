//! The grouped product on the CPU: rows of activations × prepared panels → values, or NVFP4 rows.
//!
//! A task is (group, up to 256 weight rows, up to 256 tokens) with all of K: it packs its tokens a pass at a time, has
//! the kernels add the pass to f32 totals, and writes its part of the output, which nobody else touches. Results do
//! not depend on threads or instruction set (kernel.rs fixes the order of additions), nor on other rows: every product
//! is batch-invariant. Requantized outputs pass through bf16 rows in the workspace, which the row driver quantizes as
//! `nvfp4_quantize` would. Nothing is allocated; scratch is one lane of the workspace per thread.
//! Twin of the gemm kernels of the CUDA backend.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod epilogue;
mod kernel;
mod pack;
mod portable;
#[cfg(test)]
mod tests;
mod workspace;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::weights::{LANES, Panels, codes_at};
use super::{Cpu, rows};
use crate::format::BLOCK;
use crate::plan::gemm::{Activations, GemmOut, GemmProblem};
use crate::plan::groups::Span;
use crate::plan::quantize::{Producer, QuantizeProblem};
use epilogue::Epilogue;
use kernel::{
    CODE_CHUNK, CodeBlock, GemmKernels, PANELS, Pass, ROWS, STREAM_TOKENS, VALUE_CHUNK, VALUE_STRIDE,
};
use pack::Rows;
use workspace::{GroupTasks, Lane, Workspace};

/// Tokens of a task at most.
const TOKENS: usize = 256;
/// Multiply-adds that are worth waking a thread for.
const TASK_PRODUCTS: usize = 1 << 19;

pub fn workspace_size(cpu: &Cpu, p: &GemmProblem) -> usize {
    if p.groups.total_rows() == 0 { 0 } else { Workspace::new(cpu, p).bytes }
}

/// # Safety
/// Every address of the problem is valid for what its documentation says; the workspace is 64-byte aligned and has
/// [`workspace_size`] bytes.
pub unsafe fn run(cpu: &Cpu, p: &GemmProblem) {
    rows::report_groups(cpu, &p.groups);
    if p.groups.total_rows() == 0 {
        return;
    }
    let workspace = Workspace::new(cpu, p);
    // SAFETY: the caller's promise, here and below.
    unsafe { product(cpu, p, &workspace) };
    if let GemmOut::Codes(out) = p.out {
        let quantize = QuantizeProblem {
            groups: p.groups,
            cols: p.out_cols(),
            producer: Producer::Plain { src: workspace.values(p) },
            activated: None,
            out: Some(out),
            amax: None,
        };
        // SAFETY: as above; `product` has filled the rows of every group.
        unsafe { rows::run(cpu, &quantize) };
    }
}

/// Cuts the problem into tasks and has the team carry them out.
unsafe fn product(cpu: &Cpu, p: &GemmProblem, workspace: &Workspace) {
    let panels = Panels::new(&p.weights.shape);
    let tile_rows = match p.a {
        Activations::Codes(q) => q.scales.layout.tile_rows(),
        Activations::Values { .. } => 1,
    };
    let (mut token_blocks, mut used_rows) = (0, 0);
    // SAFETY: the caller vouches for the workspace, which has an entry a group, and for the index array.
    let groups = unsafe {
        let list = workspace.groups(p);
        for span in p.groups.spans(tile_rows) {
            list.add(span.group).write(GroupTasks { first: token_blocks, span });
            token_blocks += span.rows.div_ceil(TOKENS);
            used_rows += span.rows;
        }
        std::slice::from_raw_parts(list, p.groups.count())
    };
    let threads = cpu.team.threads();
    let mut width = PANELS;
    while width > 2 && token_blocks * panels.count.div_ceil(width) < 4 * threads {
        width /= 2;
    }
    let task = Tasks {
        cpu,
        p,
        panels,
        kernels: GemmKernels::for_isa(cpu.kernels.isa),
        width,
        epilogue: Epilogue::new(p, workspace),
    };
    let tasks = token_blocks * panels.count.div_ceil(width);
    let products = used_rows.saturating_mul(p.weights.shape.rows).saturating_mul(p.weights.shape.cols);
    let lanes = threads.min(tasks).min(products / TASK_PRODUCTS + 1);
    let next = AtomicUsize::new(0);
    cpu.team.run(lanes, &|lane| {
        // SAFETY: a lane of the workspace belongs to the one call of this closure that names it.
        let mut lane = unsafe { workspace.lane(p, lane) };
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            // SAFETY: the caller's promise; the output of a task is its own.
            unsafe { task.run(groups, i, &mut lane) };
        }
    });
}

struct Tasks<'a> {
    cpu: &'a Cpu,
    p: &'a GemmProblem,
    panels: Panels,
    kernels: &'static GemmKernels,
    /// Panels of a task.
    width: usize,
    epilogue: Epilogue<'a>,
}

impl Tasks<'_> {
    /// Tasks of a group follow one another; inside a group the token block runs fastest, so that weights stay near.
    unsafe fn run(&self, groups: &[GroupTasks], task: usize, lane: &mut Lane) {
        let across = self.panels.count.div_ceil(self.width);
        let group = &groups[groups.partition_point(|g| g.first * across <= task) - 1];
        let span = &group.span;
        let token_blocks = span.rows.div_ceil(TOKENS);
        let local = task - group.first * across;
        let (part, token_block) = (local / token_blocks, local % token_blocks);
        // Even blocks, whole register tiles.
        let height = span.rows.div_ceil(token_blocks).next_multiple_of(8);
        let first_token = (token_block * height).min(span.rows);
        let tokens = height.min(span.rows - first_token);
        let first_panel = part * self.width;
        let panel_count = self.width.min(self.panels.count - first_panel);
        // SAFETY: the caller's promise.
        unsafe {
            self.accumulate(span, first_token, tokens, first_panel, panel_count, lane);
            let gathered = epilogue::Block { span, first_token, tokens, first_panel, panel_count };
            self.epilogue.write(self.cpu.kernels, &gathered, lane.totals);
        }
    }

    /// lane.totals = Σ a · b of the task.
    unsafe fn accumulate(
        &self,
        span: &Span,
        first_token: usize,
        tokens: usize,
        first_panel: usize,
        panel_count: usize,
        lane: &mut Lane,
    ) {
        let rows = Rows::new(self.p, span);
        let (kernel, chunk, block_bytes, stride) = match self.p.a {
            Activations::Values { .. } => {
                (self.kernels.values, VALUE_CHUNK, BLOCK * size_of::<f32>(), VALUE_STRIDE * size_of::<f32>())
            }
            Activations::Codes(_) => {
                let bytes = size_of::<CodeBlock>();
                (self.kernels.codes, CODE_CHUNK, bytes, CODE_CHUNK * bytes)
            }
        };
        // Few tokens: as many chunks a pass as fit, so that each panel is read in one go.
        let (pass_blocks, a_stride) = if tokens <= STREAM_TOKENS {
            let blocks = lane.a_bytes / tokens / block_bytes / chunk * chunk;
            (blocks, blocks * block_bytes)
        } else {
            (chunk, stride)
        };
        let panel_stride = self.panels.panel_bytes();
        // SAFETY: the caller's promise; the lane has room for TOKENS tokens.
        unsafe {
            lane.totals.write_bytes(0, tokens * ROWS);
            let storage = self.p.weights.storage.get().add(self.panels.offset(span.group, first_panel));
            for first in (0..self.panels.blocks).step_by(pass_blocks) {
                let blocks = pass_blocks.min(self.panels.blocks - first);
                for token in 0..tokens {
                    let to = lane.a.add(token * a_stride);
                    rows.pack((self.cpu.kernels, self.kernels), first_token + token, first, blocks, to);
                }
                kernel(&Pass {
                    a: lane.a,
                    a_stride,
                    tokens,
                    panels: storage.add(codes_at(first)),
                    panel_stride,
                    panel_count,
                    blocks,
                    totals: lane.totals,
                    unpacked: lane.unpacked,
                });
            }
        }
        debug_assert!(panel_count * LANES <= ROWS);
    }
}

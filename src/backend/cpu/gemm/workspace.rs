//! The caller's workspace of a product: bf16 rows of an output that is requantized, the task list of the groups, and
//! one lane of scratch per thread. Every part starts at a multiple of 64 bytes.

use super::super::Cpu;
use super::TOKENS;
use super::kernel::{CODE_CHUNK, CodeBlock, ROWS, UNPACKED_BYTES, VALUE_STRIDE};
use crate::format::dtype::Dtype;
use crate::plan::gemm::{GemmOut, GemmProblem};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Matrix;

/// Packed activations of a lane at least: what one token streams with.
const LEAST_A_BYTES: usize = 64 * 1024;

/// A group and its first token block among those of all groups.
#[derive(Clone, Copy)]
pub struct GroupTasks {
    pub first: usize,
    pub span: Span,
}

/// Byte offsets of the parts.
pub struct Workspace {
    groups_at: usize,
    lanes_at: usize,
    a_bytes: usize,
    totals_bytes: usize,
    pub bytes: usize,
}

/// Scratch of one thread.
pub struct Lane {
    /// Packed activations, `a_bytes`.
    pub a: *mut u8,
    pub a_bytes: usize,
    /// [tokens][ROWS].
    pub totals: *mut f32,
    pub unpacked: *mut u8,
}

impl Workspace {
    pub fn new(cpu: &Cpu, p: &GemmProblem) -> Workspace {
        let up = |bytes: usize| bytes.next_multiple_of(64);
        let values_bytes = match p.out {
            GemmOut::Codes(_) => up(p.groups.total_rows() * p.out_cols() * Dtype::Bf16.bytes()),
            GemmOut::Values { .. } => 0,
        };
        let longest = match p.groups {
            Groups::None { rows } | Groups::Ends { rows, .. } | Groups::Strided { rows, .. } => rows,
            Groups::Masked { max_rows, .. } => max_rows,
        };
        let tokens = longest.min(TOKENS);
        let token_bytes = (VALUE_STRIDE * size_of::<f32>()).max(CODE_CHUNK * size_of::<CodeBlock>());
        let a_bytes = up(tokens * token_bytes).max(LEAST_A_BYTES);
        let totals_bytes = tokens * ROWS * size_of::<f32>();
        let lanes_at = values_bytes + up(p.groups.count() * size_of::<GroupTasks>());
        let lane_bytes = a_bytes + totals_bytes + UNPACKED_BYTES;
        let bytes = lanes_at + cpu.team.threads() * lane_bytes;
        Workspace { groups_at: values_bytes, lanes_at, a_bytes, totals_bytes, bytes }
    }

    /// The rows of an output before they are requantized.
    pub fn values(&self, p: &GemmProblem) -> Matrix {
        let rows = p.groups.total_rows() / p.groups.count().max(1);
        let cols = p.out_cols();
        Matrix { base: p.workspace, dtype: Dtype::Bf16, row_stride: cols, group_stride: rows * cols }
    }

    /// Where the task list of the groups goes.
    ///
    /// # Safety
    /// The workspace is as large as [`Workspace::bytes`], aligned, and used by one call at a time.
    pub unsafe fn groups(&self, p: &GemmProblem) -> *mut GroupTasks {
        // SAFETY: the caller's promise.
        unsafe { p.workspace.get_mut().add(self.groups_at).cast() }
    }

    /// # Safety
    /// As [`Workspace::groups`]; `lane` is below the team's threads.
    pub unsafe fn lane(&self, p: &GemmProblem, lane: usize) -> Lane {
        let lane_bytes = self.a_bytes + self.totals_bytes + UNPACKED_BYTES;
        // SAFETY: the caller's promise.
        unsafe {
            let a = p.workspace.get_mut().add(self.lanes_at + lane * lane_bytes);
            let totals = a.add(self.a_bytes);
            Lane { a, a_bytes: self.a_bytes, totals: totals.cast(), unpacked: totals.add(self.totals_bytes) }
        }
    }
}

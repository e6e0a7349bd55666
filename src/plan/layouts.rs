//! Byte shuffles: scale layouts, gate/up interleaving, group offsets.

use super::groups::Groups;
use super::memory::Ptr;
use super::quantize::Scales;

/// Scales from one layout to another: linear ↔ tiled.
#[derive(Clone, Copy, Debug)]
pub struct ScaleLayoutProblem {
    pub groups: Groups,
    /// Scale columns, ceil(K / 16).
    pub blocks: usize,
    pub src: Scales,
    pub dst: Scales,
}

/// [count] matrices of 2·half rows of `row_bytes`: [gate; up] ↔ `granularity` gate rows, `granularity` up rows, alternating.
#[derive(Clone, Copy, Debug)]
pub struct InterleaveProblem {
    pub src: Ptr<u8>,
    pub dst: Ptr<u8>,
    pub count: usize,
    pub half: usize,
    pub row_bytes: usize,
    pub granularity: usize,
    /// true: [gate; up] → interleaved; false: back.
    pub forward: bool,
}

/// counts[E] → inclusive cumulative ends[E].
#[derive(Clone, Copy, Debug)]
pub struct GroupEndsProblem {
    pub counts: Ptr<i32>,
    pub ends: Ptr<i32>,
    pub count: usize,
}

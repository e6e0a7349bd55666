//! Which Hopper kernel (sm_90a) takes a product, and how its workspace is cut. Pure: no device is asked.
//!
//! Two families, whose grid is one wave of blocks whatever the split of the rows is (kernels/sm90_schedule.cuh): `few`
//! streams weights through mma.sync, `many` multiplies by wgmma. The expected rows a group choose family and form; any
//! split is right in each. What a family cannot take stays with the portable kernel: `plan` says so by None.

use super::gemm::{Activations, GemmProblem};
use super::gemm_cuda::{self, UNIT_BYTES, UNIT_COLS, UNIT_ROWS};
use super::groups::Groups;
use crate::format::dtype::Dtype;

/// `Schedule` of kernels/sm90_schedule.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Schedule {
    WholeTiles = 0,
    SplitRemainder = 1,
    SplitTwoWaves = 2,
    SplitAll = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Few,
    Many,
}

/// A form of a kernel: a tile of `tokens` rows × `units` · 128 weight rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub family: Family,
    pub tokens: usize,
    pub units: usize,
    /// Units of 64 k of a stage.
    pub depth: usize,
    pub stages: usize,
    /// Warps that multiply, and warps beside them.
    pub warps: usize,
    pub helpers: usize,
}

pub const FORMS: [Form; 6] = [
    Form { family: Family::Few, tokens: 8, units: 4, depth: 2, stages: 5, warps: 16, helpers: 3 },
    Form { family: Family::Few, tokens: 16, units: 4, depth: 2, stages: 5, warps: 16, helpers: 3 },
    Form { family: Family::Many, tokens: 32, units: 2, depth: 1, stages: 14, warps: 8, helpers: 4 },
    Form { family: Family::Many, tokens: 64, units: 2, depth: 1, stages: 11, warps: 8, helpers: 4 },
    Form { family: Family::Many, tokens: 128, units: 2, depth: 1, stages: 7, warps: 8, helpers: 4 },
    Form { family: Family::Many, tokens: 256, units: 1, depth: 1, stages: 5, warps: 8, helpers: 4 },
];

impl Form {
    pub const fn threads(&self) -> usize {
        32 * (self.warps + self.helpers)
    }

    /// Weight rows of a tile, and k of a step.
    pub const fn rows(&self) -> usize {
        self.units * UNIT_ROWS
    }

    pub const fn step_cols(&self) -> usize {
        self.depth * UNIT_COLS
    }

    /// `SHARED_BYTES` of kernels/sm90_few.cuh and sm90_many.cuh: stages, jobs, staging, barriers.
    pub const fn shared_bytes(&self) -> usize {
        const JOBS: usize = 4;
        let (weights, barriers) = (self.units * self.depth * UNIT_BYTES, 16 * (self.stages + JOBS));
        match self.family {
            Family::Few => {
                let stage = weights + self.tokens * (2 * self.step_cols() + 16);
                self.stages * stage + JOBS * 128 + self.warps * 640 + barriers
            }
            Family::Many => {
                let stage = (weights + self.tokens * 2 * self.step_cols()).next_multiple_of(1024);
                let staging = self.units * (2 * (64 / self.units) * 272 + 4 * self.tokens);
                (self.stages * stage + barriers + JOBS * 128).next_multiple_of(128) + staging + 1024
            }
        }
    }

    /// Bytes of the sums of a tile.
    const fn tile_bytes(&self) -> usize {
        self.tokens * self.rows() * size_of::<f32>()
    }
}

/// How a product runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sm90Plan {
    /// Index into [`FORMS`].
    pub form: usize,
    pub schedule: Schedule,
    pub grid: usize,
    /// Steps of k that the tensor cores of `many` add up by themselves.
    pub run_steps: usize,
    /// Activations are codes that a pass before the product decodes to bfloat16 rows, exactly.
    pub decoded: bool,
    /// Byte offsets in the workspace, whose start belongs to the rows of a second pass: decoded rows, then a flag a
    /// warp, the sums of cut tiles, and totals of runs.
    pub decoded_at: usize,
    pub flags_at: usize,
    pub sums_at: usize,
    pub totals_at: usize,
    pub workspace_bytes: usize,
}

/// The average rows a group up to which each form is taken.
const AVERAGES: [usize; 5] = [8, 16, 32, 64, 191];

/// k that one run of the tensor cores takes, by what the activations are: sums of one sign over 8192 k of f16 were
/// outside of the bound on an H200, those of bf16 at half of it.
const fn longest_run(f16: bool) -> usize {
    if f16 { 2048 } else { 4096 }
}

/// None: the portable kernel has to take it.
pub fn plan(p: &GemmProblem, processors: usize) -> Option<Sm90Plan> {
    let shape = &p.weights.shape;
    let (rows, active) = p.expected_rows();
    let average = rows.div_ceil(active.max(1));
    let codes = matches!(p.a, Activations::Codes(_));
    let mut form = AVERAGES.iter().take_while(|&&most| average > most).count();
    // Tensor copies address rows at multiples of 16 bytes.
    if FORMS[form].family == Family::Many && !codes && !gemm_cuda::a_vectors(p) {
        form = 1;
        if average > 4 * FORMS[form].tokens {
            return None;
        }
    }
    let f = &FORMS[form];
    let tiles = token_tiles(&p.groups, active, f.tokens) * shape.rows.div_ceil(f.rows());
    let steps = shape.cols.div_ceil(f.step_cols());
    if tiles.checked_mul(steps).is_none_or(|all| all > u32::MAX as usize) {
        return None;
    }
    let grid = processors;
    let schedule = if p.batch_invariant {
        Schedule::WholeTiles
    } else if f.family == Family::Few {
        Schedule::SplitAll
    } else {
        let expected = active * average.div_ceil(f.tokens) * shape.rows.div_ceil(f.rows());
        whole_or_cut(expected, grid)
    };
    let many = f.family == Family::Many;
    let longest = match p.a {
        _ if p.batch_invariant => 2048,
        Activations::Values { a, .. } => longest_run(a.dtype == Dtype::F16),
        Activations::Codes(_) => longest_run(false),
    };
    let runs = shape.cols.div_ceil(longest).max(1);
    let run_steps = if p.batch_invariant { longest / UNIT_COLS } else { shape.cols.div_ceil(UNIT_COLS).div_ceil(runs).max(1) };
    let up = |bytes: usize| bytes.next_multiple_of(128);
    let decoded = many && codes;
    let decoded_at = up(gemm_cuda::staged_bytes(p));
    let flags_at = decoded_at + if decoded { up(decoded_rows(p) * shape.cols * 2) } else { 0 };
    let cut = schedule != Schedule::WholeTiles;
    let sums_at = flags_at + if cut { up(grid * f.warps * 8) } else { 0 };
    let totals_at = sums_at + if cut { grid * f.tile_bytes() } else { 0 };
    let totals = if many && run_steps < steps { grid * f.tile_bytes() } else { 0 };
    Some(Sm90Plan { form, schedule, grid, run_steps, decoded, decoded_at, flags_at, sums_at, totals_at, workspace_bytes: totals_at + totals })
}

/// Rows of activations that lie in memory once: groups may share theirs.
pub fn decoded_rows(p: &GemmProblem) -> usize {
    match (p.groups, p.a) {
        (Groups::Strided { rows, .. }, Activations::Codes(q)) if q.codes_group_stride == 0 => rows,
        _ => p.groups.total_rows(),
    }
}

/// Token tiles of any split, at most.
pub fn token_tiles(groups: &Groups, active: usize, tokens: usize) -> usize {
    match *groups {
        // A group wastes at most tokens − 1 rows of its last tile.
        Groups::Ends { rows, .. } => (rows + (tokens - 1) * active) / tokens,
        Groups::None { rows } => rows.div_ceil(tokens),
        Groups::Masked { count, max_rows: rows, .. } | Groups::Strided { count, rows } => count * rows.div_ceil(tokens),
    }
}

/// Whole tiles, unless their last wave would leave too many processors idle.
fn whole_or_cut(tiles: usize, grid: usize) -> Schedule {
    let waves = tiles.div_ceil(grid).max(1);
    if tiles * 100 >= waves * grid * 96 { Schedule::WholeTiles } else { Schedule::SplitRemainder }
}

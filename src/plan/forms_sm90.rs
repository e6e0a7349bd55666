//! Forms of the kernels of Hopper's products, and how they share their tiles out: what kernels/gemm_sm90_few.cu and
//! gemm_sm90_many.cu are made of. Pure.

use super::gemm_cuda::{UNIT_BYTES, UNIT_COLS, UNIT_ROWS};

/// `Schedule` of kernels/sm90_schedule.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Schedule {
    WholeTiles = 0,
    SplitRemainder = 1,
    SplitTwoWaves = 2,
    SplitAll = 3,
}

pub const SCHEDULES: [Schedule; 4] =
    [Schedule::WholeTiles, Schedule::SplitRemainder, Schedule::SplitTwoWaves, Schedule::SplitAll];

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
    /// Blocks of a processor.
    pub resident: usize,
}

const fn few(tokens: usize, units: usize, resident: usize) -> Form {
    Form { family: Family::Few, tokens, units, depth: 2, stages: 5, warps: 4 * units, helpers: 4, resident }
}
const fn many(units: usize, consumers: usize, tokens: usize, depth: usize, stages: usize) -> Form {
    Form { family: Family::Many, tokens, units, depth, stages, warps: 4 * consumers, helpers: 4, resident: 1 }
}

/// As kernels/gemm_sm90_few.cu and gemm_sm90_many.cu list them.
pub const FORMS: [Form; 9] = [
    few(8, 2, 2),
    few(8, 4, 1),
    few(16, 4, 1),
    many(3, 3, 32, 2, 5),
    many(3, 3, 64, 2, 4),
    many(2, 2, 128, 2, 3),
    many(1, 2, 256, 1, 4),
    many(1, 2, 64, 2, 6),
    many(1, 2, 128, 2, 4),
];

impl Form {
    pub const fn threads(&self) -> usize {
        32 * (self.warps + self.helpers)
    }

    /// Of `many`: tokens of a tile, and its units where other tiles of so many tokens have more.
    pub fn size(&self) -> String {
        match self.is_narrow() {
            true => format!("{}x{}", self.tokens, self.units),
            false => self.tokens.to_string(),
        }
    }

    /// Tiles of one unit, for products of few tiles.
    pub const fn is_narrow(&self) -> bool {
        matches!(self.family, Family::Many) && self.units == 1 && self.tokens < 256
    }

    /// Weight rows of a tile, and k of a step.
    pub const fn rows(&self) -> usize {
        self.units * UNIT_ROWS
    }

    pub const fn step_cols(&self) -> usize {
        self.depth * UNIT_COLS
    }

    /// Numbers of tokens that tiles of `many` load and multiply, `ManyForm::width` of kernels/sm90_many.cuh.
    pub const fn widths(&self) -> &'static [usize] {
        match self.tokens {
            32 => &[32],
            64 => &[64],
            128 => &[72, 128],
            256 => &[136, 200, 256],
            _ => &[],
        }
    }

    /// The width of a tile with so many rows; `few` multiplies all tokens of a tile.
    pub fn width(&self, rows: usize) -> usize {
        self.widths().iter().copied().find(|&width| rows <= width).unwrap_or(self.tokens)
    }

    /// `SHARED_BYTES` of kernels/sm90_few.cuh and sm90_many.cuh: stages, jobs, staging or boxes, barriers.
    pub const fn shared_bytes(&self) -> usize {
        const JOBS: usize = 4;
        let weights = self.units * self.depth * UNIT_BYTES;
        match self.family {
            Family::Few => {
                let stage = weights + self.tokens * (2 * self.step_cols() + 16);
                self.stages * stage + JOBS * 128 + self.warps * 640 + 16 * self.stages + 24 * JOBS
            }
            Family::Many => {
                let stage = (weights + self.tokens * 2 * self.step_cols()).next_multiple_of(1024);
                // A box a warpgroup, which has a unit or a half of one.
                let (boxes, halves) = (self.warps / 4, self.halves());
                let barriers = 16 * (self.stages + boxes) + 24 * JOBS;
                let boxed = self.tokens * (128 * halves + 16) + 4 * self.tokens + 256 * halves;
                (self.stages * stage + barriers + JOBS * 128).next_multiple_of(128) + boxes * boxed + 1024
            }
        }
    }

    /// Halves of a unit that a warpgroup of `many` takes.
    const fn halves(&self) -> usize {
        8 * self.units / self.warps
    }

    /// Whether sums travel with the launch's token: `TaggedPartials` of kernels/sm90_schedule.cuh.
    pub(super) const fn is_tagged(&self) -> bool {
        matches!(self.family, Family::Few) || self.is_narrow() && self.tokens <= 64
    }

    /// 16ths of the blocks that may go without, for the others to have a whole tile each: `IDLE` of plan_jobs() in
    /// kernels/sm90_schedule.cuh.
    pub(super) const fn idle(&self) -> usize {
        match self.family {
            Family::Few => 2,
            Family::Many => 1,
        }
    }

    /// Bytes of the sums of a tile.
    pub(super) const fn tile_bytes(&self) -> usize {
        self.tokens * self.rows() * size_of::<f32>()
    }
}

//! What a product costs on Hopper, by form and schedule, in microseconds: the model that `gemm_sm90` chooses by. Pure.
//!
//! A block multiplies steps of 64 k and ends tiles; blocks that share a tile write sums, and its owner adds them up. All
//! that while the weights have to come from memory, and the later of both counts. The split of the rows over the groups
//! is unknown, so a form costs what it would on average: for groups of one length, and for groups whose lengths vary as
//! those of a router that sends rows anywhere.

use super::gemm_cuda::{UNIT_BYTES, UNIT_COLS, UNIT_ROWS};
use super::gemm_sm90::{FORMS, Family, LEAST_STEPS, Schedule};

/// Microseconds of a form on an H200 (132 processors, driver 580.159.04, 2026-11-21).
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// From the launch to the first step.
    start: f32,
    /// 64 k of a tile, where memory keeps up.
    step: f32,
    /// A tile's end: outputs, and the ring running dry.
    tile: f32,
    /// Tiles are cut: a block waits for others,
    cut: f32,
    /// and adds the sums of one.
    part: f32,
    /// Rows up to a multiple of this cost a step what they are worth; the kernel leaves the rest of a tile alone.
    grain: usize,
}

const fn cost(start: f32, step: f32, tile: f32, cut: f32, part: f32, grain: usize) -> Cost {
    Cost { start, step, tile, cut, part, grain }
}

/// Of [`FORMS`], in their order. Fitted by benches/gpu/fit.py to the 4700 times of benches/gpu/sweep.py that lie near the
/// best of their problem: 17 shapes, 1 to 1024 tokens a group, even and routed splits, every form and schedule.
/// Mean error 4 %; what the model takes is 1.01 times the best for splits that it knows.
const COSTS: [Cost; FORMS.len()] = [
    cost(5.1, 0.448, 1.5, 1.7, 0.4, 8),
    cost(5.3, 0.440, 1.3, 1.9, 0.6, 8),
    cost(3.3, 0.518, 3.2, 2.5, 1.5, 16),
    cost(3.0, 0.620, 1.5, 3.1, 1.0, 32),
    cost(2.0, 0.810, 2.0, 1.8, 1.9, 64),
    cost(2.0, 0.782, 1.0, 2.7, 1.9, 128),
    cost(2.0, 0.724, 1.0, 4.6, 2.1, 256),
];
/// Bytes of weights that memory gives in a microsecond; a launch that only reads: 4.57e6.
const READ: f32 = 4.6e6;
/// Steps of `few` that decode activations too, of 16 tokens: 1.09 to 1.33 times those of values.
const CODES_STEP: f32 = 1.16;
/// The pass that decodes activations for `many`: its launch, and the bytes it reads and writes in a microsecond.
const DECODE_LAUNCH: f32 = 6.0;
const DECODE_RATE: f32 = 1.3e6;
/// How much splits that vary count beside even ones. Half of the tiles of a form may be wasted on a row too many, or the
/// next form on rows that are not there: 0 gives 1.01 times the best for even splits and 1.06 for routed ones, 1 gives
/// 1.03 and 1.02.
const VARYING: f32 = 0.6;

/// What a problem is to the model.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Groups that can have rows, and rows of each on average.
    pub groups: usize,
    pub average: usize,
    /// Groups may have more rows and fewer.
    pub varies: bool,
    /// Of the weights of a group.
    pub rows: usize,
    pub cols: usize,
    pub processors: usize,
    /// Activations are codes: rows of them that lie in memory.
    pub codes: Option<usize>,
}

/// What a split of the rows makes of a load.
#[derive(Clone, Copy)]
struct Split {
    /// Tiles, and steps of 64 k of each that count in full.
    tiles: f32,
    steps: f32,
    weight_bytes: f32,
    varies: bool,
}

impl Load {
    /// Microseconds of a form and a schedule.
    pub fn microseconds(&self, form: usize, schedule: Schedule) -> f32 {
        let even = self.split_cost(form, schedule, &self.split(form, &[self.average], false));
        let mut us = even;
        if self.varies && self.average > 1 {
            // A third of the groups each: a router's standard deviation below the average, on it, above it.
            let around = (self.average as f32).sqrt().round() as usize;
            let lengths = [self.average - around, self.average, self.average + around];
            let varying = self.split_cost(form, schedule, &self.split(form, &lengths, true));
            us += VARYING * (varying - even);
        }
        us + self.decode_cost(FORMS[form].family)
    }

    /// The groups have these lengths, as many each.
    fn split(&self, form: usize, lengths: &[usize], varies: bool) -> Split {
        let (grain, form) = (COSTS[form].grain, &FORMS[form]);
        let (mut tiles, mut filled, mut active) = (0, 0, 0);
        for &rows in lengths {
            tiles += rows.div_ceil(form.tokens);
            filled += rows.next_multiple_of(grain);
            active += (rows > 0) as usize;
        }
        let each = self.groups as f32 / lengths.len() as f32;
        let steps = self.cols.div_ceil(form.step_cols()) * form.depth;
        let unit_bytes = self.rows.div_ceil(UNIT_ROWS) * self.cols.div_ceil(UNIT_COLS) * UNIT_BYTES;
        Split {
            tiles: (tiles * self.rows.div_ceil(form.rows())) as f32 * each,
            steps: steps as f32 * filled as f32 / (tiles * form.tokens).max(1) as f32,
            weight_bytes: unit_bytes as f32 * active as f32 * each,
            varies,
        }
    }

    fn split_cost(&self, form: usize, schedule: Schedule, split: &Split) -> f32 {
        let (c, form) = (&COSTS[form], &FORMS[form]);
        let Split { tiles, steps, weight_bytes, varies } = *split;
        let blocks = (self.processors * form.resident) as f32;
        let (waves, rest) = ((tiles / blocks).floor(), tiles % blocks);
        // Waves of whole tiles, and tiles that are cut.
        let (whole, cut) = match schedule {
            // Where a split varies, its last wave is half full.
            Schedule::WholeTiles if varies => ((tiles / blocks + 0.5).max(1.0), 0.0),
            Schedule::WholeTiles => ((tiles / blocks).ceil(), 0.0),
            Schedule::SplitRemainder => (waves, rest),
            Schedule::SplitTwoWaves if waves > 0.0 && rest > 0.0 => (waves - 1.0, rest + blocks),
            Schedule::SplitTwoWaves => (waves, rest),
            Schedule::SplitAll => (0.0, tiles),
        };
        // Blocks of a processor that has fewer of them share it with fewer.
        let alone = if cut > 0.0 { 1.0 } else { (tiles / blocks).clamp(1.0 / form.resident as f32, 1.0) };
        let mut multiply = whole * (alone * steps * c.step + c.tile);
        if cut > 0.0 {
            let workers = blocks.min(cut * steps / form.depth as f32 / LEAST_STEPS as f32).max(1.0);
            let sharers = (workers / cut).max(1.0);
            multiply +=
                cut * steps / workers * c.step + (cut / workers).max(1.0) * c.tile + c.cut + sharers * c.part;
        }
        if self.codes.is_some() && form.family == Family::Few {
            multiply *= 1.0 + (CODES_STEP - 1.0) * form.tokens as f32 / 16.0;
        }
        c.start + later(multiply, weight_bytes / READ)
    }

    /// What decoding the activations takes before the product.
    fn decode_cost(&self, family: Family) -> f32 {
        match self.codes {
            Some(rows) if family == Family::Many => {
                const BYTES: f32 = 2.0 + 9.0 / 16.0; // a value, and a 16th of a block
                DECODE_LAUNCH + rows as f32 * self.cols as f32 * BYTES / DECODE_RATE
            }
            _ => 0.0,
        }
    }
}

/// The larger one, and more where they are near: neither waits for the other all the time.
fn later(a: f32, b: f32) -> f32 {
    let (a, b) = (a * a, b * b);
    (a * a + b * b).sqrt().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(groups: usize, average: usize, cols: usize, rows: usize) -> Load {
        Load { groups, average, varies: false, rows, cols, processors: 132, codes: None }
    }

    const SCHEDULES: [Schedule; 4] =
        [Schedule::WholeTiles, Schedule::SplitRemainder, Schedule::SplitTwoWaves, Schedule::SplitAll];

    #[test]
    fn more_work_never_costs_less() {
        for (form, f) in FORMS.iter().enumerate() {
            for schedule in SCHEDULES {
                let us = |groups, average, cols, rows| {
                    load(groups, average, cols, rows).microseconds(form, schedule)
                };
                for average in [1, 5, 16, 40, 100, 300, 1000] {
                    let here = us(48, average, 4096, 4096);
                    assert!(here.is_finite() && here > 2.0);
                    assert!(us(48, average, 8192, 4096) > here);
                    assert!(us(96, average, 4096, 4096) > here);
                    assert!(us(48, 2 * average + f.tokens, 4096, 4096) >= here);
                }
            }
        }
    }

    #[test]
    fn nothing_to_do_costs_a_start() {
        for form in 0..FORMS.len() {
            for schedule in SCHEDULES {
                let us = load(0, 0, 4096, 4096).microseconds(form, schedule);
                assert!(us.is_finite() && us < 10.0, "{form} {schedule:?}: {us}");
            }
        }
    }

    #[test]
    fn codes_cost_more() {
        for (at, form) in FORMS.iter().enumerate() {
            let values = load(8, 64, 8192, 1536);
            let codes = Load { codes: Some(64), ..values };
            let more =
                codes.microseconds(at, Schedule::SplitAll) / values.microseconds(at, Schedule::SplitAll);
            assert!(more > 1.0 && more < 1.5, "{form:?}: {more}");
        }
    }

    /// Of a sweep: groups, tokens of each, K, N, form, schedule, microseconds.
    #[test]
    fn the_model_is_near_what_was_measured() {
        use Schedule::*;
        for (groups, tokens, cols, rows, form, schedule, measured) in [
            (48, 1, 7168, 6144, 1, SplitAll, 272.8),
            (48, 16, 7168, 6144, 2, SplitAll, 304.8),
            (128, 1, 2048, 1536, 1, WholeTiles, 60.9),
            (8, 4, 4096, 1024, 0, SplitAll, 13.2),
            (1, 16, 8192, 8192, 0, SplitAll, 22.8),
            (128, 128, 2048, 1536, 5, WholeTiles, 163.1),
            (8, 128, 8192, 1536, 5, SplitRemainder, 48.2),
            (128, 256, 2048, 1536, 6, WholeTiles, 301.6),
            (8, 512, 4096, 1024, 6, WholeTiles, 47.8),
        ] {
            let us = load(groups, tokens, cols, rows).microseconds(form, schedule);
            let off = us / measured;
            assert!(
                (0.85..1.15).contains(&off),
                "{groups} {tokens} {cols} {rows} {form}: {us} for {measured}"
            );
        }
    }
}

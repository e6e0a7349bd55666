//! What a product costs on Hopper, by form and schedule, in microseconds: the model that `gemm_sm90` chooses by. Pure.
//!
//! A block multiplies steps of 64 k and ends tiles; blocks that share a tile write sums, and its owner adds them up. All
//! that while the weights have to come from memory, and the later of both counts. The split of the rows over the groups
//! is unknown, so a form costs what it would on average: for groups of one length, and for groups whose lengths vary as
//! those of a router that sends rows anywhere.

use super::forms_sm90::{FORMS, Family, Form, Schedule};
use super::gemm_cuda::{UNIT_BYTES, UNIT_COLS, UNIT_ROWS};
use super::gemm_sm90::LEAST_STEPS;

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
}

const fn cost(start: f32, step: f32, tile: f32, cut: f32, part: f32) -> Cost {
    Cost { start, step, tile, cut, part }
}

/// Of [`FORMS`], in their order. Fitted by benches/gpu/fit.py to 1617 times of benches/gpu/sweep.py, earlier ones than those in
/// bench/results/h200-sweep.json, that lie near the best of their problem: V4-Flash up, Qwen3-30B up and down, both output projections
/// and the dense layer, 1 to 1024 tokens a group, even and routed splits, every form and schedule. Mean error 5 %. By hand: steps
/// of 128 and 256 tokens (fitted: 0.745 and 0.698), so that 512 even rows take the wider form, which is 3 % faster there; the
/// last form, by whole products of 128 tokens of commit add5a4d (48 groups, 7168 → 6144: 1046 µs; dense 8192: 38.9); and the
/// first form's step and the second's cut (fitted: 0.472 and 2.2), by 16 shapes of 1 and 4 tokens of commit 18b9c8f.
const COSTS: [Cost; FORMS.len()] = [
    cost(2.9, 0.480, 2.3, 2.5, 0.4),
    cost(4.8, 0.443, 1.7, 2.8, 0.5),
    cost(2.0, 0.534, 3.1, 3.8, 1.2),
    cost(3.6, 0.529, 2.3, 0.5, 0.9),
    cost(2.8, 0.697, 2.9, 0.5, 1.5),
    cost(2.8, 0.770, 1.8, 2.7, 1.4),
    cost(2.0, 0.678, 1.3, 0.1, 4.8),
    cost(2.8, 0.288, 1.1, 0.1, 2.2),
    cost(2.0, 0.440, 1.1, 2.0, 1.5),
];
/// Share of a wide tile's step that does not shrink with the tokens it multiplies, since weights are decoded all the same. By
/// times of groups of 72 and 128 rows, and by a hot group beside others of 261; for the narrow tiles a guess on the safe side.
const fn width_alone(form: &Form) -> f32 {
    match (form.tokens, form.units) {
        (256, _) => 0.45,
        (_, 2) => 0.6,
        _ => 0.7,
    }
}
/// Bytes of weights that memory gives in a microsecond; a launch that only reads: 4.57e6.
const READ: f32 = 4.6e6;
/// Steps of `few` that decode activations too, of 16 tokens: 1.09 to 1.33 times those of values.
const CODES_STEP: f32 = 1.16;
/// The pass that decodes activations: its launch, and the bytes it reads and writes in a microsecond.
const DECODE_LAUNCH: f32 = 2.5;
const DECODE_RATE: f32 = 3.2e6;
/// How much splits that vary count beside even ones. Half of the tiles of a form may be wasted on a row too many, or the
/// next form on rows that are not there: choices are 1.013 times the best for even splits and 1.033 for routed ones at 0.3,
/// 1.015 and 1.027 at 0.6, 1.017 and 1.020 at 0.9. At 0.6 eight rows a group on average took tiles of 8, which a router's rows
/// fill 1.2 times slower than tiles of 16 (48 groups, 7168 → 6144: 403 µs beside 347).
const VARYING: f32 = 0.8;

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
    /// Bytes of the weights of groups that have rows, and of every tile of tokens.
    weight_bytes: f32,
    tile_bytes: f32,
    /// The groups have different numbers of tiles.
    varies: bool,
}

/// A load in a form.
#[derive(Clone, Copy)]
pub struct FormLoad {
    form: usize,
    /// All groups have the average, and they vary.
    even: Split,
    varying: Option<Split>,
    blocks: f32,
    /// What a step is worth, and what comes before the product.
    step: f32,
    before: f32,
}

impl Load {
    /// `decoded`: a pass before the product decodes codes.
    pub fn of(&self, form: usize, decoded: bool) -> FormLoad {
        let f = &FORMS[form];
        let mut varying = None;
        if self.varies && self.average > 1 {
            // A third of the groups each: a router's standard deviation below the average, on it, above it.
            let around = ((self.average as f32).sqrt() + 0.5) as usize;
            let lengths = [self.average - around, self.average, self.average + around];
            // Hardly any group is two of them off; one of few rows may be empty, which costs no tile.
            let (least, most) = (self.average.saturating_sub(2 * around).max(1), self.average + 2 * around);
            let varies = least.div_ceil(f.tokens) < most.div_ceil(f.tokens);
            varying = Some(self.split(f, &lengths, varies));
        }
        let step = match f.family {
            Family::Few if self.codes.is_some() && !decoded => {
                1.0 + (CODES_STEP - 1.0) * f.tokens as f32 / 16.0
            }
            _ => 1.0,
        };
        FormLoad {
            form,
            even: self.split(f, &[self.average], false),
            varying,
            blocks: (self.processors * f.resident) as f32,
            step: step * COSTS[form].step,
            before: COSTS[form].start + if decoded { self.decode_cost() } else { 0.0 },
        }
    }

    /// The groups have these lengths, as many each.
    fn split(&self, form: &Form, lengths: &[usize], varies: bool) -> Split {
        // Narrow integers: this runs in every call, and divisions are most of it.
        let (tokens, mut tiles, mut wide, mut active) = (form.tokens as u32, 0, 0, 0);
        for &rows in lengths {
            let rows = rows.min(u32::MAX as usize) as u32;
            let down = rows.div_ceil(tokens);
            tiles += down;
            wide += down * form.width(rows.div_ceil(down.max(1)) as usize) as u32;
            active += (rows > 0) as u32;
        }
        let (each, alone) = (self.groups as f32 / lengths.len() as f32, width_alone(form));
        let steps = self.cols.div_ceil(form.step_cols()) * form.depth;
        let across = (self.rows as u32).div_ceil(form.rows() as u32);
        let bytes = self.rows.div_ceil(UNIT_ROWS) * self.cols.div_ceil(UNIT_COLS) * UNIT_BYTES;
        Split {
            tiles: tiles as f32 * across as f32 * each,
            steps: steps as f32 * (alone + (1.0 - alone) * wide as f32 / (tiles * tokens).max(1) as f32),
            weight_bytes: bytes as f32 * active as f32 * each,
            tile_bytes: bytes as f32 * tiles as f32 * each,
            varies,
        }
    }

    /// What decoding the activations takes before the product.
    fn decode_cost(&self) -> f32 {
        const BYTES: f32 = 2.0 + 9.0 / 16.0; // a value, and a 16th of a block
        DECODE_LAUNCH + self.codes.unwrap_or(0) as f32 * self.cols as f32 * BYTES / DECODE_RATE
    }
}

impl FormLoad {
    /// Microseconds with a schedule.
    pub fn microseconds(&self, schedule: Schedule) -> f32 {
        let even = self.split_cost(schedule, &self.even);
        match &self.varying {
            Some(varying) => even + VARYING * (self.split_cost(schedule, varying) - even),
            None => even,
        }
    }

    fn split_cost(&self, schedule: Schedule, split: &Split) -> f32 {
        let (c, form, blocks) = (&COSTS[self.form], &FORMS[self.form], self.blocks);
        let Split { tiles, steps, .. } = *split;
        let waves = (tiles / blocks) as u32 as f32;
        let rest = tiles - waves * blocks;
        // Waves of whole tiles, and tiles that are cut.
        let (whole, cut) = match schedule {
            // Where a split varies, its last wave is half full.
            Schedule::WholeTiles if split.varies => ((tiles / blocks + 0.5).max(1.0), 0.0),
            Schedule::WholeTiles => (waves + if rest > 0.0 { 1.0 } else { 0.0 }, 0.0),
            Schedule::SplitRemainder => (waves, rest),
            Schedule::SplitTwoWaves if waves > 0.0 && rest > 0.0 => (waves - 1.0, rest + blocks),
            Schedule::SplitTwoWaves => (waves, rest),
            Schedule::SplitAll => (0.0, tiles),
        };
        let mut multiply = whole * (steps * self.step + c.tile);
        if cut > 0.0 {
            let mut workers = blocks.min(cut * steps / (form.depth * LEAST_STEPS) as f32).max(1.0);
            // As `Work` has it: a few tiles are shared by as many blocks each, or are whole.
            let alike = (workers / cut) as u32 as f32 * cut;
            let idle = if alike == cut { form.idle() } else { 1 };
            if 16.0 * alike >= (16 - idle) as f32 * workers {
                workers = alike;
            }
            multiply += cut * steps / workers * self.step + (cut / workers).max(1.0) * c.tile;
            if workers != cut || split.varies {
                multiply += c.cut + (workers / cut).max(1.0) * c.part;
            }
        }
        // A block that walks on through the token tiles of a group has its weights brought again.
        let again = form.family == Family::Few && schedule == Schedule::SplitAll;
        let bytes = if again { split.tile_bytes } else { split.weight_bytes };
        self.before + later(multiply, bytes / READ)
    }
}

/// The larger one, and more where they are near: neither waits for the other all the time.
fn later(a: f32, b: f32) -> f32 {
    let (a, b) = (a * a, b * b);
    (a * a + b * b).sqrt().sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::forms_sm90::SCHEDULES;
    use super::*;

    fn load(groups: usize, average: usize, cols: usize, rows: usize) -> Load {
        Load { groups, average, varies: false, rows, cols, processors: 132, codes: None }
    }

    #[test]
    fn more_work_never_costs_less() {
        for (form, f) in FORMS.iter().enumerate() {
            for schedule in SCHEDULES {
                let us = |groups, average, cols, rows| {
                    load(groups, average, cols, rows).of(form, false).microseconds(schedule)
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
                let us = load(0, 0, 4096, 4096).of(form, false).microseconds(schedule);
                assert!(us.is_finite() && us < 10.0, "{form} {schedule:?}: {us}");
            }
        }
    }

    /// 1.94 waves of tiles for rows that each group has few of: nothing is cut. A router's rows that some groups need a second
    /// tile for do not keep that number.
    #[test]
    fn nearly_a_wave_of_tiles_is_handed_out_whole() {
        for (average, varies, alike) in
            [(4, false, true), (4, true, true), (8, false, true), (8, true, false)]
        {
            let form = Load { varies, ..load(32, average, 4096, 4096) }.of(1, false);
            let [whole, rest] =
                [Schedule::WholeTiles, Schedule::SplitRemainder].map(|schedule| form.microseconds(schedule));
            assert_eq!(whole == rest, alike, "{average} {varies}: {whole} {rest}");
        }
    }

    #[test]
    fn codes_cost_more() {
        for (at, form) in FORMS.iter().enumerate() {
            let values = load(8, 64, 8192, 1536);
            let codes = Load { codes: Some(8 * 64), ..values };
            for decoded in [form.family == Family::Many, true] {
                let more = codes.of(at, decoded).microseconds(Schedule::SplitAll)
                    / values.of(at, false).microseconds(Schedule::SplitAll);
                assert!(more > 1.0 && more < 1.5, "{form:?}: {more}");
            }
        }
    }

    /// Of a sweep: groups, tokens of each, K, N, form, schedule, microseconds.
    #[test]
    fn the_model_is_near_what_was_measured() {
        use Schedule::*;
        for (groups, tokens, cols, rows, form, schedule, measured) in [
            (48, 1, 7168, 6144, 1, SplitAll, 279.8),
            (48, 16, 7168, 6144, 2, SplitAll, 336.7),
            (48, 64, 7168, 6144, 4, SplitTwoWaves, 502.4),
            (128, 1, 2048, 1536, 1, WholeTiles, 63.8),
            (8, 4, 4096, 1024, 0, SplitAll, 15.0),
            (1, 32, 8192, 8192, 3, SplitRemainder, 24.4),
            (8, 128, 8192, 1536, 5, SplitRemainder, 50.2),
            (128, 128, 2048, 1536, 5, WholeTiles, 164.8),
            (32, 512, 4096, 4096, 6, SplitRemainder, 742.6),
            (48, 160, 7168, 6144, 6, WholeTiles, 1314.2),
        ] {
            let us = load(groups, tokens, cols, rows).of(form, false).microseconds(schedule);
            let off = us / measured;
            assert!(
                (0.85..1.15).contains(&off),
                "{groups} {tokens} {cols} {rows} {form}: {us} for {measured}"
            );
        }
    }
}

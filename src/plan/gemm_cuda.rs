//! Which tile of the portable CUDA product takes a problem, and how its workspace is cut. Pure: no device is asked.
//!
//! A block owns `tokens` rows of a group × `units` · 128 weight rows (kernels/gemm.cuh). The split of the rows over the
//! groups is unknown here, so grids are sized for any split, and the tile for the average over the groups that can have
//! rows. Small products leave processors idle, so blocks share the k of a tile (`splits`), unless the caller wants every
//! row's bits to be independent of the batch.

use super::gemm::{Activations, GemmOut, GemmProblem};
use super::groups::Groups;
use super::quantize::DecodeScales;
use super::tuning::{Choice, Operand};
use crate::format::block::ScaleRule;

/// Weight rows, k and bytes of a unit of prepared weights.
pub const UNIT_ROWS: usize = 128;
pub const UNIT_COLS: usize = 64;
pub const UNIT_BYTES: usize = 4608;

/// Stages of 64 k that the tensor cores add up by themselves.
pub const RUN_STEPS: usize = 32;

/// A form of the kernel, as kernels/gemm.cu lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub tokens: usize,
    pub units: usize,
    pub stages: usize,
    /// Blocks that a processor of a large chip holds at once.
    pub resident: usize,
}

pub const TILES: [Tile; 5] = [
    Tile { tokens: 8, units: 1, stages: 6, resident: 4 },
    Tile { tokens: 16, units: 1, stages: 6, resident: 4 },
    Tile { tokens: 32, units: 1, stages: 5, resident: 4 },
    Tile { tokens: 64, units: 1, stages: 4, resident: 3 },
    Tile { tokens: 128, units: 2, stages: 3, resident: 1 },
];

impl Tile {
    pub const fn threads(&self) -> usize {
        128 * self.units
    }

    /// Bytes of shared memory for `steps` stages of k: the pipeline, and totals where one run of the tensor cores is not
    /// exact enough (RUN_STEPS of kernels/gemm.cuh).
    pub const fn shared_bytes(&self, steps: usize) -> usize {
        let totals = if steps > RUN_STEPS { self.partial_bytes() } else { 0 };
        self.stages * (self.tokens * UNIT_COLS * 2 + self.units * UNIT_BYTES) + totals
    }

    /// Bytes of the sums of a tile: its totals, or what one split leaves behind.
    const fn partial_bytes(&self) -> usize {
        self.tokens * self.units * UNIT_ROWS * size_of::<f32>()
    }
}

/// What a device has of what matters here.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub processors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: usize,
    /// Machine code of sm_90a runs here.
    pub hopper: bool,
}

/// How a product runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmPlan {
    /// Index into [`TILES`].
    pub tile: usize,
    pub splits: usize,
    /// Bytes of shared memory of a block.
    pub shared_bytes: usize,
    /// Tiles of any split of the rows, at most; 1 where there are no rows but an index array to be checked.
    pub tiles: usize,
    /// Byte offsets in the workspace: rows of a second pass come first, then a counter a tile, then the sums of splits.
    pub counters_at: usize,
    pub partials_at: usize,
    pub workspace_bytes: usize,
}

/// k that a split is worth having: shorter ones cost more than they bring.
const LEAST_STEPS: usize = 8;
const MOST_SPLITS: usize = 16;
/// The average rows a group up to which each tile is taken; a little room, for groups are rarely even.
const AVERAGES: [usize; 4] = [4, 16, 32, 64];

/// Rows of any group start where whole vectors can be loaded: 16 bytes of values, 8 of codes.
pub fn a_vectors(p: &GemmProblem) -> bool {
    let strided = matches!(p.groups, Groups::Strided { .. });
    let (row, group) = match p.a {
        Activations::Values { a, .. } => (a.row_stride, a.group_stride),
        Activations::Codes(q) => (q.codes_row_stride, q.codes_group_stride),
    };
    row % 8 == 0 && (!strided || group % 8 == 0)
}

/// The output is requantized by a second pass over bfloat16 rows at the workspace's start, whichever kernel multiplies;
/// some need it for all codes ([`super::gemm_sm90::Plan::has_second_pass`]).
pub fn needs_second_pass(p: &GemmProblem) -> bool {
    match p.out {
        GemmOut::Values { .. } => false,
        GemmOut::Codes(out) => matches!(out.decode, DecodeScales::Dynamic(_)) || out.rule != ScaleRule::Amax,
    }
}

/// Bytes of those rows.
pub fn staged_bytes(p: &GemmProblem) -> usize {
    p.groups.total_rows() * p.out_cols() * 2
}

/// (rows, groups that can have rows).
pub fn spread(p: &GemmProblem) -> (usize, usize) {
    match p.groups {
        Groups::None { rows } => (rows, 1),
        Groups::Ends { rows, count, .. } => (rows, count.min(rows)),
        Groups::Masked { count, max_rows: rows, .. } | Groups::Strided { count, rows } => {
            (rows * count, count)
        }
    }
}

/// Token tiles of any split of the rows over the groups, at most.
pub fn most_token_tiles(p: &GemmProblem, tokens: usize) -> usize {
    match p.groups {
        // A group wastes at most tokens − 1 rows of its last tile.
        Groups::Ends { rows, .. } => (rows + (tokens - 1) * spread(p).1) / tokens,
        Groups::None { rows } => rows.div_ceil(tokens),
        Groups::Masked { count, max_rows: rows, .. } | Groups::Strided { count, rows } => {
            count * rows.div_ceil(tokens)
        }
    }
}

fn most_tiles(p: &GemmProblem, form: &Tile) -> usize {
    (most_token_tiles(p, form.tokens) * p.weights.shape.rows.div_ceil(form.units * UNIT_ROWS)).max(1)
}

/// Whether a form takes a problem whose k it sees in runs of `steps`.
fn takes(form: &Tile, p: &GemmProblem, steps: usize, machine: &Machine) -> bool {
    // The widest form for codes has no registers left for totals.
    let short_runs = matches!(p.a, Activations::Codes(_)) && steps > RUN_STEPS;
    form.shared_bytes(steps) <= machine.shared_per_block && (form.tokens <= 64 || !short_runs && a_vectors(p))
}

/// Chooses tile and splits and cuts the workspace.
pub fn plan(p: &GemmProblem, machine: &Machine) -> GemmPlan {
    let (rows, active) = spread(p);
    let average = rows.div_ceil(active.max(1));
    let steps = p.weights.shape.cols.div_ceil(UNIT_COLS);
    let mut tile = AVERAGES.iter().take_while(|&&most| average > most).count();
    while tile > 0 && !takes(&TILES[tile], p, steps, machine) {
        tile -= 1;
    }
    let form = &TILES[tile];
    let tiles = most_tiles(p, form);
    let mut splits = 1;
    if !p.batch_invariant && form.tokens <= 64 {
        while 2 * splits <= MOST_SPLITS
            && tiles * splits * 2 <= machine.processors * form.resident
            && steps / (splits * 2) >= LEAST_STEPS
        {
            splits *= 2;
        }
    }
    cut(p, tile, splits)
}

/// A choice's plan, or none where it is not legal for the problem: another kernel, a form that does not take it, splits
/// that it does not have.
pub fn plan_choice(p: &GemmProblem, machine: &Machine, choice: &Choice) -> Option<GemmPlan> {
    let tokens = choice.kernel.strip_prefix("nvfp4_gemm_")?.strip_prefix(Operand::of(p).name())?;
    let tokens = tokens.strip_prefix('_')?;
    let tile = TILES.iter().position(|form| form.tokens.to_string() == tokens)?;
    let (form, splits) = (&TILES[tile], choice.splits);
    let steps = p.weights.shape.cols.div_ceil(UNIT_COLS);
    let cuts = splits == 1
        || splits.is_power_of_two()
            && splits <= MOST_SPLITS.min(steps)
            && form.tokens <= 64
            && !p.batch_invariant;
    let legal = cuts && takes(form, p, steps, machine);
    legal.then(|| cut(p, tile, splits)).filter(|plan| plan.tiles.saturating_mul(splits) <= i32::MAX as usize)
}

/// The choice that a plan is.
pub fn choice_of(p: &GemmProblem, plan: &GemmPlan) -> Choice {
    let kernel = format!("nvfp4_gemm_{}_{}", Operand::of(p).name(), TILES[plan.tile].tokens);
    Choice { kernel, splits: plan.splits }
}

/// Every choice that is legal for a problem and worth a measurement; what [`plan`] takes by itself comes first.
pub fn candidates(p: &GemmProblem, machine: &Machine) -> Vec<Choice> {
    let mut list = vec![choice_of(p, &plan(p, machine))];
    for form in &TILES {
        for splits in [1, 2, 4, 8, MOST_SPLITS] {
            let kernel = format!("nvfp4_gemm_{}_{}", Operand::of(p).name(), form.tokens);
            let choice = Choice { kernel, splits };
            if !list.contains(&choice) && plan_choice(p, machine, &choice).is_some() {
                list.push(choice);
            }
        }
    }
    list
}

/// Cuts the workspace for a form and splits that take the problem.
fn cut(p: &GemmProblem, tile: usize, splits: usize) -> GemmPlan {
    let form = &TILES[tile];
    let tiles = most_tiles(p, form);
    let steps = p.weights.shape.cols.div_ceil(UNIT_COLS);
    let up = |bytes: usize| bytes.next_multiple_of(128);
    let counters_at = if needs_second_pass(p) { up(staged_bytes(p)) } else { 0 };
    let (counters, partials) = match splits {
        1 => (0, 0),
        _ => (up(4 * tiles), tiles * splits * form.partial_bytes()),
    };
    let partials_at = counters_at + counters;
    GemmPlan {
        tile,
        splits,
        shared_bytes: form.shared_bytes(steps.div_ceil(splits)),
        tiles,
        counters_at,
        partials_at,
        workspace_bytes: if p.groups.total_rows() == 0 { 0 } else { partials_at + partials },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::dtype::Dtype;
    use crate::plan::gemm::Activation;
    use crate::plan::gemm_sm90::{Plan, plan_any};
    use crate::plan::memory::{Matrix, Ptr};
    use crate::plan::quantize::Scope;
    use crate::plan::tuning::{Key, Tuning};
    use crate::plan::weights::{Weights, WeightsShape};

    const H200: Machine = Machine { processors: 132, shared_per_block: 232_448, hopper: false };
    const ADA: Machine = Machine { processors: 142, shared_per_block: 101_376, hopper: false };

    fn problem(groups: Groups, n: usize, k: usize, a_stride: usize) -> GemmProblem {
        let matrix = |row_stride| Matrix { base: Ptr::NULL, dtype: Dtype::Bf16, row_stride, group_stride: 0 };
        let shape = WeightsShape { groups: groups.count(), rows: n, cols: k, gate_up: false };
        GemmProblem {
            groups,
            a: Activations::Values { a: matrix(a_stride), scope: Scope::Tensor, decode: Ptr::NULL },
            weights: Weights { shape, storage: Ptr::NULL },
            bias: None,
            activation: Activation::None,
            out: GemmOut::Values { out: matrix(n), accumulate: false },
            batch_invariant: false,
            dependent_launch: false,
            workspace: Ptr::NULL,
            plan: None,
        }
    }

    /// Without Hopper's kernels.
    fn plan_tuned(p: &GemmProblem, machine: &Machine, tuning: Option<&Tuning>) -> GemmPlan {
        match plan_any(p, machine, tuning) {
            Plan::Portable(plan) => plan,
            Plan::Hopper(plan) => panic!("{plan:?} on another machine"),
        }
    }

    pub fn ends(count: usize, rows: usize) -> Groups {
        Groups::Ends { ends: Ptr::NULL, count, rows }
    }

    /// (E, K, N) of docs and benches: expert layers, output projections, a dense layer.
    pub const SHAPES: [(usize, usize, usize); 13] = [
        (48, 7168, 6144),
        (48, 3072, 7168),
        (32, 4096, 4096),
        (32, 2048, 4096),
        (32, 7168, 4096),
        (64, 4096, 3072),
        (128, 2048, 1536),
        (128, 768, 2048),
        (128, 2688, 1856),
        (32, 2880, 5760),
        (8, 4096, 1024),
        (8, 8192, 1536),
        (1, 8192, 8192),
    ];

    #[test]
    fn every_listed_shape_has_a_plan_that_holds() {
        for machine in [H200, ADA] {
            for (e, k, n) in SHAPES {
                for tokens in [1, 4, 16, 32, 64, 128, 512, 1024] {
                    let p = problem(ends(e, tokens * e), n, k, k);
                    let plan = plan(&p, &machine);
                    let tile = &TILES[plan.tile];
                    assert!(plan.shared_bytes <= machine.shared_per_block);
                    assert!(plan.splits <= k.div_ceil(UNIT_COLS), "{e} {k} {n} {tokens}: {plan:?}");
                    assert!(plan.splits == 1 || tile.tokens <= 64);
                    assert!(plan.tiles * plan.splits < i32::MAX as usize);
                    // Enough for even groups and for one group that has all rows.
                    let across = n.div_ceil(tile.units * UNIT_ROWS);
                    assert!(plan.tiles >= e * tokens.div_ceil(tile.tokens) * across);
                    assert!(plan.tiles >= (e * tokens).div_ceil(tile.tokens) * across);
                    assert!(tile.tokens >= tokens.min(64) || tokens <= 4);
                    assert!(plan.workspace_bytes < 64 << 20, "{e} {k} {n} {tokens}: {plan:?}");
                }
            }
        }
    }

    #[test]
    fn few_tokens_keep_the_chip_busy_and_fit_one_wave() {
        for (e, k, n) in SHAPES {
            for rows in [1, 6, 8] {
                let plan = plan(&problem(ends(e, rows), n, k, k), &H200);
                let blocks = plan.tiles * plan.splits;
                assert!(blocks >= 132 || k.div_ceil(UNIT_COLS) / plan.splits < 2 * LEAST_STEPS, "{plan:?}");
                assert!(plan.splits == 1 || blocks <= 132 * TILES[plan.tile].resident);
            }
        }
    }

    #[test]
    fn batch_invariance_forbids_splits() {
        for rows in [1, 7, 100, 5000] {
            let p = GemmProblem { batch_invariant: true, ..problem(ends(8, rows), 1536, 8192, 8192) };
            assert_eq!(plan(&p, &H200).splits, 1);
            assert_eq!(plan(&p, &H200).workspace_bytes, 0);
        }
    }

    #[test]
    fn wide_tiles_need_aligned_rows_and_room() {
        let wide = problem(Groups::None { rows: 4096 }, 4096, 4096, 4096);
        assert_eq!(TILES[plan(&wide, &H200).tile].tokens, 128);
        let odd = problem(Groups::None { rows: 4096 }, 4096, 4096, 4097);
        assert_eq!(TILES[plan(&odd, &H200).tile].tokens, 64);
        let small = Machine { processors: 20, shared_per_block: 48 << 10, hopper: false };
        assert!(plan(&wide, &small).shared_bytes <= 48 << 10);
    }

    #[test]
    fn a_measured_choice_is_taken_where_it_is_legal() {
        let p = problem(ends(48, 48), 6144, 7168, 7168);
        let own = plan(&p, &H200);
        let set = |kernel: &str, splits| {
            let mut tuning = Tuning::default();
            tuning.set(Key::of(&p), Choice { kernel: kernel.into(), splits });
            tuning
        };
        let with = |p: &GemmProblem, kernel: &str, splits| plan_tuned(p, &H200, Some(&set(kernel, splits)));
        let tuned = with(&p, "nvfp4_gemm_bf16_32", 4);
        assert_eq!((tuned.tile, tuned.splits), (2, 4));
        assert!(tuned.workspace_bytes > 0 && tuned.workspace_bytes != own.workspace_bytes);
        // Neighbours in the same bucket, not those of another.
        let near = problem(ends(48, 40), 6144, 7168, 7168);
        assert_eq!(with(&near, "nvfp4_gemm_bf16_32", 4).tile, 2);
        let far = problem(ends(48, 48 * 8), 6144, 7168, 7168);
        assert_eq!(with(&far, "nvfp4_gemm_bf16_32", 4), plan(&far, &H200));
        // Illegal: kernels of another operand or of nobody, splits that are none.
        let wrong = [
            ("nvfp4_gemm_f16_32", 1),
            ("nvfp4_gemm_bf16_33", 1),
            ("nvfp4_gemm_bf16_", 1),
            ("nvfp4_quantize", 1),
            ("nvfp4_gemm_bf16_32", 0),
            ("nvfp4_gemm_bf16_32", 3),
            ("nvfp4_gemm_bf16_32", 32),
            ("nvfp4_gemm_bf16_128", 2),
        ];
        for (kernel, splits) in wrong {
            assert_eq!(with(&p, kernel, splits), own, "{kernel} {splits}");
        }
        let invariant = GemmProblem { batch_invariant: true, ..p };
        assert_eq!(with(&invariant, "nvfp4_gemm_bf16_32", 1), plan(&invariant, &H200));
        assert_eq!(plan_tuned(&p, &H200, None), own);
    }

    #[test]
    fn candidates_are_legal_and_begin_with_the_planners_own() {
        for (e, k, n) in SHAPES {
            for tokens in [1, 16, 128, 1024] {
                let p = problem(ends(e, tokens * e), n, k, k);
                let list = candidates(&p, &H200);
                assert_eq!(plan_choice(&p, &H200, &list[0]), Some(plan(&p, &H200)));
                assert!(list.len() > 5 && list.iter().all(|c| plan_choice(&p, &H200, c).is_some()));
            }
        }
    }

    #[test]
    fn no_rows_still_check_the_index() {
        let plan = plan(&problem(ends(4, 0), 64, 64, 64), &H200);
        assert_eq!((plan.tiles, plan.workspace_bytes), (1, 0));
    }
}

//! Which Hopper kernel (sm_90a) takes a product, and how its workspace is cut. Pure: no device is asked.
//!
//! Two families, whose grid is one wave of blocks whatever the split of the rows is (kernels/sm90_schedule.cuh): `few`
//! streams weights through mma.sync, `many` multiplies by wgmma. What the model of `cost_sm90` finds cheapest is taken;
//! any split is right in each form. What a family cannot take stays with the portable kernel: `plan` says so by None.

use super::cost_sm90::Load;
use super::forms_sm90::{FORMS, Family, Form, SCHEDULES, Schedule};
use super::gemm::{Activations, GemmOut, GemmProblem};
use super::gemm_cuda::{self, GemmPlan, Machine};
use super::groups::Groups;
use super::tuning::{Choice, Key, Operand, Tuning};
use crate::format::dtype::Dtype;

/// How a product runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sm90Plan {
    /// Index into [`FORMS`].
    pub form: usize,
    pub schedule: Schedule,
    pub grid: usize,
    /// Steps of the form that the tensor cores of `many` add up by themselves.
    pub run_steps: usize,
    /// Activations are codes that a pass before the product decodes to bfloat16 rows, exactly; else `few` decodes them itself.
    pub decoded: bool,
    /// Byte offsets in the workspace, whose start belongs to the rows of a second pass: decoded rows, then a flag a
    /// warp, and the sums of cut tiles.
    pub decoded_at: usize,
    pub flags_at: usize,
    pub sums_at: usize,
    pub workspace_bytes: usize,
}

/// k steps that a block is worth having for where tiles are cut: `least` of `Work` in kernels/sm90_schedule.cuh.
pub(super) const LEAST_STEPS: usize = 4;
/// Rows a group, on average, that `few` takes of activations that tensor copies cannot address.
const MOST_LOOSE: usize = 64;

/// Units of 64 k that one run of the tensor cores takes at most: they cut low bits off, so a long sum of one sign drifts.
/// Over the bound on an H200, per 8192 k: f16 up to 1.12 to 2.4 by how the magnitudes spread, bf16 up to 0.6 to 1.6.
const LONGEST_RUN_BF16: usize = 64;
const LONGEST_RUN_F16: usize = 32;

/// None: the portable kernel has to take it.
pub fn plan(p: &GemmProblem, machine: &Machine) -> Option<Sm90Plan> {
    let load = load(p, machine);
    let copies = FORMS.iter().any(|form| form.family == Family::Many && takes(form, p));
    if !copies && load.average > MOST_LOOSE {
        return None;
    }
    let mut best: Option<(f32, usize, Schedule, bool)> = None;
    for (form, f) in FORMS.iter().enumerate().filter(|(_, f)| takes(f, p) && near(f, load.average)) {
        for &decoded in decodings(f.family, p) {
            let (load, behind) = (load.of(form, decoded), second_pass_cost(f, p));
            for &schedule in schedules(f.family, p.batch_invariant) {
                let us = load.microseconds(schedule) + behind;
                if best.is_none_or(|(least, ..)| us < least) {
                    best = Some((us, form, schedule, decoded));
                }
            }
        }
    }
    best.and_then(|(_, form, schedule, decoded)| plan_decoded(p, machine, form, schedule, decoded))
}

/// Whether a pass before the product decodes codes: `many` takes no others, `few` decodes them itself or has them decoded.
fn decodings(family: Family, p: &GemmProblem) -> &'static [bool] {
    match (p.a, family) {
        (Activations::Values { .. }, _) => &[false],
        (Activations::Codes(_), Family::Few) => &[false, true],
        (Activations::Codes(_), Family::Many) => &[true],
    }
}

/// Forms that may be the best for so many rows a group; the model is asked about no others.
fn near(form: &Form, average: usize) -> bool {
    form.tokens <= 6 * average + 16 && (form.tokens >= 128 || average <= 5 * form.tokens)
}

/// Schedules that may be the best, from what is simplest: those named first are taken where two are the same.
fn schedules(family: Family, batch_invariant: bool) -> &'static [Schedule] {
    match family {
        _ if batch_invariant => &[Schedule::WholeTiles],
        Family::Few => {
            &[Schedule::SplitAll, Schedule::SplitRemainder, Schedule::SplitTwoWaves, Schedule::WholeTiles]
        }
        // Tiles that share weights follow one another: cut all over, each block reads weights of its own.
        Family::Many => &[Schedule::WholeTiles, Schedule::SplitRemainder, Schedule::SplitTwoWaves],
    }
}

fn load(p: &GemmProblem, machine: &Machine) -> Load {
    let (rows, groups) = gemm_cuda::spread(p);
    let shape = &p.weights.shape;
    Load {
        groups,
        average: rows.div_ceil(groups.max(1)),
        varies: matches!(p.groups, Groups::Ends { .. }) && groups > 1,
        rows: shape.rows,
        cols: shape.cols,
        processors: machine.processors,
        codes: matches!(p.a, Activations::Codes(_)).then(|| decoded_rows(p)),
    }
}

/// Tensor copies address rows at multiples of 16 bytes; codes are decoded to such rows first.
fn takes(form: &Form, p: &GemmProblem) -> bool {
    form.family == Family::Few || matches!(p.a, Activations::Codes(_)) || gemm_cuda::a_vectors(p)
}

/// None: this form does not take the problem on this machine.
fn plan_decoded(
    p: &GemmProblem,
    machine: &Machine,
    form: usize,
    schedule: Schedule,
    decoded: bool,
) -> Option<Sm90Plan> {
    let (shape, f) = (&p.weights.shape, &FORMS[form]);
    let tiles = gemm_cuda::most_token_tiles(p, f.tokens) * shape.rows.div_ceil(f.rows());
    let steps = shape.cols.div_ceil(f.step_cols());
    let countable = tiles.checked_mul(steps).is_some_and(|all| all <= u32::MAX as usize);
    let cut = schedule != Schedule::WholeTiles;
    if !machine.hopper
        || f.shared_bytes() > machine.shared_per_block
        || !countable
        || !takes(f, p)
        || cut && p.batch_invariant
    {
        return None;
    }
    // More blocks than a small problem has work for would only ask for more workspace.
    let work = if cut { tiles * steps / LEAST_STEPS } else { tiles };
    let grid = (machine.processors * f.resident).min(work.max(1));
    let run_steps = run_steps(p, f);
    let up = |bytes: usize| bytes.next_multiple_of(128);
    let decoded_at = if has_second_pass(f, p) { up(gemm_cuda::staged_bytes(p)) } else { 0 };
    let flags_at = decoded_at + if decoded { up(decoded_rows(p) * shape.cols * 2) } else { 0 };
    // Sums that are tagged carry the launch's token beside every two floats, those of others a flag a warp.
    let (flags, sums) = match cut {
        false => (0, 0),
        _ if f.is_tagged() => (0, grid * 2 * f.tile_bytes()),
        _ => (up(grid * f.warps * 8), grid * f.tile_bytes()),
    };
    let sums_at = flags_at + flags;
    let workspace_bytes = if p.groups.total_rows() == 0 { 0 } else { sums_at + sums };
    Some(Sm90Plan {
        form,
        schedule,
        grid,
        run_steps,
        decoded,
        decoded_at,
        flags_at,
        sums_at,
        workspace_bytes,
    })
}

/// Steps of a run of `many`: as long as the bound allows, and of one length. Products that must not depend on the batch
/// have the runs of the portable kernel and of `few`, whose bits they then share.
fn run_steps(p: &GemmProblem, form: &Form) -> usize {
    let steps = p.weights.shape.cols.div_ceil(form.step_cols());
    let longest = match p.a {
        _ if p.batch_invariant => return gemm_cuda::RUN_STEPS / form.depth,
        Activations::Values { a, .. } if a.dtype == Dtype::F16 => LONGEST_RUN_F16 / form.depth,
        _ => LONGEST_RUN_BF16 / form.depth,
    };
    steps.div_ceil(steps.div_ceil(longest).max(1)).max(1)
}

/// Rows of activations that lie in memory once: groups may share theirs.
fn decoded_rows(p: &GemmProblem) -> usize {
    match (p.groups, p.a) {
        (Groups::Strided { rows, .. }, Activations::Codes(q)) if q.codes_group_stride == 0 => rows,
        _ => p.groups.total_rows(),
    }
}

/// Whether codes are made by a pass over bfloat16 rows: `few` quantizes what its blocks hold, `many` leaves values alone.
fn has_second_pass(form: &Form, p: &GemmProblem) -> bool {
    match form.family {
        Family::Few => gemm_cuda::needs_second_pass(p),
        Family::Many => matches!(p.out, GemmOut::Codes(_)),
    }
}

/// Microseconds of that pass and of writing its rows: a launch, and two bytes a value each way.
fn second_pass_cost(form: &Form, p: &GemmProblem) -> f32 {
    const LAUNCH: f32 = 2.5;
    const RATE: f32 = 3.5e6;
    if has_second_pass(form, p) { LAUNCH + 2.0 * gemm_cuda::staged_bytes(p) as f32 / RATE } else { 0.0 }
}

/// How a product runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Portable(GemmPlan),
    Hopper(Sm90Plan),
}

impl Plan {
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Plan::Portable(plan) => plan.workspace_bytes,
            Plan::Hopper(plan) => plan.workspace_bytes,
        }
    }

    /// Whether the kernel leaves bfloat16 rows at the workspace's start, of which another pass makes codes.
    pub fn has_second_pass(&self, p: &GemmProblem) -> bool {
        match self {
            Plan::Portable(_) => gemm_cuda::needs_second_pass(p),
            Plan::Hopper(plan) => has_second_pass(&FORMS[plan.form], p),
        }
    }
}

/// The Hopper kernels where they run, else the portable one; unless a choice was measured for such problems and is legal
/// for this one. What must not depend on the batch does not depend on choices, which are made for batches.
pub fn plan_any(p: &GemmProblem, machine: &Machine, tuning: Option<&Tuning>) -> Plan {
    tuning
        .filter(|_| !p.batch_invariant)
        .and_then(|tuning| tuning.choice(&Key::of(p)))
        .and_then(|choice| plan_choice(p, machine, choice))
        .or_else(|| plan(p, machine).map(Plan::Hopper))
        .unwrap_or_else(|| Plan::Portable(gemm_cuda::plan(p, machine)))
}

/// A choice's plan, or none where it is not legal for the problem. A Hopper choice's splits are its schedule plus one.
pub fn plan_choice(p: &GemmProblem, machine: &Machine, choice: &Choice) -> Option<Plan> {
    for (at, form) in FORMS.iter().enumerate() {
        for &decoded in decodings(form.family, p) {
            if choice.kernel == kernel_name(p, form, decoded) {
                let schedule = SCHEDULES.get(choice.splits.checked_sub(1)?)?;
                return plan_decoded(p, machine, at, *schedule, decoded).map(Plan::Hopper);
            }
        }
    }
    gemm_cuda::plan_choice(p, machine, choice).map(Plan::Portable)
}

/// Every choice that is legal for a problem and worth a measurement; what [`plan_any`] takes by itself comes first.
pub fn candidates(p: &GemmProblem, machine: &Machine) -> Vec<Choice> {
    let mut list = Vec::new();
    let choice = |form: usize, schedule: Schedule, decoded: bool| Choice {
        kernel: kernel_name(p, &FORMS[form], decoded),
        splits: schedule as usize + 1,
    };
    if let Some(plan) = plan(p, machine) {
        list.push(choice(plan.form, plan.schedule, plan.decoded));
    }
    for (form, f) in FORMS.iter().enumerate() {
        for (&decoded, schedule) in decodings(f.family, p).iter().flat_map(|d| SCHEDULES.map(|s| (d, s))) {
            let choice = choice(form, schedule, decoded);
            if plan_decoded(p, machine, form, schedule, decoded).is_some() && !list.contains(&choice) {
                list.push(choice);
            }
        }
    }
    list.extend(gemm_cuda::candidates(p, machine));
    list
}

/// The name of a form in choices: its symbol. Decoded codes are bfloat16.
pub fn kernel_name(p: &GemmProblem, form: &Form, decoded: bool) -> String {
    let operand = if decoded { Operand::Bf16 } else { Operand::of(p) }.name();
    match form.family {
        Family::Few => format!("nvfp4_gemm_few_{operand}_{}x{}", form.tokens, form.units),
        Family::Many => format!("nvfp4_gemm_many_{operand}_{}", form.size()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::ScaleRule;
    use crate::format::layout::ScaleLayout;
    use crate::plan::gemm::Activation;
    use crate::plan::gemm_cuda::tests::{SHAPES, ends};
    use crate::plan::groups::Groups;
    use crate::plan::memory::{Matrix, Ptr};
    use crate::plan::quantize::{DecodeScales, QuantOut, Scales, Scope};
    use crate::plan::weights::{Weights, WeightsShape};

    const H200: Machine = Machine { processors: 132, shared_per_block: 232_448, hopper: true };

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

    /// Codes are decoded in the kernel where it can.
    fn plan_form(p: &GemmProblem, machine: &Machine, form: usize, schedule: Schedule) -> Option<Sm90Plan> {
        plan_decoded(p, machine, form, schedule, decodings(FORMS[form].family, p)[0])
    }

    #[test]
    fn every_listed_shape_has_a_plan_that_holds() {
        for (e, k, n) in SHAPES {
            for tokens in
                (0..10).map(|power| 1 << power).chain([3, 6, 12, 20, 24, 48, 96, 160, 192, 384, 1024])
            {
                for batch_invariant in [false, true] {
                    let p = GemmProblem { batch_invariant, ..problem(ends(e, tokens * e), n, k, k) };
                    let plan = plan(&p, &H200).expect("Hopper takes it");
                    let form = &FORMS[plan.form];
                    let told = format!("{e} {k} {n} {tokens}: {plan:?}");
                    // No group is multiplied in many small tiles, unless few tiles that nobody may cut leave the chip
                    // idle, and none in one that is mostly empty.
                    assert!(batch_invariant || form.tokens >= 128 || tokens <= 3 * form.tokens, "{told}");
                    assert!(batch_invariant || form.tokens <= 8 || form.tokens <= 3 * tokens, "{told}");
                    assert!(plan.workspace_bytes < 64 << 20, "{told}");
                    assert!(plan.flags_at <= plan.sums_at && plan.sums_at <= plan.workspace_bytes, "{told}");
                    assert!(plan.run_steps > 0 && plan.run_steps * form.depth <= LONGEST_RUN_BF16, "{told}");
                    // What is chosen is a plan of its own form: legal, and the same by its name.
                    assert_eq!(plan_form(&p, &H200, plan.form, plan.schedule), Some(plan));
                }
            }
        }
    }

    #[test]
    fn forms_fit_the_machine_and_are_those_of_the_kernels() {
        let few = include_str!("../../kernels/gemm_sm90_few.cu");
        let many = include_str!("../../kernels/gemm_sm90_many.cu");
        let idle = format!("IDLE = {};", FORMS[0].idle());
        assert!(include_str!("../../kernels/sm90_few.cuh").contains(&idle), "{idle}");
        for form in FORMS {
            assert!(form.shared_bytes() <= H200.shared_per_block, "{form:?}");
            // A processor has 228 KiB for its blocks, each of which takes one more.
            assert!(form.resident * (form.shared_bytes() + 1024) <= 228 << 10, "{form:?}");
            let (text, entry) = match form.family {
                Family::Few => (
                    few,
                    format!(
                        "(NAME, OPERAND, {}, {}, {}, {})",
                        form.tokens, form.units, form.stages, form.resident
                    ),
                ),
                Family::Many => (
                    many,
                    format!(
                        "(NAME, {}, F16, {}, {}, {}, {}, {})",
                        form.size(),
                        form.units,
                        form.warps / 4,
                        form.tokens,
                        form.depth,
                        form.stages
                    ),
                ),
            };
            assert!(text.contains(&entry), "the kernels list {entry}");
        }
    }

    #[test]
    fn codes_of_many_tokens_are_made_of_rows_in_the_workspace() {
        let codes = |decode, rule| {
            let scales = Scales { base: Ptr::NULL, layout: ScaleLayout::Linear, row_stride: 128 };
            GemmOut::Codes(QuantOut {
                codes: Ptr::NULL,
                codes_row_stride: 1024,
                scales,
                rule,
                scope: Scope::Row,
                decode,
            })
        };
        let given = codes(DecodeScales::Static(Ptr::NULL), ScaleRule::Amax);
        let searched = codes(DecodeScales::Static(Ptr::NULL), ScaleRule::MinMse);
        let dynamic = codes(DecodeScales::Dynamic(Ptr::NULL), ScaleRule::Amax);
        for (rows, out, staged) in [
            (4, given, false),
            (4, searched, true),
            (4, dynamic, true),
            (4096, given, true),
            (4096, searched, true),
            (4096, dynamic, true),
        ] {
            let values = problem(Groups::None { rows }, 2048, 2048, 2048);
            let p = GemmProblem { out, ..values };
            let plan = plan(&p, &H200).expect("Hopper takes it");
            assert_eq!(Plan::Hopper(plan).has_second_pass(&p), staged, "{rows} rows");
            assert_eq!(plan.decoded_at, if staged { rows * 2048 * 2 } else { 0 });
            assert!(!Plan::Hopper(plan).has_second_pass(&values));
        }
    }

    #[test]
    fn other_machines_and_rows_that_copies_cannot_address_stay_portable() {
        let wide = problem(Groups::None { rows: 4096 }, 4096, 4096, 4096);
        assert!(plan(&wide, &H200).is_some());
        assert_eq!(plan(&wide, &Machine { hopper: false, ..H200 }), None);
        assert_eq!(plan(&problem(Groups::None { rows: 4096 }, 4096, 4096, 4097), &H200), None);
        // A few tokens of them are no tensor copies' business.
        let few = problem(ends(4, 4 * 40), 4096, 4096, 4097);
        assert_eq!(plan(&few, &H200).map(|plan| FORMS[plan.form].tokens), Some(16));
    }

    /// Tokens and units of the form.
    fn chosen(groups: Groups, n: usize, k: usize) -> (usize, usize) {
        let form = &FORMS[plan(&problem(groups, n, k, k), &H200).expect("Hopper takes it").form];
        (form.tokens, form.units)
    }

    #[test]
    fn few_rows_a_group_take_the_tile_that_holds_them() {
        // Short streams: two narrow blocks a processor overlap their starts and ends.
        assert_eq!(chosen(ends(48, 6), 6144, 7168), (8, 2));
        assert_eq!(chosen(Groups::None { rows: 1 }, 8192, 8192), (8, 2));
        assert_eq!(chosen(Groups::Strided { count: 8, rows: 4 }, 1024, 4096), (8, 2));
        for (e, k, n) in SHAPES {
            for tokens in [1, 2, 4] {
                assert_eq!(chosen(ends(e, tokens * e), n, k).0, 8, "{e} {k} {n}");
            }
        }
        // Eight rows of every group fit a tile of eight. Few tiles of 16 × 512 leave the chip idle: 30 µs, where others take
        // 15 to 23.
        for rows in [8, 16] {
            for (groups, n, k) in
                [(Groups::Strided { count: 8, rows }, 1024, 4096), (Groups::None { rows }, 8192, 8192)]
            {
                let tokens = chosen(groups, n, k).0;
                assert!(
                    if rows == 8 { tokens == 8 } else { tokens != 16 },
                    "{rows} rows of {n} x {k}: {tokens}"
                );
            }
        }
    }

    #[test]
    fn many_rows_a_group_take_wide_tiles() {
        // At 256 the forms of 128 and 256 are within 3 %.
        for (tokens, expected) in [(32, 32), (64, 64), (128, 128), (512, 256), (1024, 256)] {
            assert_eq!(chosen(ends(48, 48 * tokens), 6144, 7168).0, expected, "{tokens} a group");
        }
        // Narrow tiles are for products that have too few others.
        for tokens in [96, 128, 192, 256, 512] {
            let plan =
                plan(&problem(ends(48, 48 * tokens), 6144, 7168, 7168), &H200).expect("Hopper takes it");
            assert!(!FORMS[plan.form].is_narrow(), "{tokens} a group");
        }
    }

    #[test]
    fn few_tiles_are_cut_and_many_are_not_all() {
        let schedule = |groups, n, k| plan(&problem(groups, n, k, k), &H200).map(|plan| plan.schedule);
        // 32 tiles on 132 processors.
        assert_eq!(
            schedule(Groups::Strided { count: 8, rows: 128 }, 1024, 4096),
            Some(Schedule::SplitRemainder)
        );
        // 144 tiles for 264 blocks, of which some processors have two and others none: cut 45 µs, whole 65.
        assert_eq!(schedule(ends(48, 6), 6144, 7168), Some(Schedule::SplitAll));
        // 16 waves of tiles of 256 rows × 128.
        assert_eq!(schedule(Groups::None { rows: 33 * 256 }, 8192, 8192), Some(Schedule::WholeTiles));
        let wide = schedule(ends(48, 48 * 512), 6144, 7168);
        assert!(wide.is_some_and(|wide| wide != Schedule::SplitAll));
    }

    #[test]
    fn small_problems_take_few_blocks_and_little_memory() {
        // One tile of two steps: a block has all of it, cut or not.
        let tiny = plan_form(&problem(Groups::None { rows: 1 }, 256, 256, 256), &H200, 0, Schedule::SplitAll)
            .expect("Hopper takes it");
        assert_eq!((tiny.grid, tiny.workspace_bytes), (1, 2 * 8 * 256 * 4));
        let rows = plan(&problem(ends(4, 4 * 40), 512, 512, 512), &H200).expect("Hopper takes it");
        assert!(rows.grid <= 4 * 5 * 2 * 8 / LEAST_STEPS && rows.workspace_bytes < 4 << 20, "{rows:?}");
    }

    #[test]
    fn batch_invariance_cuts_no_tile_and_shares_its_runs() {
        // What a row's bits depend on is the same for every batch, whichever form its size suggests.
        for rows in (1..200).chain([500, 5000]) {
            for groups in [ends(8, rows), Groups::None { rows }, Groups::Strided { count: 8, rows }] {
                let p = GemmProblem { batch_invariant: true, ..problem(groups, 1536, 8192, 8192) };
                let plan = plan(&p, &H200).expect("Hopper takes it");
                assert_eq!(plan.schedule, Schedule::WholeTiles);
                assert_eq!(plan.run_steps * FORMS[plan.form].depth, gemm_cuda::RUN_STEPS);
                assert_eq!(plan_form(&p, &H200, plan.form, Schedule::SplitAll), None);
            }
        }
    }

    #[test]
    fn choices_name_every_form_and_come_back_as_plans() {
        let p = problem(ends(48, 48 * 64), 6144, 7168, 7168);
        let all = candidates(&p, &H200);
        assert_eq!(plan_choice(&p, &H200, &all[0]), Some(plan_any(&p, &H200, None)));
        for form in &FORMS {
            assert!(all.iter().any(|choice| choice.kernel == kernel_name(&p, form, false)));
        }
        assert!(all.iter().all(|choice| plan_choice(&p, &H200, choice).is_some()));
        assert_eq!(plan_choice(&p, &H200, &Choice { splits: 5, ..all[0].clone() }), None);
    }
}

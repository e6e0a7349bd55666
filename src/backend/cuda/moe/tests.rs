//! The planners of a mixture of experts' launches.

use super::steps::PERMUTE_WARPS;
use super::*;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::route::Score;
use crate::plan::memory::Ptr;
use crate::plan::moe::{Gather, Router};
use crate::plan::quantize::{DecodeScales, DecodedOut, QuantOut, Scope};

const FACTS: DeviceFacts = DeviceFacts::H200;

fn matrix(dtype: Dtype, row_stride: usize) -> Matrix {
    Matrix { base: Ptr::new(4096 as *const u8), dtype, row_stride, group_stride: 0 }
}

fn sort(tokens: usize, topk: usize, local_experts: usize) -> PermuteProblem {
    PermuteProblem {
        tokens,
        topk,
        experts: 1024,
        first_expert: 0,
        local_experts,
        ids: Ptr::new(16 as *const i32),
        ends: Ptr::new(32 as *const i32),
        source_rows: Ptr::new(48 as *const i32),
        inverse: Ptr::new(64 as *const i32),
    }
}

#[test]
fn sorts_of_any_length_cover_their_slots_and_have_room_for_their_counts() {
    for slots in [0, 1, 255, 4096, 4097, 4352, 10_000, 524_288, 524_289, 1 << 24, i32::MAX as usize] {
        let launches: Vec<_> = plan_permute(&sort(slots, 1, 1024), &FACTS).into_iter().flatten().collect();
        let names: Vec<&str> = launches.iter().map(|l| l.kernel.name).collect();
        match slots {
            0..=4096 => assert_eq!(names, ["nvfp4_moe_place"]),
            _ => assert_eq!(names, ["nvfp4_moe_count", "nvfp4_moe_place", "nvfp4_moe_sources"]),
        }
        let p = &launches[0].params;
        let (chunk, chunks) = (p.chunk as usize, p.chunks as usize);
        assert!(chunk * chunks >= slots && chunk * (chunks - 1) < slots.max(1), "{slots} slots");
        assert!(chunk.is_multiple_of(32 * PERMUTE_WARPS) && chunks <= 256);
        assert!(p.is_short == 1 || chunks * 1025 <= slots, "{slots} slots");
        assert!(launches.iter().take(2).all(|l| l.grid == (p.chunks, 1)));
    }
    assert!(plan_permute(&sort(0, 1, 0), &FACTS).iter().all(Option::is_none), "nothing is written");
    assert!(plan_permute(&sort(3, 1, 0), &FACTS)[0].is_some(), "the inverse is");
}

fn quantizes_to(layout: ScaleLayout, cols: usize) -> QuantOut {
    QuantOut {
        codes: Ptr::new(8192 as *const u8),
        codes_row_stride: cols / 2,
        scales: Scales { base: Ptr::new(1024 as *const u8), layout, row_stride: 0 },
        rule: ScaleRule::Amax,
        scope: Scope::Row,
        decode: DecodeScales::Dynamic(Ptr::new(256 as *const f32)),
    }
}

fn quantizes_many(
    tokens: usize,
    edit: impl FnOnce(&mut Matrix, &mut QuantOut, &mut usize),
) -> (Launch<GatherRowsParams>, Option<Launch<GatherRowsParams>>) {
    let mut cols = 4096;
    let mut src = matrix(Dtype::Bf16, cols);
    let mut out = quantizes_to(ScaleLayout::Tiled128x4, cols);
    edit(&mut src, &mut out, &mut cols);
    let p = GatherProblem { permute: sort(tokens, 2, 8), cols, what: Gather::Quantize { src, out } };
    match plan_gather(&p, &FACTS) {
        Some(GatherLaunch::Quantize(launch, turn)) => (launch, turn),
        _ => panic!("another gather"),
    }
}

fn quantizes(edit: impl FnOnce(&mut Matrix, &mut QuantOut, &mut usize)) -> Launch<GatherRowsParams> {
    let (launch, turn) = quantizes_many(100, edit);
    assert!(turn.is_none(), "few rows are one launch");
    launch
}

#[test]
fn gathers_that_quantize_take_the_short_way_where_they_can() {
    let plain = quantizes(|_, _, _| ());
    assert_eq!((plain.kernel.name, plain.threads), ("nvfp4_moe_scatter_bf16", 256));
    assert_eq!(plain.params.rows.mode, mode::ROW);
    assert_eq!((plain.params.decoded, plain.grid), (0, (100, 1)));
    assert_eq!(quantizes(|_, _, cols| *cols = 16).threads, 32);
    assert_eq!(quantizes(|src, _, _| src.dtype = Dtype::F16).kernel.name, "nvfp4_moe_scatter_f16");
    let given = quantizes(|_, out, _| out.decode = DecodeScales::Static(Ptr::NULL));
    assert_eq!(given.params.rows.mode, mode::STATIC);
    let any = |edit: fn(&mut Matrix, &mut QuantOut)| {
        assert_eq!(quantizes(|src, out, _| edit(src, out)).kernel.name, "nvfp4_moe_scatter_any");
    };
    any(|src, _| src.dtype = Dtype::F32);
    any(|src, _| src.row_stride += 1);
    any(|src, _| src.base = Ptr::new(4104 as *const u8));
    any(|_, out| out.codes_row_stride += 1);
    any(|_, out| out.rule = ScaleRule::MinMse);
}

#[test]
fn tiles_of_many_tokens_are_made_behind_them() {
    let kernels = |edit: fn(&mut Matrix, &mut QuantOut, &mut usize)| {
        let (launch, turn) = quantizes_many(3000, edit);
        (launch.kernel.name, turn.map(|turn| (turn.kernel.name, turn.threads, turn.grid.0)))
    };
    const CTA_EACH: &str = "nvfp4_moe_scatter_bf16";
    // 6000 rows of 8 experts are at most 55 tiles of 128 rows, or 757 of 8.
    let turn = ("nvfp4_moe_turn_128x4", 512, 55);
    assert_eq!(kernels(|_, _, _| ()), ("nvfp4_moe_tokens_bf16", Some(turn)));
    assert_eq!(kernels(|src, _, _| src.dtype = Dtype::F16), ("nvfp4_moe_tokens_f16", Some(turn)));
    assert_eq!(quantizes_many(3000, |_, _, _| ()).0.grid, (1320, 1));
    assert_eq!(quantizes_many(1056, |_, _, _| ()).0.kernel.name, CTA_EACH);
    let low = ("nvfp4_moe_turn_8x4", 32, 757);
    assert_eq!(kernels(|_, out, _| out.scales.layout = ScaleLayout::Tiled8x4).1, Some(low));
    let linear = |out: &mut QuantOut| (out.scales.layout, out.scales.row_stride) = (ScaleLayout::Linear, 256);
    let plain = quantizes_many(3000, |_, out, _| linear(out)).0;
    assert_eq!((plain.kernel.name, plain.threads, plain.grid), ("nvfp4_moe_tokens_bf16", 128, (3000, 1)));
    let given = |scope| {
        let given = DecodeScales::Static(Ptr::NULL);
        quantizes_many(3000, |_, out, _| (out.scope, out.decode) = (scope, given)).0.kernel.name
    };
    assert_eq!(given(Scope::Tensor), "nvfp4_moe_tokens_bf16");
    assert_eq!(given(Scope::Group), "nvfp4_moe_tokens_bf16_each");
    assert_eq!(given(Scope::Row), CTA_EACH);
    // Rows of codes or scales that are no whole words, or tiles that do not fit into a CTA.
    assert_eq!(kernels(|_, out, _| out.codes_row_stride += 8), (CTA_EACH, None));
    assert_eq!(kernels(|_, out, _| out.scales.base = Ptr::new(1028 as *const u8)), (CTA_EACH, None));
    assert_eq!(kernels(|_, _, cols| *cols += 64), (CTA_EACH, None));
    assert_eq!(kernels(|_, _, cols| *cols *= 2).1, Some((turn.0, 1024, 55)));
    assert_eq!(kernels(|_, _, cols| *cols = 2 * 4096 + 1024), (CTA_EACH, None));
    let each = |cols| {
        let given = DecodeScales::Static(Ptr::NULL);
        let edit = |_: &mut Matrix, out: &mut QuantOut, c: &mut usize| {
            (out.scope, out.decode, out.codes_row_stride, *c) = (Scope::Group, given, cols / 2, cols);
        };
        let (launch, turn) = quantizes_many(3000, edit);
        (launch.kernel.name, launch.threads, launch.grid.0, turn.map(|turn| turn.threads))
    };
    assert_eq!(each(4096), ("nvfp4_moe_tokens_bf16_each", 512, 188, Some(512)));
    assert_eq!(each(16384), ("nvfp4_moe_tokens_bf16_each", 512, 188, Some(1024)));
    assert_eq!((each(17408).0, each(17408).3), (CTA_EACH, None));
}

#[test]
fn rows_that_are_rounded_stay_where_they_are() {
    let round = |rows, cols| {
        let (src, decode) = (matrix(Dtype::Bf16, cols), DecodeScales::Dynamic(Ptr::new(256 as *const f32)));
        let out = DecodedOut { rows: src, rule: ScaleRule::Amax, scope: Scope::Row, decode };
        plan_round(&RoundProblem { rows, cols, src, out }, &FACTS)
    };
    let plain = round(sort(100, 2, 8), 2048).expect("there are rows");
    let p = &plain.params;
    assert_eq!((plain.kernel.name, plain.threads, plain.grid), ("nvfp4_moe_scatter_bf16", 128, (200, 1)));
    assert_eq!((p.inverse, p.tokens, p.topk, p.decoded), (0, 200, 1, 1));
    assert_eq!((p.rows.codes_row_stride, p.rows.groups.count), (4096, 8));
    let here = PermuteProblem { experts: 8, ..sort(1000, 2, 8) };
    let many = round(here, 2048).expect("there are rows");
    assert_eq!((many.kernel.name, many.threads, many.grid), ("nvfp4_moe_round_bf16", 256, (250, 1)));
    // Rows that are too long, and an eighth of the experts, which have 250 rows.
    for (rows, cols) in [(here, 2064), (PermuteProblem { experts: 64, ..here }, 2048)] {
        assert_eq!(round(rows, cols).unwrap().kernel.name, "nvfp4_moe_scatter_bf16");
    }
    assert!(round(sort(0, 2, 8), 2048).is_none() && round(sort(100, 2, 0), 2048).is_none());
}

#[test]
fn few_slots_are_sorted_and_gathered_by_one_launch() {
    let router = Router {
        score: Score::Softmax,
        bias: Ptr::NULL,
        renormalise: true,
        scaling: 1.0,
        groups: 1,
        top_groups: 1,
    };
    let launches = |tokens, experts, values: bool| {
        let permute = sort(tokens, 8, 32);
        let (ids, weights) = (permute.ids, Ptr::NULL);
        let logits = matrix(Dtype::Bf16, experts);
        let (mask, topk) = (Ptr::NULL, 8);
        let route = RouteProblem { tokens, experts, topk, logits, router, mask, ids, weights };
        let (src, dst) = (matrix(Dtype::Bf16, 4096), matrix(Dtype::Bf16, 4096));
        let what = match values {
            true => Gather::Values { src, dst },
            false => Gather::Quantize { src, out: quantizes_to(ScaleLayout::Tiled8x4, 4096) },
        };
        let gather = GatherProblem { permute, cols: 4096, what };
        let p = DispatchProblem { route: Some(route), gather, dependent_launch: false };
        plan_dispatch(&p, &FACTS).map(|plan| match plan.gather {
            DispatchLaunch::Values(l) => (plan.route.map(|l| l.kernel.name), l.params.routed, l.grid),
            _ => panic!("another gather"),
        })
    };
    assert_eq!(launches(1, 256, true), Some((None, 1, (1, 3))));
    assert_eq!(launches(1, 257, true), Some((Some("nvfp4_moe_route_few"), 0, (1, 3))));
    assert_eq!(launches(32, 128, true), Some((Some("nvfp4_moe_route_few"), 0, (32, 3))));
    assert_eq!(launches(33, 128, true), None);
    assert_eq!(launches(1, 128, false), None, "tiles have padding");
}

fn combines(edit: impl FnOnce(&mut CombineProblem)) -> Launch<CombineParams> {
    let mut p = CombineProblem {
        tokens: 5,
        topk: 6,
        cols: 4096,
        rows: 30,
        y: matrix(Dtype::Bf16, 4096),
        inverse: Ptr::new(16 as *const i32),
        weights: Ptr::new(32 as *const f32),
        scaling: 1.0,
        shared: Some(matrix(Dtype::F32, 4096)),
        out: matrix(Dtype::F16, 4096),
        in_layer: false,
    };
    edit(&mut p);
    plan_combine(&p, &FACTS).expect("there are tokens")
}

#[test]
fn combines_see_every_alignment() {
    let plain = combines(|_| ());
    assert_eq!((plain.kernel.name, plain.grid, plain.threads), ("nvfp4_moe_combine_bf16", (5, 4), 128));
    assert_eq!(combines(|p| p.y.dtype = Dtype::F16).kernel.name, "nvfp4_moe_combine_f16");
    assert_eq!(combines(|p| p.cols = 64).threads, 32);
    // Without rows there is no y to be aligned.
    let absent = |p: &mut CombineProblem| (p.rows, p.y.base) = (0, Ptr::new(2 as *const u8));
    assert_eq!(combines(absent).kernel.name, "nvfp4_moe_combine_bf16");
    let any = |edit: fn(&mut CombineProblem)| assert_eq!(combines(edit).kernel.name, "nvfp4_moe_combine_any");
    any(|p| p.cols = 4097);
    any(|p| p.y.dtype = Dtype::F32);
    any(|p| p.y.row_stride = 4100);
    any(|p| p.out.row_stride = 4097);
    any(|p| p.shared.as_mut().unwrap().base = Ptr::new(4100 as *const u8));
}

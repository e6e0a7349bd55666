//! Parts of a mixture of experts as engines call them, dense and aligned, each kernel among them: routers of few and of many
//! tokens, of up to 256 and of more experts, sorts of few slots and of more than a chunk, every way of gathering, every
//! dtype of a combine.

use std::ptr::null_mut;

use nvfp4::api::moe::combine::*;
use nvfp4::api::moe::permute::*;
use nvfp4::api::moe::route::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::regular::input;
use crate::{Call, call};

const DTYPES: [nvfp4_dtype; 3] = [NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16, NVFP4_DTYPE_F32];
const ROUTES: usize = 12;
/// Nothing, values, codes, and quantized from each dtype; each for some tokens, for more than a chunk of the sort, and for
/// so few that one launch sorts and gathers.
const PERMUTES: usize = 18;
/// More tokens than have a CTA each, with scales that rows share and with those of experts.
const MANY: usize = 6;
const COMBINES: usize = 6;
/// How many calls [`call`] knows.
pub const CALLS: usize = ROUTES + PERMUTES + MANY + COMBINES;

pub fn call(index: usize, arena: &mut Arena) -> (&'static str, Call) {
    let rng = &mut Rng::new(index as u64 + 1);
    match index {
        0..ROUTES => ("moe_route", route(index, rng, arena)),
        _ if index < ROUTES + PERMUTES => ("moe_permute", permute(index - ROUTES, rng, arena)),
        _ if index < ROUTES + PERMUTES + MANY => ("moe_permute", many(index - ROUTES - PERMUTES, rng, arena)),
        _ => ("moe_combine", combine(index - ROUTES - PERMUTES - MANY, rng, arena)),
    }
}

fn route(index: usize, rng: &mut Rng, arena: &mut Arena) -> Call {
    let (topk, dtype) = (8, DTYPES[index % 3]);
    let (tokens, experts, groups, top_groups) =
        [(130, 256, 8, 4), (1030, 128, 1, 1), (1030, 384, 1, 1), (130, 1024, 16, 3)][index / 3];
    let mut bias = || input(rng, arena, NVFP4_DTYPE_F32, experts);
    let bias = if groups > 1 { bias() } else { null_mut() };
    let router = nvfp4_moe_router {
        score: (index % 3) as u32,
        renormalise: (index % 2) as u32,
        groups,
        top_groups,
        bias,
        scaling: 2.5,
        ..Default::default()
    };
    call!(
        nvfp4_moe_route,
        nvfp4_moe_route_args {
            struct_size: size_of::<nvfp4_moe_route_args>(),
            logits: input(rng, arena, dtype, tokens * experts),
            logits_dtype: dtype,
            topk,
            tokens: tokens as i64,
            experts: experts as i64,
            router,
            topk_ids: arena.dense_output(tokens * topk as usize * 4),
            topk_weights: arena.dense_output(tokens * topk as usize * 4),
            ..Default::default()
        }
    )
}

/// The sort of a permute to local experts.
fn sorts(tokens: usize, topk: usize, local: u64, rng: &mut Rng, arena: &mut Arena) -> nvfp4_moe_permute_args {
    let (slots, experts, first) = (tokens * topk, 256, 32);
    let ids: Vec<u8> = (0..slots).flat_map(|_| (rng.below(experts) as i32).to_le_bytes()).collect();
    nvfp4_moe_permute_args {
        struct_size: size_of::<nvfp4_moe_permute_args>(),
        tokens: tokens as i64,
        experts: experts as i64,
        first_expert: first,
        local_experts: local as i64,
        topk: topk as u32,
        topk_ids: arena.dense(&ids),
        ends: arena.dense_output(local as usize * 4),
        source_rows: arena.dense_output(slots * 4),
        inverse: arena.dense_output(slots * 4),
        ..Default::default()
    }
}

fn many(index: usize, rng: &mut Rng, arena: &mut Arena) -> Call {
    const TOKENS: usize = 1100;
    let (topk, local, cols) = (2, 128, 256 * (1 + 3 * (index % 2)));
    let mut args = sorts(TOKENS, topk, local, rng, arena);
    (args.cols, args.src_dtype) = (cols as i64, DTYPES[index % 2]);
    args.src = input(rng, arena, args.src_dtype, TOKENS * cols);
    let groups = nvfp4_groups {
        grouping: NVFP4_GROUPING_ENDS,
        count: local as u32,
        ends: args.ends,
        ..Default::default()
    };
    let layout = [NVFP4_SCALE_LAYOUT_LINEAR, NVFP4_SCALE_LAYOUT_TILED_128X4, NVFP4_SCALE_LAYOUT_TILED_8X4]
        [(index + index / 3) % 3];
    let slots = TOKENS * topk;
    args.out = nvfp4_quantized {
        codes: arena.dense_output(slots * cols / 2),
        scales: arena.dense_output(scale_bytes(layout, slots, cols, 0, &groups)),
        scale_layout: layout,
        ..Default::default()
    };
    if index < 2 {
        args.out.scope = NVFP4_SCOPE_ROW;
        args.out.decode_scales = arena.dense_output(slots * 4);
    } else {
        let given = (0..local).map(|e| 0.002 * (1.0 + e as f32 / 37.0));
        let given: Vec<u8> = given.flat_map(f32::to_le_bytes).collect();
        args.out.scope = if index == 2 { NVFP4_SCOPE_TENSOR } else { NVFP4_SCOPE_GROUP };
        args.out.static_decode_scales = arena.dense::<f32>(&given);
    }
    call!(nvfp4_moe_permute, args)
}

fn permute(index: usize, rng: &mut Rng, arena: &mut Arena) -> Call {
    let (kind, size, topk, cols) = (index % 6, index / 6, 6, 64);
    let tokens = [150, 701, 40][size];
    let (slots, local) = (tokens * topk, 64);
    let mut args = sorts(tokens, topk, local, rng, arena);
    if kind == 0 {
        return call!(nvfp4_moe_permute, args);
    }
    args.cols = cols as i64;
    let groups = nvfp4_groups {
        grouping: NVFP4_GROUPING_ENDS,
        count: local as u32,
        ends: args.ends,
        ..Default::default()
    };
    // Each kind with linear scales and with tiled ones; what one launch does is linear.
    let layout = match (size, kind % 3) {
        (0, 1) | (1, 0 | 2) | (2, _) => NVFP4_SCALE_LAYOUT_LINEAR,
        (_, 2) => NVFP4_SCALE_LAYOUT_TILED_8X4,
        _ => NVFP4_SCALE_LAYOUT_TILED_128X4,
    };
    let mut out = || nvfp4_quantized {
        codes: arena.dense_output(slots * cols / 2),
        scales: arena.dense_output(scale_bytes(layout, slots, cols, 0, &groups)),
        scale_layout: layout,
        scope: NVFP4_SCOPE_ROW,
        decode_scales: arena.dense_output(slots * 4),
        ..Default::default()
    };
    if kind == 2 {
        args.src_dtype = NVFP4_DTYPE_NVFP4;
        args.out = out();
        let mut bytes = |count: usize| -> *mut u8 {
            arena.dense(&(0..count).map(|_| rng.next() as u8 & 0x7D).collect::<Vec<_>>())
        };
        let (codes, scales) = (bytes(tokens * cols / 2), bytes(tokens * cols / 16));
        args.src_quantized = nvfp4_quantized_input {
            codes,
            scales,
            scope: NVFP4_SCOPE_ROW,
            decode_scales: input(rng, arena, NVFP4_DTYPE_F32, tokens),
            ..Default::default()
        };
        return call!(nvfp4_moe_permute, args);
    }
    if kind == 1 {
        args.gathered = arena.dense_output(slots * cols * 2);
    } else {
        args.out = out();
        args.src_dtype = DTYPES[kind - 3];
    }
    args.src = input(rng, arena, args.src_dtype, tokens * cols);
    call!(nvfp4_moe_permute, args)
}

fn combine(index: usize, rng: &mut Rng, arena: &mut Arena) -> Call {
    let (tokens, topk, cols, y_dtype) = (130, 6, 1040, DTYPES[index % 3]);
    let slots = tokens * topk;
    let inverse: Vec<u8> =
        (0..slots).flat_map(|_| (rng.below(slots as u64 + 1) as i32 - 1).to_le_bytes()).collect();
    let mut args = nvfp4_moe_combine_args {
        struct_size: size_of::<nvfp4_moe_combine_args>(),
        tokens: tokens as i64,
        cols: cols as i64,
        topk: topk as u32,
        y_dtype,
        rows: slots as i64,
        y: input(rng, arena, y_dtype, slots * cols),
        inverse: arena.dense(&inverse),
        topk_weights: input(rng, arena, NVFP4_DTYPE_F32, slots),
        out: arena.dense_output(tokens * cols * size(y_dtype)),
        out_dtype: y_dtype,
        ..Default::default()
    };
    if index >= 3 {
        args.scaling = 0.37;
        args.shared_dtype = DTYPES[(index + 1) % 3];
        args.shared = input(rng, arena, args.shared_dtype, tokens * cols);
    }
    call!(nvfp4_moe_combine, args)
}

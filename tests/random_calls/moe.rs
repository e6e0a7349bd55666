//! Random parts of a mixture of experts, and linear layers.

use std::ptr::null;

use nvfp4::api::linear::*;
use nvfp4::api::moe::combine::*;
use nvfp4::api::moe::permute::*;
use nvfp4::api::moe::route::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::rows::quantized_input;
use crate::{Call, Prepared, call};

pub fn route(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (groups, size) = (rng.pick(&[1usize, 1, 2, 4, 8]), rng.pick(&[1usize, 2, 3, 16, 33, 128]));
    let experts = groups * size;
    let top_groups = 1 + rng.below(groups as u64) as usize;
    let topk = 1 + rng.below((top_groups * size).min(32) as u64) as usize;
    let (tokens, dtype) = (row_count(rng), float(rng));
    let (row_stride, pitch) = stride(rng, experts);
    let bias: Vec<f32> = (0..experts).map(|_| rng.below(7) as f32 - 3.0).collect();
    let mask: Vec<u8> = (0..tokens).map(|_| rng.below(4) as u8).collect();
    let router = nvfp4_moe_router {
        score: rng.below(3) as u32,
        renormalise: rng.below(2) as u32,
        groups: groups as u32,
        top_groups: top_groups as u32,
        bias: if rng.chance(2) { arena.f32s(rng, &bias) } else { null() },
        scaling: rng.pick(&[0.0, 1.0, 2.5]),
        ..Default::default()
    };
    Some(call!(
        nvfp4_moe_route,
        nvfp4_moe_route_args {
            struct_size: size_of::<nvfp4_moe_route_args>(),
            logits: arena.values(rng, dtype, extent(tokens, pitch, experts)).cast(),
            logits_dtype: dtype,
            topk: topk as u32,
            logits_row_stride: row_stride,
            tokens: tokens as i64,
            experts: experts as i64,
            router,
            token_mask: if rng.chance(2) { arena.input(rng, &mask, 1) } else { null() },
            topk_ids: arena.output(rng, tokens * topk * 4, 4),
            topk_weights: arena.output(rng, tokens * topk * 4, 4),
        }
    ))
}

pub fn permute(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let experts = rng.pick(&[0usize, 1, 2, 5, 40]);
    let first = rng.below(experts as u64 + 1) as usize;
    let local = experts - first - rng.below((experts - first).max(1) as u64) as usize;
    let (tokens, topk) = (row_count(rng), rng.pick(&[1usize, 2, 5]));
    let slots = tokens * topk;
    let wild = rng.chance(4);
    let ids: Vec<i32> = (0..slots)
        .map(|_| if wild { rng.below(60) as i32 - 9 } else { rng.below(experts as u64 + 1) as i32 - 1 })
        .collect();
    let mut args = nvfp4_moe_permute_args {
        struct_size: size_of::<nvfp4_moe_permute_args>(),
        tokens: tokens as i64,
        experts: experts as i64,
        first_expert: first as i64,
        local_experts: local as i64,
        topk: topk as u32,
        topk_ids: arena.i32s(rng, &ids),
        ends: arena.output(rng, local * 4, 4),
        source_rows: arena.output(rng, slots * 4, 4),
        inverse: arena.output(rng, slots * 4, 4),
        ..Default::default()
    };
    let kind = rng.below(4);
    if kind > 0 {
        let cols = 16 * blocks(rng);
        args.cols = cols as i64;
        let groups = nvfp4_groups {
            grouping: NVFP4_GROUPING_ENDS,
            count: local as u32,
            ends: args.ends,
            ..Default::default()
        };
        if kind == 3 {
            let none = nvfp4_groups::default();
            args.src_dtype = NVFP4_DTYPE_NVFP4;
            args.src_quantized = quantized_input(rng, arena, &none, (tokens, &none), cols, |pitch| {
                extent(tokens, pitch, cols / 2)
            });
            args.out = quantized(rng, arena, &groups, slots, cols, true);
            args.out.scale_rule = 0;
            args.out.scope = NVFP4_SCOPE_ROW;
            args.out.static_decode_scales = null();
            args.out.decode_scales = arena.output(rng, slots * 4, 4);
        } else {
            let (row_stride, pitch) = stride(rng, cols);
            args.src_dtype = float(rng);
            args.src = arena.values(rng, args.src_dtype, extent(tokens, pitch, cols)).cast();
            args.src_row_stride = row_stride;
            if kind == 2 {
                args.out = quantized(rng, arena, &groups, slots, cols, true);
            } else {
                let (row_stride, pitch) = stride(rng, cols);
                let bytes = extent(slots, pitch, cols) * size(args.src_dtype);
                args.gathered = arena.output::<u8>(rng, bytes, 16).cast();
                args.gathered_row_stride = row_stride;
            }
        }
    }
    Some(call!(nvfp4_moe_permute, args))
}

pub fn combine(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (tokens, topk) = (row_count(rng), rng.pick(&[1usize, 2, 6]));
    let (rows, cols) = (row_count(rng), rng.pick(&[1usize, 15, 64, 1025]));
    let slots = tokens * topk;
    let wild = rng.chance(4);
    let inverse: Vec<i32> = (0..slots)
        .map(|_| if wild { rng.next() as i32 } else { rng.below(rows as u64 + 1) as i32 - 1 })
        .collect();
    let weights: Vec<f32> = (0..slots).map(|_| rng.below(1000) as f32 / 512.0 - 0.5).collect();
    let (y_stride, y_pitch) = stride(rng, cols);
    let (out_stride, out_pitch) = stride(rng, cols);
    let (y_dtype, shared_dtype, out_dtype) = (float(rng), float(rng), float(rng));
    let shared = rng.chance(2).then(|| arena.values(rng, shared_dtype, tokens * cols));
    Some(call!(
        nvfp4_moe_combine,
        nvfp4_moe_combine_args {
            struct_size: size_of::<nvfp4_moe_combine_args>(),
            tokens: tokens as i64,
            cols: cols as i64,
            topk: topk as u32,
            y_dtype,
            rows: rows as i64,
            y: arena.values(rng, y_dtype, extent(rows, y_pitch, cols)).cast(),
            y_row_stride: y_stride,
            inverse: arena.i32s(rng, &inverse),
            topk_weights: arena.f32s(rng, &weights),
            shared: shared.map_or(null(), |p| p.cast_const().cast()),
            shared_dtype,
            scaling: rng.pick(&[0.0, 1.0, 0.37]),
            out: arena.output::<u8>(rng, extent(tokens, out_pitch, cols) * size(out_dtype), 16).cast(),
            out_row_stride: out_stride,
            out_dtype,
            ..Default::default()
        }
    ))
}

/// [tokens, G, K], by values as they are or quantized on the way. Its workspace comes later, as that of a product does.
pub fn linear(rng: &mut Rng, arena: &mut Arena, w: &Prepared) -> Option<Call> {
    let tokens = row_count(rng).min(40);
    let out_cols = if w.gate_up { w.rows / 2 } else { w.rows };
    let rows = tokens * w.groups;
    let quantize = rng.chance(2);
    let a_dtype = if quantize { float(rng) } else { rng.pick(&[NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16]) };
    let out_dtype = float(rng);
    let mut args = nvfp4_grouped_linear_args {
        struct_size: size_of::<nvfp4_grouped_linear_args>(),
        weights: w.handles[w.which],
        tokens: tokens as i64,
        a: arena.values(rng, a_dtype, rows * w.cols).cast(),
        a_dtype,
        quantize: quantize as u32,
        activation: if w.gate_up { NVFP4_ACTIVATION_SWIGLU } else { NVFP4_ACTIVATION_NONE },
        out: arena.output::<u8>(rng, rows * out_cols * size(out_dtype), 16).cast(),
        out_dtype,
        ..Default::default()
    };
    if quantize {
        args.scope = rng.below(3) as u32;
        args.scale_rule = rng.below(3) as u32;
        let entries = [1, w.groups, rows][args.scope as usize];
        let given: Vec<f32> = (0..entries).map(|_| decode_scale(rng)).collect();
        if rng.chance(2) {
            args.static_decode_scales = arena.f32s(rng, &given);
        }
    }
    args.workspace = arena.output::<u8>(rng, 0, 64).cast();
    Some(call!(nvfp4_grouped_linear, args))
}

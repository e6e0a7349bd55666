//! Random calls that work on rows: quantizers plain and fused, dequantization, layouts.

use std::ptr::null_mut;

use nvfp4::api::dequantize::*;
use nvfp4::api::layouts::*;
use nvfp4::api::norm::*;
use nvfp4::api::quantize::*;
use nvfp4::api::stage::*;
use nvfp4::api::swiglu::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::{Call, Prepared, call};

pub fn quantize(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let transposed = rng.chance(4);
    let kinds = if transposed { &[NVFP4_GROUPING_NONE, NVFP4_GROUPING_STRIDED] } else { ANY };
    let (g, rows) = groups(rng, arena, kinds);
    let (cols, dtype) = (16 * blocks(rng), float(rng));
    let (src, row_stride, group_stride) = source(rng, arena, &g, rows, cols, dtype, transposed);
    Some(call!(
        nvfp4_quantize,
        nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: src.cast(),
            src_dtype: dtype,
            transposed: transposed as u32,
            src_row_stride: row_stride,
            src_group_stride: group_stride,
            rows: rows as i64,
            cols: cols as i64,
            groups: g,
            out: quantized(rng, arena, &g, rows, cols, false),
            ..Default::default()
        }
    ))
}

pub fn source(
    rng: &mut Rng,
    arena: &mut Arena,
    g: &nvfp4_groups,
    rows: usize,
    cols: usize,
    dtype: nvfp4_dtype,
    transposed: bool,
) -> (*mut u8, i64, i64) {
    let strided = g.grouping == NVFP4_GROUPING_STRIDED;
    let one = if strided { g.max_tokens as usize } else { rows };
    let (stored, width) = if transposed { (cols, one) } else { (one, cols) };
    let (row_stride, pitch) = stride(rng, width);
    let mut count = extent(stored, pitch, width);
    let mut group_stride = 0;
    if strided && g.count > 0 && !rng.chance(3) {
        group_stride = rng.pick(&[count, count + 3, width, 1]);
        count += (g.count as usize - 1) * group_stride;
    }
    (arena.values(rng, dtype, count), row_stride, group_stride as i64)
}

pub fn amax(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (g, rows) = groups(rng, arena, ANY);
    let (cols, dtype) = (16 * blocks(rng), float(rng));
    let (src, row_stride, group_stride) = source(rng, arena, &g, rows, cols, dtype, false);
    let scope = scope(rng, &g);
    Some(call!(
        nvfp4_amax_scale,
        nvfp4_amax_scale_args {
            struct_size: size_of::<nvfp4_amax_scale_args>(),
            src: src.cast(),
            src_dtype: dtype,
            scope,
            src_row_stride: row_stride,
            src_group_stride: group_stride,
            rows: rows as i64,
            cols: cols as i64,
            groups: g,
            decode_scales: arena.output(rng, 4 * scope_entries(scope, &g, rows), 4),
            ..Default::default()
        }
    ))
}

/// Codes, scales (of any byte) and decode scales; `stored` rows of them, scales laid out for `g`.
pub fn quantized_input(
    rng: &mut Rng,
    arena: &mut Arena,
    g: &nvfp4_groups,
    stored: (usize, &nvfp4_groups),
    cols: usize,
    codes_bytes: impl Fn(usize) -> usize,
) -> nvfp4_quantized_input {
    let layout = rng.below(3) as u32;
    let (codes_stride, pitch) = stride(rng, cols / 2);
    let scales_stride = if layout == 0 { stride(rng, cols / 16).0 } else { 0 };
    let codes: Vec<u8> = (0..codes_bytes(pitch)).map(|_| rng.next() as u8).collect();
    let any = rng.chance(3);
    let bytes = scale_bytes(layout, stored.0, cols, scales_stride, stored.1);
    let scales: Vec<u8> = (0..bytes)
        .map(|_| if any { rng.next() as u8 } else { rng.pick(&[0, 1, 8, 0x30, 0x38, 0x40, 0x7E]) })
        .collect();
    let scope = scope(rng, g);
    let entries = if scope == NVFP4_SCOPE_ROW { stored.0 } else { scope_entries(scope, g, 0) };
    let decode: Vec<f32> = (0..entries).map(|_| decode_scale(rng)).collect();
    nvfp4_quantized_input {
        codes: arena.input(rng, &codes, 16),
        codes_row_stride: codes_stride,
        scales: arena.input(rng, &scales, 16),
        scales_row_stride: scales_stride,
        scale_layout: layout,
        scope,
        decode_scales: if rng.chance(3) { null_mut() } else { arena.f32s(rng, &decode) },
    }
}

/// A matrix that is written: (address, row stride, group stride). `role` OUTPUT, or UPDATED with values in it.
pub fn destination(
    rng: &mut Rng,
    arena: &mut Arena,
    g: &nvfp4_groups,
    rows: usize,
    cols: usize,
    dtype: nvfp4_dtype,
    role: u8,
) -> (*mut u8, i64, i64) {
    let (mut row_stride, mut pitch) = stride(rng, cols);
    let (mut one, mut group_stride, mut steps) = (rows, 0, 0);
    if g.grouping == NVFP4_GROUPING_STRIDED {
        one = g.max_tokens as usize;
        steps = (g.count as usize).max(1) - 1;
        if rng.chance(3) {
            group_stride = cols + rng.below(3) as usize;
            pitch = steps * group_stride + cols;
            row_stride = pitch as i64;
        } else {
            group_stride = extent(one, pitch, cols) + rng.below(9) as usize;
        }
    }
    let count = if one == 0 || rows == 0 { 0 } else { extent(one, pitch, cols) + steps * group_stride };
    let at = if role == OUTPUT {
        arena.take(rng, count * size(dtype), 16, OUTPUT)
    } else {
        let bytes = values(rng, dtype, count);
        let at = arena.take(rng, bytes.len(), 16, UPDATED);
        arena.memory.bytes_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
        at
    };
    (arena.address(at), row_stride, group_stride as i64)
}

pub fn dequantize(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (g, rows) = groups(rng, arena, ANY);
    let (cols, dtype) = (16 * blocks(rng), float(rng));
    let input = quantized_input(rng, arena, &g, (rows, &g), cols, |pitch| extent(rows, pitch, cols / 2));
    let (dst, row_stride, group_stride) = destination(rng, arena, &g, rows, cols, dtype, OUTPUT);
    Some(call!(
        nvfp4_dequantize,
        nvfp4_dequantize_args {
            struct_size: size_of::<nvfp4_dequantize_args>(),
            input,
            rows: rows as i64,
            cols: cols as i64,
            groups: g,
            dst: dst.cast(),
            dst_dtype: dtype,
            dst_row_stride: row_stride,
            dst_group_stride: group_stride,
            ..Default::default()
        }
    ))
}

pub fn rmsnorm(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let none = nvfp4_groups::default();
    let (rows, cols) = (row_count(rng), 16 * blocks(rng));
    let (dtype, weight_dtype) = (float(rng), float(rng));
    let (src, src_row_stride, _) = source(rng, arena, &none, rows, cols, dtype, false);
    let mut args = nvfp4_rmsnorm_quantize_args {
        struct_size: size_of::<nvfp4_rmsnorm_quantize_args>(),
        src: src.cast(),
        src_dtype: dtype,
        weight_dtype,
        src_row_stride,
        rows: rows as i64,
        cols: cols as i64,
        weight: arena.values(rng, weight_dtype, cols).cast(),
        weight_offset: rng.pick(&[0.0, 1.0]),
        eps: rng.pick(&[1e-6, 1e-5, 1.0]),
        ..Default::default()
    };
    if rng.chance(2) {
        let (to, stride, _) = destination(rng, arena, &none, rows, cols, dtype, UPDATED);
        (args.residual, args.residual_row_stride) = (to.cast(), stride);
    }
    if rng.chance(2) {
        let (to, stride, _) = destination(rng, arena, &none, rows, cols, dtype, OUTPUT);
        (args.normed, args.normed_row_stride) = (to.cast(), stride);
    }
    if rng.chance(2) {
        args.inv_rms = arena.output(rng, rows * 4, 4);
    }
    args.out = quantized(rng, arena, &none, rows, cols, false);
    Some(call!(nvfp4_rmsnorm_quantize, args))
}

pub fn hyper(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let none = nvfp4_groups::default();
    let (rows, cols) = (row_count(rng), 16 * blocks(rng));
    let (dtype, weight_dtype) = (float(rng), float(rng));
    let count = 1 + rng.below(4) as usize;
    let (stream_stride, pitch) = stride(rng, cols);
    let token = extent(count, pitch, cols);
    let (row_stride, row_pitch) = stride(rng, token);
    let (mix_stride, mix_pitch) = stride(rng, count);
    let mix: Vec<f32> =
        (0..extent(rows, mix_pitch, count)).map(|_| rng.below(100) as f32 / 50.0 - 1.0).collect();
    let mut args = nvfp4_hc_rmsnorm_quantize_args {
        struct_size: size_of::<nvfp4_hc_rmsnorm_quantize_args>(),
        streams: arena.values(rng, dtype, extent(rows, row_pitch, token)).cast(),
        src_dtype: dtype,
        weight_dtype,
        streams_row_stride: row_stride,
        stream_stride,
        stream_count: count as u32,
        mix: arena.f32s(rng, &mix),
        mix_row_stride: mix_stride,
        rows: rows as i64,
        cols: cols as i64,
        weight: arena.values(rng, weight_dtype, cols).cast(),
        eps: 1e-5,
        ..Default::default()
    };
    if rng.chance(2) {
        let (to, stride, _) = destination(rng, arena, &none, rows, cols, dtype, OUTPUT);
        (args.mixed, args.mixed_row_stride) = (to.cast(), stride);
    }
    if rng.chance(2) {
        let (to, stride, _) = destination(rng, arena, &none, rows, cols, dtype, OUTPUT);
        (args.normed, args.normed_row_stride) = (to.cast(), stride);
    }
    args.out = quantized(rng, arena, &none, rows, cols, false);
    Some(call!(nvfp4_hc_rmsnorm_quantize, args))
}

pub fn swiglu(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (g, rows) = groups(rng, arena, ANY);
    let activation = rng.below(3) as u32;
    let width = if activation == NVFP4_ACTIVATION_NONE { 8 } else { 16 } * blocks(rng);
    let gated = activation != NVFP4_ACTIVATION_RELU2;
    let cols = if activation == NVFP4_ACTIVATION_NONE { 2 * width } else { width };
    let dtype = float(rng);
    let src_cols = if gated { 2 * width } else { width };
    let (src, row_stride, group_stride) = source(rng, arena, &g, rows, src_cols, dtype, false);
    let mut args = nvfp4_swiglu_quantize_args {
        struct_size: size_of::<nvfp4_swiglu_quantize_args>(),
        src: src.cast(),
        src_dtype: dtype,
        interleave: if gated { rng.pick(&[0, 8]) } else { 0 },
        src_row_stride: row_stride,
        src_group_stride: group_stride,
        rows: rows as i64,
        width: width as i64,
        activation,
        limit: rng.pick(&[0.0, 1.0, 7.0]),
        alpha: rng.pick(&[0.0, 1.702]),
        beta: rng.pick(&[0.0, 1.0]),
        groups: g,
        ..Default::default()
    };
    if rng.chance(2) {
        let (row_stride, pitch) = stride(rng, cols);
        args.activated = arena.output(rng, extent(rows, pitch, cols) * size(dtype), 16);
        args.activated_row_stride = row_stride;
    }
    args.out = quantized(rng, arena, &g, rows, cols, false);
    Some(call!(nvfp4_swiglu_quantize, args))
}

pub fn stage(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (rows, cols, dtype) = (row_count(rng), 64 * (1 + rng.below(5) as usize), float(rng));
    let none = nvfp4_groups::default();
    let (src, src_row_stride, _) = source(rng, arena, &none, rows, cols, dtype, false);
    let routes = rng.below(9) as usize;
    let ids: Vec<i32> = (0..rows * routes).map(|_| rng.next() as i32).collect();
    let weights: Vec<f32> = (0..rows * routes).map(|_| rng.below(100) as f32).collect();
    let g = decode_scale(rng);
    Some(call!(
        nvfp4_stage_moe_inputs,
        nvfp4_stage_moe_inputs_args {
            struct_size: size_of::<nvfp4_stage_moe_inputs_args>(),
            src: src.cast(),
            src_dtype: dtype,
            scale_rule: rng.below(3) as u32,
            src_row_stride,
            tokens: rows as i64,
            hidden: cols as i64,
            static_decode_scale: if rng.chance(2) { null_mut() } else { arena.f32s(rng, &[g]) },
            codes: arena.output(rng, rows * cols / 2, 16),
            packed_scales: arena.output(rng, rows * cols / 16, 16),
            routes: routes as u32,
            topk_ids: arena.i32s(rng, &ids),
            topk_weights: arena.f32s(rng, &weights),
            staged_ids: arena.output(rng, rows * routes * 8, 8),
            staged_weights: arena.output(rng, rows * routes * 4, 4),
            ..Default::default()
        }
    ))
}

pub fn tiles(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let (g, rows) = groups(rng, arena, ANY);
    let (blocks, layout, back) = (blocks(rng), 1 + rng.below(2) as u32, rng.chance(2));
    let (row_stride, pitch) = stride(rng, blocks);
    let linear = extent(rows, pitch, blocks);
    let tiled = scale_bytes(layout, rows, 16 * blocks, 0, &g);
    let bytes: Vec<u8> = (0..if back { tiled } else { linear }).map(|_| rng.next() as u8).collect();
    let from: *mut u8 = arena.input(rng, &bytes, 16);
    let to: *mut u8 = arena.output(rng, if back { linear } else { tiled }, 16);
    let args = nvfp4_tile_scales_args {
        struct_size: size_of::<nvfp4_tile_scales_args>(),
        linear: if back { to } else { from },
        linear_row_stride: row_stride,
        tiled: if back { from } else { to },
        scale_layout: layout,
        rows: rows as i64,
        blocks: blocks as i64,
        groups: g,
        ..Default::default()
    };
    Some(if back { call!(nvfp4_untile_scales, args) } else { call!(nvfp4_tile_scales, args) })
}

pub fn interleave(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let granularity = rng.pick(&[0, 1, 3, 8]);
    let half = if granularity == 0 { 8 } else { granularity } * (1 + rng.below(4));
    let (count, row_bytes) = (rng.below(4), 1 + rng.below(40));
    let bytes: Vec<u8> = (0..count * 2 * half * row_bytes).map(|_| rng.next() as u8).collect();
    let args = nvfp4_interleave_gate_up_args {
        struct_size: size_of::<nvfp4_interleave_gate_up_args>(),
        src: arena.input::<u8>(rng, &bytes, 16).cast(),
        dst: arena.output::<u8>(rng, bytes.len(), 16).cast(),
        count: count as i64,
        half_rows: half as i64,
        row_bytes: row_bytes as i64,
        granularity: granularity as i64,
    };
    Some(if rng.chance(2) {
        call!(nvfp4_interleave_gate_up, args)
    } else {
        call!(nvfp4_deinterleave_gate_up, args)
    })
}

pub fn group_ends(rng: &mut Rng, arena: &mut Arena, _: &Prepared) -> Option<Call> {
    let counts: Vec<i32> = (0..rng.below(20))
        .map(|_| if rng.chance(9) { rng.next() as i32 } else { rng.below(99) as i32 })
        .collect();
    Some(call!(
        nvfp4_group_ends,
        nvfp4_group_ends_args {
            struct_size: size_of::<nvfp4_group_ends_args>(),
            counts: arena.i32s(rng, &counts),
            ends: arena.output(rng, 4 * counts.len(), 4),
            count: counts.len() as i64,
        }
    ))
}

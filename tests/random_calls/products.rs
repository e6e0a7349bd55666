//! Random products and exports of prepared weights.

use nvfp4::api::gemm::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::rows::{destination, quantized_input};
use crate::{Call, Prepared, call};

pub fn export(rng: &mut Rng, arena: &mut Arena, w: &Prepared) -> Option<Call> {
    let layout = rng.below(3) as u32;
    let tile = [1, 128, 8][layout as usize];
    let blocks = w.cols / 16;
    let width = if layout == 0 { blocks } else { blocks.next_multiple_of(4) };
    Some(call!(
        nvfp4_weights_export,
        nvfp4_weights_export_args {
            struct_size: size_of::<nvfp4_weights_export_args>(),
            weights: w.handles[w.which],
            codes: arena.output(rng, w.groups * w.rows * w.cols / 2, 16),
            scales: arena.output(rng, w.groups * w.rows.next_multiple_of(tile) * width, 16),
            decode_scales: arena.output(rng, w.groups * 4, 4),
            scale_layout: layout,
            ..Default::default()
        }
    ))
}

pub fn gemm(rng: &mut Rng, arena: &mut Arena, w: &Prepared) -> Option<Call> {
    let (mut g, mut rows) = groups(rng, arena, if w.groups == 1 { ANY } else { &ANY[1..] });
    if g.grouping != NVFP4_GROUPING_NONE {
        while g.count as usize != w.groups {
            (g, rows) = groups(rng, arena, &ANY[1..]);
        }
    }
    Some(product(rng, arena, w, g, rows))
}

/// A random product of these rows.
pub fn product(rng: &mut Rng, arena: &mut Arena, w: &Prepared, g: nvfp4_groups, rows: usize) -> Call {
    let strided = g.grouping == NVFP4_GROUPING_STRIDED;
    let activation = if w.gate_up {
        NVFP4_ACTIVATION_SWIGLU
    } else {
        rng.pick(&[NVFP4_ACTIVATION_NONE, NVFP4_ACTIVATION_RELU2])
    };
    let out_cols = if w.gate_up { w.rows / 2 } else { w.rows };
    let mut args = nvfp4_grouped_gemm_args {
        struct_size: size_of::<nvfp4_grouped_gemm_args>(),
        weights: w.handles[w.which],
        rows: rows as i64,
        groups: g,
        activation,
        limit: rng.pick(&[0.0, 2.0]),
        beta: rng.pick(&[0.0, 1.0]),
        ..Default::default()
    };
    let scope_of = |rng: &mut Rng| scope(rng, &g);
    let shared = strided && g.count > 0 && rng.chance(2);
    let one = if strided { g.max_tokens as usize } else { rows };
    let stored = if shared { one } else { rows };
    if rng.chance(2) {
        args.a_dtype = rng.pick(&[NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16]);
        let (row_stride, pitch) = stride(rng, w.cols);
        let mut count = extent(one, pitch, w.cols);
        if strided && !shared && g.count > 0 {
            args.a_group_stride = count.max(1) as i64;
            count += (g.count as usize - 1) * args.a_group_stride as usize;
        }
        args.a = arena.values(rng, args.a_dtype, count).cast();
        args.a_row_stride = row_stride;
        args.a_scope = scope_of(rng);
        let entries =
            if args.a_scope == NVFP4_SCOPE_ROW { stored } else { scope_entries(args.a_scope, &g, 0) };
        let decode: Vec<f32> = (0..entries).map(|_| decode_scale(rng)).collect();
        if rng.chance(2) {
            args.a_decode_scales = arena.f32s(rng, &decode);
        }
    } else {
        args.a_dtype = NVFP4_DTYPE_NVFP4;
        let steps = if strided && !shared && g.count > 0 { g.count as usize - 1 } else { 0 };
        let none = nvfp4_groups::default();
        let layout_groups = if shared { &none } else { &g };
        // Bytes between groups: more than any row stride here makes of a group.
        let apart = one * (w.cols / 2 + 20) + 1;
        args.a_group_stride = if steps > 0 { apart as i64 } else { 0 };
        if strided && !shared && g.count > 0 {
            args.a_group_stride = apart as i64;
        }
        args.a_quantized = quantized_input(rng, arena, &g, (stored, layout_groups), w.cols, |pitch| {
            extent(one, pitch, w.cols / 2) + steps * apart
        });
    }
    if rng.chance(2) {
        args.bias_dtype = float(rng);
        args.bias = arena.values(rng, args.bias_dtype, w.groups * w.rows).cast();
    }
    if out_cols % 16 == 0 && rng.chance(3) {
        args.out_dtype = NVFP4_DTYPE_NVFP4;
        args.out_quantized = quantized(rng, arena, &g, rows, out_cols, true);
    } else {
        args.out_dtype = float(rng);
        let add = activation == NVFP4_ACTIVATION_NONE && rng.chance(3);
        args.flags = if add { NVFP4_GEMM_ACCUMULATE } else { rng.pick(&[0, NVFP4_GEMM_BATCH_INVARIANT]) };
        let role = if add { UPDATED } else { OUTPUT };
        let (out, row_stride, group_stride) =
            destination(rng, arena, &g, rows, out_cols, args.out_dtype, role);
        (args.out, args.out_row_stride, args.out_group_stride) = (out.cast(), row_stride, group_stride);
    }
    // Scratch: neither an output nor anything that must stay.
    args.workspace = arena.output::<u8>(rng, 0, 64).cast();
    args.workspace_size = w.workspace;
    // Weights and indices are there long before.
    args.flags |= rng.pick(&[0, NVFP4_GEMM_DEPENDENT_LAUNCH]);
    call!(nvfp4_grouped_gemm, args)
}

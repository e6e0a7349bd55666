//! Row operations on one thread, in bytes read + written, beside memcpy counted in the same way.

use std::ptr::null_mut;

use nvfp4::api::context::nvfp4_isa;
use nvfp4::api::norm::nvfp4_rmsnorm_quantize_args;
use nvfp4::api::quantize::nvfp4_quantize_args;
use nvfp4::api::swiglu::nvfp4_swiglu_quantize_args;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::report::{Report, race};
use crate::support::{Library, Memory, check};

const ROWS: usize = 8192;
const COLS: usize = 4096;

pub fn run(report: &mut Report, isa: nvfp4_isa) {
    let library = Library::new(isa, 1).expect("a context");
    // Sums of uniform numbers: the bell shape that weights and activations have.
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    let values: Vec<u8> = (0..2 * ROWS * COLS)
        .flat_map(|_| half::bf16::from_f32(uniform() + uniform() + uniform()).to_le_bytes())
        .collect();
    let src = Memory::from(&values);
    let weight = Memory::from(&values[..2 * COLS]);
    let g = Memory::from(&0.001f32.to_le_bytes());
    let (mut codes, mut scales) =
        (Memory::poisoned(ROWS * COLS / 2, 0), Memory::poisoned(ROWS * COLS / 16, 0));
    let mut decode = Memory::poisoned(4 * ROWS, 0);
    let mut out = |layout, rule, scope, fixed: bool| nvfp4_quantized {
        codes: codes.ptr_mut(),
        scales: scales.ptr_mut(),
        scale_layout: layout,
        scale_rule: rule,
        scope,
        static_decode_scales: if fixed { g.ptr() } else { std::ptr::null() },
        decode_scales: if fixed { null_mut() } else { decode.ptr_mut() },
        ..Default::default()
    };
    let (linear, tiled) = (NVFP4_SCALE_LAYOUT_LINEAR, NVFP4_SCALE_LAYOUT_TILED_128X4);
    let amax = NVFP4_SCALE_RULE_AMAX;
    let outputs = [
        ("static, linear", out(linear, amax, NVFP4_SCOPE_TENSOR, true)),
        ("static, tiled 128x4", out(tiled, amax, NVFP4_SCOPE_TENSOR, true)),
        ("per row, tiled 128x4", out(tiled, amax, NVFP4_SCOPE_ROW, false)),
        ("per tensor, tiled 128x4", out(tiled, amax, NVFP4_SCOPE_TENSOR, false)),
        ("static, FOUR_OVER_SIX", out(tiled, NVFP4_SCALE_RULE_FOUR_OVER_SIX, NVFP4_SCOPE_TENSOR, true)),
        ("static, MIN_MSE", out(tiled, NVFP4_SCALE_RULE_MIN_MSE, NVFP4_SCOPE_TENSOR, true)),
    ];
    for (what, out) in outputs {
        let args = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: src.ptr(),
            rows: ROWS as i64,
            cols: COLS as i64,
            out,
            ..Default::default()
        };
        // SAFETY: the buffers cover the shapes.
        compare(report, &format!("quantize bf16, {what}"), 2.0, &src, || unsafe {
            check(nvfp4_quantize(library.context, &args, library.stream)).unwrap()
        });
    }
    for (what, out) in &outputs[1..3] {
        let args = nvfp4_rmsnorm_quantize_args {
            struct_size: size_of::<nvfp4_rmsnorm_quantize_args>(),
            src: src.ptr(),
            rows: ROWS as i64,
            cols: COLS as i64,
            weight: weight.ptr(),
            eps: 1e-6,
            out: *out,
            ..Default::default()
        };
        // SAFETY: as above.
        compare(report, &format!("rmsnorm + quantize bf16, {what}"), 2.0, &src, || unsafe {
            check(nvfp4_rmsnorm_quantize(library.context, &args, library.stream)).unwrap()
        });
        let args = nvfp4_swiglu_quantize_args {
            struct_size: size_of::<nvfp4_swiglu_quantize_args>(),
            src: src.ptr(),
            rows: ROWS as i64,
            width: COLS as i64,
            activation: NVFP4_ACTIVATION_SWIGLU,
            out: *out,
            ..Default::default()
        };
        // SAFETY: as above.
        compare(report, &format!("swiglu + quantize bf16, {what}"), 4.0, &src, || unsafe {
            check(nvfp4_swiglu_quantize(library.context, &args, library.stream)).unwrap()
        });
    }
}

/// `read`: source bytes a value; codes and scales add 9/16.
fn compare(report: &mut Report, name: &str, read: f64, src: &Memory, call: impl FnMut()) {
    if !report.wants(name) {
        return;
    }
    let bytes = (read + 9.0 / 16.0) * (ROWS * COLS) as f64;
    let half = ROWS * COLS * 2;
    let mut copy = vec![0u8; half];
    let (ours, memcpy) = race(call, || copy.copy_from_slice(&src.bytes()[..half]));
    report.add(name, "GB/s", bytes / ours / 1e9, "memcpy, 1 thread", 2.0 * half as f64 / memcpy / 1e9);
}

//! Which launches the planner chooses.

use super::*;
use crate::format::math::SwiGlu;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{GatedActivation, Norm, QuantOut, Scales};

const FACTS: DeviceFacts = DeviceFacts::H200;

fn matrix(dtype: Dtype, row_stride: usize) -> Matrix {
    Matrix { base: Ptr::new(4096 as *const u8), dtype, row_stride, group_stride: 0 }
}

fn problem(rows: usize, cols: usize, scope: Scope, dynamic: bool, dtype: Dtype) -> QuantizeProblem {
    let decode = Ptr::new(256 as *const f32);
    QuantizeProblem {
        groups: Groups::None { rows },
        cols,
        producer: Producer::Plain { src: matrix(dtype, cols) },
        activated: None,
        out: Some(QuantOut {
            codes: Ptr::new(8192 as *const u8),
            codes_row_stride: cols / 2,
            scales: Scales {
                base: Ptr::new(1024 as *const u8),
                layout: ScaleLayout::Tiled128x4,
                row_stride: 0,
            },
            rule: ScaleRule::Amax,
            scope,
            decode: if dynamic { DecodeScales::Dynamic(decode) } else { DecodeScales::Static(decode) },
        }),
        amax: None,
    }
}

/// Names of the steps; every launch has a grid and whole warps within its kernel's limit.
fn names(p: &QuantizeProblem) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::Zero { words, .. } => {
            assert!(*words > 0);
            "zero"
        }
        Step::Finish { .. } => "finish",
        Step::Rows { kernel, grid, threads, .. } => {
            assert!(grid.0 > 0 && grid.1 > 0 && grid.1 <= 65535);
            assert!(*threads > 0 && threads % 32 == 0 && *threads <= kernel.threads, "{}", kernel.name);
            kernel.name
        }
    };
    plan(p, &FACTS).steps().map(name).collect()
}

#[test]
fn aligned_rows_take_the_fast_passes() {
    let p = |rows, cols, scope, dynamic, dtype| names(&problem(rows, cols, scope, dynamic, dtype));
    assert_eq!(p(8192, 7168, Scope::Tensor, false, Dtype::Bf16), ["nvfp4_quantize_bf16_amax"]);
    assert_eq!(p(8192, 7168, Scope::Row, true, Dtype::Bf16), ["nvfp4_rows_bf16_x4"]);
    assert_eq!(p(64, 7168, Scope::Row, true, Dtype::Bf16), ["nvfp4_rows_bf16_few"]);
    assert_eq!(p(1024, 7168, Scope::Row, true, Dtype::Bf16), ["nvfp4_rows_bf16"]);
    assert_eq!(p(8192, 8192, Scope::Row, true, Dtype::F16), ["nvfp4_rows_f16_x4"]);
    assert_eq!(p(8192, 16384, Scope::Row, true, Dtype::F32), ["nvfp4_rows_f32"]);
    assert_eq!(p(8192, 16400, Scope::Row, true, Dtype::Bf16), ["nvfp4_general"]);
    assert_eq!(
        p(300, 64, Scope::Tensor, true, Dtype::F16),
        ["zero", "nvfp4_amax_f16", "nvfp4_quantize_f16_amax", "finish"]
    );
}

#[test]
fn fused_producers_take_their_passes() {
    let norm = |p: &mut QuantizeProblem| {
        let weight = crate::plan::memory::Vector { base: Ptr::new(4096 as *const u8), dtype: Dtype::F32 };
        let norm = Norm { weight, weight_offset: 0.0, eps: 1e-6, normed: None, inv_rms: None };
        p.producer =
            Producer::Norm { input: NormInput::Rows { src: source(&p.producer), residual: None }, norm };
    };
    let gated = |p: &mut QuantizeProblem| {
        let activation = GatedActivation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 });
        p.producer = Producer::Gated { src: source(&p.producer), interleaved: false, activation };
    };
    let first = |rows, cols, dynamic, edit: &dyn Fn(&mut QuantizeProblem)| {
        let scope = if dynamic { Scope::Row } else { Scope::Tensor };
        let mut p = problem(rows, cols, scope, dynamic, Dtype::Bf16);
        edit(&mut p);
        let name = names(&p)[0];
        let Some(Step::Rows { grid, threads, params, .. }) = plan(&p, &FACTS).steps().next().copied() else {
            panic!("a launch comes first");
        };
        (name, grid, threads, params.steps)
    };
    for dynamic in [false, true] {
        assert_eq!(first(64, 7168, dynamic, &norm), ("nvfp4_norm_bf16", (128, 1), 448, 0));
        assert_eq!(first(8192, 7168, dynamic, &norm), ("nvfp4_norm_bf16_x4", (264, 1), 448, 0));
        assert_eq!(first(8192, 8192, dynamic, &norm), ("nvfp4_norm_bf16", (8192, 1), 512, 0));
        assert_eq!(first(8192, 8208, dynamic, &norm), ("nvfp4_norm_bf16_rule", (8192, 1), 288, 0));
    }
    assert_eq!(first(8192, 7168, true, &gated), ("nvfp4_gated_rows_bf16", (8192, 1), 448, 0));
    let (name, grid, threads, steps) = first(8192, 7168, false, &gated);
    assert_eq!((name, threads), ("nvfp4_gated_bf16", 128));
    assert_eq!(grid.1, 1024, "8 rows a unit");
    assert!(grid.0 * steps * 16 >= 448, "every column has a step");
    let grouped = |p: &mut QuantizeProblem| {
        gated(p);
        p.groups = Groups::Ends { ends: Ptr::new(16 as *const i32), count: 3, rows: 8192 };
        p.out.as_mut().unwrap().scales.layout = ScaleLayout::Linear;
    };
    let (name, grid, ..) = first(8192, 7168, false, &grouped);
    assert_eq!((name, grid.1), ("nvfp4_gated_bf16_grouped", 8192), "linear rows of groups go one by one");
}

#[test]
fn every_alignment_rule_is_seen() {
    let odd = |edit: fn(&mut QuantizeProblem)| {
        let mut p = problem(64, 128, Scope::Tensor, false, Dtype::Bf16);
        edit(&mut p);
        assert_eq!(names(&p), ["nvfp4_general"]);
    };
    odd(|p| p.producer = Producer::Plain { src: matrix(Dtype::Bf16, 129) });
    odd(|p| p.producer = Producer::Transposed { src: matrix(Dtype::Bf16, 64) });
    odd(|p| p.out.as_mut().unwrap().codes_row_stride = 65);
    odd(|p| {
        let src = Matrix { base: Ptr::new(4098 as *const u8), ..matrix(Dtype::Bf16, 128) };
        p.producer = Producer::Plain { src };
    });
    odd(|p| {
        p.activated = Some(matrix(Dtype::Bf16, 132));
        let activation = GatedActivation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 });
        p.producer = Producer::Gated { src: matrix(Dtype::Bf16, 256), interleaved: false, activation };
    });
    odd(|p| {
        let weight = crate::plan::memory::Vector { base: Ptr::new(4104 as *const u8), dtype: Dtype::F32 };
        let norm = Norm { weight, weight_offset: 0.0, eps: 1e-6, normed: None, inv_rms: None };
        let input = NormInput::Rows { src: matrix(Dtype::Bf16, 128), residual: None };
        p.producer = Producer::Norm { input, norm };
    });
}

#[test]
fn rows_of_a_product_are_one_row_where_everything_is() {
    let grid = |edit: fn(&mut QuantizeProblem)| {
        let mut p = problem(8192, 768, Scope::Tensor, false, Dtype::Bf16);
        p.groups = Groups::Ends { ends: Ptr::new(16 as *const i32), count: 3, rows: 8192 };
        p.out.as_mut().unwrap().scales.layout = ScaleLayout::Linear;
        p.out.as_mut().unwrap().scales.row_stride = 48;
        edit(&mut p);
        flat_rows(&p, &FACTS).map(|(kernel, ctas, params)| {
            assert_eq!((kernel.name, params.mode, params.decode), ("nvfp4_flat_bf16", mode::STATIC, 256));
            ctas
        })
    };
    assert_eq!(grid(|_| ()), Some(768), "four warps of 128 blocks");
    assert_eq!(grid(|p| p.groups = Groups::None { rows: 3 }), Some(1));
    assert_eq!(grid(|p| p.groups = Groups::None { rows: 1 << 20 }), Some(792), "as many as fit");
    assert_eq!(grid(|p| p.groups = Groups::None { rows: 0 }), None);
    assert_eq!(grid(|p| p.groups = Groups::None { rows: 1 << 40 }), None);
    assert_eq!(grid(|p| p.groups = Groups::Strided { count: 3, rows: 64 }), None);
    assert_eq!(grid(|p| p.producer = Producer::Plain { src: matrix(Dtype::Bf16, 776) }), None);
    assert_eq!(grid(|p| p.producer = Producer::Plain { src: matrix(Dtype::F16, 768) }), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().codes_row_stride = 392), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().scales.row_stride = 64), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().scales.layout = ScaleLayout::Tiled128x4), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().scope = Scope::Row), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().rule = ScaleRule::FourOverSix), None);
    assert_eq!(grid(|p| p.out.as_mut().unwrap().codes = Ptr::new(8196 as *const u8)), None);
}

#[test]
fn no_rows_are_no_launch_but_slots_become_one() {
    assert_eq!(names(&problem(0, 64, Scope::Row, true, Dtype::Bf16)), [""; 0]);
    assert_eq!(names(&problem(0, 64, Scope::Tensor, true, Dtype::Bf16)), ["zero", "finish"]);
    let mut p = problem(0, 64, Scope::Row, true, Dtype::Bf16);
    p.groups = Groups::Ends { ends: Ptr::new(16 as *const i32), count: 3, rows: 0 };
    assert_eq!(names(&p), ["nvfp4_general"], "the ends may still be wrong, and that is reported");
}

#[test]
fn any_shape_has_a_launch() {
    for rows in [1, 7, 128, 129, 1 << 20, 1 << 40] {
        for cols in [16, 48, 7168, 1 << 20, 1 << 30] {
            for scope in [Scope::Tensor, Scope::Row] {
                for (dynamic, dtype) in [(false, Dtype::Bf16), (true, Dtype::F32), (true, Dtype::F16)] {
                    assert!(!names(&problem(rows, cols, scope, dynamic, dtype)).is_empty());
                }
            }
        }
    }
}

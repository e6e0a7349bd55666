//! One thread's rate of the row operations on the CPU backend, for each instruction set, beside memcpy's.
//!
//! `cargo bench --bench cpu_rows [rows=N] [words of names]`. Rates count every byte read and written once, in GB/s, best of several runs.

use std::time::Instant;

use nvfp4::backend::cpu::kernels::Isa;
use nvfp4::backend::cpu::{Cpu, layouts, rows};
use nvfp4::format::block::ScaleRule;
use nvfp4::format::dtype::Dtype;
use nvfp4::format::layout::ScaleLayout;
use nvfp4::format::math::SwiGlu;
use nvfp4::plan::dequantize::{DequantizeProblem, QuantIn};
use nvfp4::plan::groups::Groups;
use nvfp4::plan::memory::{Matrix, Ptr, Vector};
use nvfp4::plan::quantize::*;

const ROWS: usize = 4096;
const COLS: usize = 4096;

/// Rows of a run: `rows=16` as an argument keeps everything in the second-level cache.
fn rows() -> usize {
    std::env::args().find_map(|a| a.strip_prefix("rows=")?.parse().ok()).unwrap_or(ROWS).min(ROWS)
}

/// The memory of all cases.
struct Arena {
    src: Vec<u8>,
    residual: Vec<u8>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    decode: Vec<f32>,
    weight: Vec<u8>,
    values: Vec<u8>,
}

impl Arena {
    fn new() -> Arena {
        // Roughly normal values of four bytes an element at most, two halves a row for gated sources.
        let mut state = 1u32;
        let mut bits = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 65536.0 - 0.5
        };
        let src = (0..2 * ROWS * COLS)
            .flat_map(|_| half::bf16::from_f32(bits() + bits() + bits()).to_le_bytes())
            .collect();
        Arena {
            src,
            residual: vec![0; ROWS * COLS * 2],
            codes: vec![0; ROWS * COLS / 2],
            scales: vec![0; ROWS * COLS / 16],
            decode: vec![0.001; ROWS],
            weight: vec![0x3F; COLS * 2],
            values: vec![0; ROWS * COLS * 2],
        }
    }

    fn matrix(base: &[u8], dtype: Dtype, row_stride: usize) -> Matrix {
        Matrix { base: Ptr::new(base.as_ptr()), dtype, row_stride, group_stride: 0 }
    }

    fn scales(&self, layout: ScaleLayout) -> Scales {
        Scales { base: Ptr::new(self.scales.as_ptr()), layout, row_stride: COLS / 16 }
    }

    fn problem(
        &self,
        producer: Producer,
        layout: ScaleLayout,
        rule: ScaleRule,
        scope: Scope,
    ) -> QuantizeProblem {
        let decode = Ptr::new(self.decode.as_ptr());
        let decode =
            if scope == Scope::Tensor { DecodeScales::Static(decode) } else { DecodeScales::Dynamic(decode) };
        QuantizeProblem {
            groups: Groups::None { rows: rows() },
            cols: COLS,
            producer,
            activated: None,
            out: Some(QuantOut {
                codes: Ptr::new(self.codes.as_ptr()),
                codes_row_stride: COLS / 2,
                scales: self.scales(layout),
                rule,
                scope,
                decode,
            }),
            amax: None,
        }
    }
}

/// Best seconds of a few runs.
fn time(mut body: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let (start, mut runs) = (Instant::now(), 0);
    while runs < 3 || (start.elapsed().as_secs_f64() < 0.3 && runs < 20_000) {
        let begin = Instant::now();
        body();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with('-') && !a.contains('=')).collect();
    let mut arena = Arena::new();
    let bytes = rows() * COLS * 2;
    let seconds = time(|| arena.values[..bytes].copy_from_slice(&arena.src[..bytes]));
    println!("memcpy {:46} {:6.2} GB/s", "", 2.0 * bytes as f64 / seconds / 1e9);

    use ScaleLayout::*;
    use ScaleRule::*;
    let plain = |dtype| Producer::Plain { src: Arena::matrix(&arena.src, dtype, COLS) };
    let transposed = Producer::Transposed { src: Arena::matrix(&arena.src, Dtype::Bf16, COLS) };
    let norm = |residual: bool| Producer::Norm {
        input: NormInput::Rows {
            src: Arena::matrix(&arena.src, Dtype::Bf16, COLS),
            residual: residual.then(|| Arena::matrix(&arena.residual, Dtype::Bf16, COLS)),
        },
        norm: Norm {
            weight: Vector { base: Ptr::new(arena.weight.as_ptr()), dtype: Dtype::Bf16 },
            weight_offset: 0.0,
            eps: 1e-6,
            normed: None,
            inv_rms: None,
        },
    };
    let swiglu = |interleaved| Producer::Gated {
        src: Arena::matrix(&arena.src, Dtype::Bf16, 2 * COLS),
        interleaved,
        activation: GatedActivation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 }),
    };
    // Name, bytes read a value, problem.
    let cases = [
        ("quantize bf16 static linear", 2.0, arena.problem(plain(Dtype::Bf16), Linear, Amax, Scope::Tensor)),
        (
            "quantize bf16 static 128x4",
            2.0,
            arena.problem(plain(Dtype::Bf16), Tiled128x4, Amax, Scope::Tensor),
        ),
        ("quantize f16 static 128x4", 2.0, arena.problem(plain(Dtype::F16), Tiled128x4, Amax, Scope::Tensor)),
        ("quantize f32 static 128x4", 4.0, arena.problem(plain(Dtype::F32), Tiled128x4, Amax, Scope::Tensor)),
        ("quantize bf16 row 128x4", 2.0, arena.problem(plain(Dtype::Bf16), Tiled128x4, Amax, Scope::Row)),
        (
            "quantize bf16 static four-over-six",
            2.0,
            arena.problem(plain(Dtype::Bf16), Tiled128x4, FourOverSix, Scope::Tensor),
        ),
        (
            "quantize bf16 static min-mse",
            2.0,
            arena.problem(plain(Dtype::Bf16), Tiled128x4, MinMse, Scope::Tensor),
        ),
        ("quantize bf16 transposed static", 2.0, arena.problem(transposed, Tiled128x4, Amax, Scope::Tensor)),
        ("quantize bf16 transposed row", 2.0, arena.problem(transposed, Tiled128x4, Amax, Scope::Row)),
        ("rmsnorm bf16 static", 2.0, arena.problem(norm(false), Tiled128x4, Amax, Scope::Tensor)),
        ("rmsnorm bf16 row", 2.0, arena.problem(norm(false), Tiled128x4, Amax, Scope::Row)),
        ("rmsnorm + residual bf16 static", 6.0, arena.problem(norm(true), Tiled128x4, Amax, Scope::Tensor)),
        ("swiglu bf16 static", 4.0, arena.problem(swiglu(false), Tiled128x4, Amax, Scope::Tensor)),
        ("swiglu bf16 row", 4.0, arena.problem(swiglu(false), Tiled128x4, Amax, Scope::Row)),
        ("swiglu interleaved bf16 static", 4.0, arena.problem(swiglu(true), Tiled128x4, Amax, Scope::Tensor)),
    ];
    let dequantize = |layout| DequantizeProblem {
        groups: Groups::None { rows: rows() },
        cols: COLS,
        input: QuantIn {
            codes: Ptr::new(arena.codes.as_ptr()),
            codes_row_stride: COLS / 2,
            codes_group_stride: 0,
            scales: arena.scales(layout),
            scope: Scope::Tensor,
            decode: Ptr::new(arena.decode.as_ptr()),
        },
        dst: Arena::matrix(&arena.values, Dtype::Bf16, COLS),
    };
    let selected = |name: &str, isa: Isa| {
        wanted.iter().all(|w| name.contains(w.as_str()) || isa.name() == w)
            // The plain kernels take seconds: only when asked for.
            && (isa != Isa::Portable || wanted.iter().any(|w| w == "portable"))
    };
    for isa in Isa::ALL {
        let Ok(cpu) = Cpu::new(1, Some(isa)) else {
            println!("{}: not on this processor", isa.name());
            continue;
        };
        let report = |name: &str, per_value: f64, seconds: f64| {
            let rate = per_value * (rows() * COLS) as f64 / seconds / 1e9;
            println!(
                "{:8} {name:44} {rate:6.2} GB/s {:7.3} ns/256",
                isa.name(),
                seconds * 256e9 / (rows() * COLS) as f64
            );
        };
        for (name, read, problem) in &cases {
            if selected(name, isa) {
                // SAFETY: every buffer covers the problem.
                report(name, read + 0.5625, time(|| unsafe { rows::run(&cpu, problem) }));
            }
        }
        for (name, layout) in [("dequantize bf16 linear", Linear), ("dequantize bf16 128x4", Tiled128x4)] {
            if selected(name, isa) {
                // SAFETY: as above.
                report(name, 2.5625, time(|| unsafe { layouts::dequantize(&cpu, &dequantize(layout)) }));
            }
        }
    }
}

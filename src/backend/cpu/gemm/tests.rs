//! The product against a float64 reference, and every instruction set and thread count against the plain one.

use super::super::kernels::{Isa, Kernels};
use super::super::{Cpu, rows, weights};
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout::{self, Linear, Tiled8x4, Tiled128x4};
use crate::format::math::{self, SwiGlu};
use crate::format::{BLOCK, e2m1, e4m3};
use crate::plan::dequantize::QuantIn;
use crate::plan::gemm::{Activation, Activations, GemmOut, GemmProblem};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope};
use crate::plan::weights::{PrepareProblem, Weights, WeightsShape, WeightsSource};

/// A processor with an instruction set's product, whether or not its row kernels exist.
fn cpu(isa: Isa, threads: usize) -> Cpu {
    let mut cpu = Cpu::new(threads, Some(isa)).unwrap();
    cpu.kernels = Box::leak(Box::new(Kernels { isa, ..*cpu.kernels }));
    cpu
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 33;
        x.wrapping_mul(0xFF51_AFD7_ED55_8CCD) >> 20
    }
    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// Roughly normal, times a power of two that varies a little.
    fn value(&mut self) -> f32 {
        let sum: i64 = (0..4).map(|_| (self.next() & 0xFFFF) as i64 - 0x8000).sum();
        sum as f32 / 32768.0 * [0.25, 1.0, 4.0][self.below(3)]
    }
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

/// Memory between guards, 64-byte aligned.
#[derive(Clone)]
struct Buffer {
    lines: Vec<Line>,
    len: usize,
    poison: u8,
}

impl Buffer {
    fn new(len: usize, poison: u8) -> Buffer {
        Buffer { lines: vec![Line([poison; 64]); len.div_ceil(64) + 2], len, poison }
    }
    fn of<T: Copy>(values: &[T]) -> Buffer {
        let mut buffer = Buffer::new(size_of_val(values), 0xEE);
        // SAFETY: plain numbers; the buffer is as long.
        unsafe { buffer.ptr::<T>().get_mut().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        buffer
    }
    fn ptr<T>(&mut self) -> Ptr<T> {
        Ptr::from_mut(self.lines[1..].as_mut_ptr().cast())
    }
    fn all(&self) -> &[u8] {
        // SAFETY: lines are bytes without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }
    fn bytes(&self) -> &[u8] {
        &self.all()[64..64 + self.len]
    }
    fn floats(&self) -> Vec<f32> {
        self.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn assert_guarded(&self, what: &str) {
        let (before, after) = (&self.all()[..64], &self.all()[64 + self.len..]);
        assert!(before.iter().chain(after).all(|&b| b == self.poison), "{what}: a guard was overwritten");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    One(usize),
    Ends(&'static [i32], usize),
    Masked(&'static [i32], usize),
    Strided(usize, usize),
    /// Strided, all groups on the same rows.
    Shared(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum In {
    Bf16,
    F16,
    Codes(ScaleLayout),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Out {
    Values(Dtype),
    Accumulate(Dtype),
    Static(ScaleLayout),
    Dynamic(ScaleLayout),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    split: Split,
    n: usize,
    k: usize,
    a: In,
    scope: Scope,
    bias: bool,
    activation: Activation,
    out: Out,
    /// NaN scales here and there.
    nan: bool,
}

const SWIGLU: Activation = Activation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 });
const GPT_OSS: Activation = Activation::SwiGlu(SwiGlu { limit: 7.0, alpha: 1.702, beta: 1.0 });

/// Everything a case reads.
struct Data {
    index: Buffer,
    a: Buffer,
    a_scales: Buffer,
    a_decode: Buffer,
    bias: Buffer,
    codes: Vec<u8>,
    scales: Vec<u8>,
    decode: Vec<f32>,
    static_decode: Buffer,
    row_gap: usize,
}

impl Case {
    fn groups(&self, index: &mut Buffer) -> Groups {
        match self.split {
            Split::One(rows) => Groups::None { rows },
            Split::Ends(ends, rows) => Groups::Ends { ends: index.ptr(), count: ends.len(), rows },
            Split::Masked(counts, max_rows) => {
                Groups::Masked { counts: index.ptr(), count: counts.len(), max_rows }
            }
            Split::Strided(count, rows) | Split::Shared(count, rows) => Groups::Strided { count, rows },
        }
    }

    fn gated(&self) -> bool {
        matches!(self.activation, Activation::SwiGlu(_))
    }

    fn out_cols(&self) -> usize {
        if self.gated() { self.n / 2 } else { self.n }
    }

    fn shape(&self, groups: usize) -> WeightsShape {
        WeightsShape { groups, rows: self.n, cols: self.k, gate_up: self.gated() }
    }

    fn data(&self, seed: u64) -> Data {
        let mut random = Random(seed);
        let mut index = Buffer::of(match self.split {
            Split::Ends(index, _) | Split::Masked(index, _) => index,
            _ => &[],
        });
        let groups = self.groups(&mut index);
        let (count, rows, blocks) = (groups.count(), groups.total_rows(), self.k / BLOCK);
        let scale = |random: &mut Random| match random.below(400) {
            0 if self.nan => e4m3::NAN,
            1..20 => 0,
            _ => 0x28 + random.below(0x30) as u8,
        };
        let row_gap = [0, 16, 48][random.below(3)];
        let (a, a_scales) = match self.a {
            In::Codes(layout) => {
                let codes: Vec<u8> =
                    (0..rows * (self.k / 2 + row_gap)).map(|_| random.next() as u8).collect();
                let rows = groups.scale_rows(layout.tile_rows());
                let scales: Vec<u8> =
                    (0..rows * blocks.next_multiple_of(4)).map(|_| scale(&mut random)).collect();
                (Buffer::of(&codes), Buffer::of(&scales))
            }
            dtype => {
                let dtype = if dtype == In::F16 { Dtype::F16 } else { Dtype::Bf16 };
                let mut a = Buffer::new(rows * (self.k + row_gap) * 2, 0xEE);
                for i in 0..rows * (self.k + row_gap) {
                    // SAFETY: the buffer holds as many elements.
                    unsafe { dtype.store(a.ptr::<u8>().get_mut(), i, random.value()) };
                }
                (a, Buffer::of::<u8>(&[]))
            }
        };
        let a_decode: Vec<f32> = (0..rows.max(count).max(1)).map(|_| random.value().abs() + 0.1).collect();
        let bias: Vec<f32> = (0..count * self.n).map(|_| random.value()).collect();
        let mut codes: Vec<u8> = (0..count * self.n * self.k / 2).map(|_| random.next() as u8).collect();
        let scales: Vec<u8> = (0..count * self.n * blocks).map(|_| scale(&mut random)).collect();
        for (block, _) in scales.iter().enumerate().filter(|(_, s)| **s == 0) {
            codes[block * 8..block * 8 + 8].fill(0);
        }
        let decode = (0..count).map(|_| random.value().abs() / self.k as f32 + 1e-3).collect();
        let static_decode: Vec<f32> =
            (0..rows.max(count).max(1)).map(|_| 0.01 + random.value().abs()).collect();
        Data {
            index,
            a,
            a_scales,
            a_decode: Buffer::of(&a_decode),
            bias: Buffer::of(&bias),
            codes,
            scales,
            decode,
            static_decode: Buffer::of(&static_decode),
            row_gap,
        }
    }

    fn activations(&self, data: &mut Data) -> Activations {
        let rows = match self.split {
            Split::Strided(_, rows) => rows,
            _ => 0,
        };
        let stride = |row: usize| if let Split::Shared(..) = self.split { 0 } else { rows * row };
        let (scope, decode) = (self.scope, data.a_decode.ptr());
        match self.a {
            In::Codes(layout) => {
                let row = self.k / 2 + data.row_gap;
                Activations::Codes(QuantIn {
                    codes: data.a.ptr(),
                    codes_row_stride: row,
                    codes_group_stride: stride(row),
                    scales: Scales { base: data.a_scales.ptr(), layout, row_stride: self.k / BLOCK },
                    scope,
                    decode,
                })
            }
            dtype => {
                let dtype = if dtype == In::F16 { Dtype::F16 } else { Dtype::Bf16 };
                let row = self.k + data.row_gap;
                let a = Matrix { base: data.a.ptr(), dtype, row_stride: row, group_stride: stride(row) };
                Activations::Values { a, scope, decode }
            }
        }
    }

    /// Every byte that a run leaves in its outputs: values, or codes, scales and decode scales.
    fn run(&self, cpu: &Cpu, data: &mut Data, poison: u8) -> Vec<Buffer> {
        let groups = self.groups(&mut data.index);
        let shape = self.shape(groups.count());
        let mut storage = Buffer::new(weights::storage_size(&shape).unwrap(), poison);
        let weights = Weights { shape, storage: storage.ptr() };
        let source = WeightsSource::Codes {
            codes: Ptr::new(data.codes.as_ptr()),
            scales: Scales {
                base: Ptr::new(data.scales.as_ptr()),
                layout: Linear,
                row_stride: self.k / BLOCK,
            },
            decode: Ptr::new(data.decode.as_ptr()),
        };
        // SAFETY: all buffers have the sizes that the problem asks for, here and below.
        unsafe { weights::prepare(cpu, &PrepareProblem { source, weights }) }.unwrap();
        storage.assert_guarded("storage");
        let (cols, rows) = (self.out_cols(), groups.total_rows());
        let mut outs = Vec::new();
        let out = match self.out {
            Out::Values(dtype) | Out::Accumulate(dtype) => {
                let stride = cols + data.row_gap;
                outs.push(Buffer::new(rows * stride * dtype.bytes(), poison));
                let group_stride = rows / groups.count().max(1) * stride;
                let out = Matrix { base: outs[0].ptr(), dtype, row_stride: stride, group_stride };
                GemmOut::Values { out, accumulate: matches!(self.out, Out::Accumulate(_)) }
            }
            Out::Static(layout) | Out::Dynamic(layout) => {
                outs.push(Buffer::new(rows * cols / 2, poison));
                let blocks =
                    if layout.is_tiled() { (cols / BLOCK).next_multiple_of(4) } else { cols / BLOCK };
                outs.push(Buffer::new(groups.scale_rows(layout.tile_rows()) * blocks, poison));
                outs.push(Buffer::new(rows * 4, poison));
                let (decode, scope) = match self.out {
                    Out::Static(_) => (DecodeScales::Static(data.static_decode.ptr()), self.scope),
                    _ => (DecodeScales::Dynamic(outs[2].ptr()), Scope::Row),
                };
                GemmOut::Codes(QuantOut {
                    codes: outs[0].ptr(),
                    codes_row_stride: cols / 2,
                    scales: Scales { base: outs[1].ptr(), layout, row_stride: cols / BLOCK },
                    rule: ScaleRule::Amax,
                    scope,
                    decode,
                })
            }
        };
        let mut p = GemmProblem {
            groups,
            a: self.activations(data),
            weights,
            bias: self.bias.then(|| Vector { base: data.bias.ptr(), dtype: Dtype::F32 }),
            activation: self.activation,
            out,
            workspace: Ptr::NULL,
        };
        let mut workspace = Buffer::new(super::workspace_size(cpu, &p), poison);
        p.workspace = workspace.ptr();
        unsafe { super::run(cpu, &p) };
        workspace.assert_guarded("workspace");
        outs.iter().for_each(|out| out.assert_guarded("output"));
        outs
    }

    fn spans(&self, data: &mut Data, tile_rows: usize) -> Vec<Span> {
        let groups = self.groups(&mut data.index);
        // SAFETY: the index array is in `data`.
        unsafe { groups.spans(tile_rows) }.collect()
    }

    /// (exact v, bound of |v − exact|) of an output row in canonical weight order, in f64.
    fn exact(&self, data: &mut Data, span: &Span, r: usize) -> Vec<(f64, f64)> {
        let shared = matches!(self.split, Split::Shared(..));
        let (row, scale_row) = if shared { (r, r) } else { (span.first_row + r, span.first_scale_row + r) };
        let blocks = self.k / BLOCK;
        let a: Vec<f64> = (0..self.k)
            .map(|k| match self.a {
                In::Codes(layout) => {
                    let byte = data.a.bytes()[row * (self.k / 2 + data.row_gap) + k / 2];
                    let at = match layout {
                        Linear => row * blocks + k / BLOCK,
                        _ => layout.tiled_offset(scale_row, k / BLOCK, blocks),
                    };
                    let code = byte >> (k % 2 * 4) & 15;
                    e2m1::decode(code) as f64 * e4m3::decode(data.a_scales.bytes()[at]) as f64
                }
                dtype => {
                    let dtype = if dtype == In::F16 { Dtype::F16 } else { Dtype::Bf16 };
                    // SAFETY: inside the buffer.
                    unsafe { dtype.load(data.a.ptr::<u8>().get(), row * (self.k + data.row_gap) + k) as f64 }
                }
            })
            .collect();
        let g_a = data.a_decode.floats()[match self.scope {
            Scope::Tensor => 0,
            Scope::Group => span.group,
            Scope::Row => row,
        }] as f64;
        let scale = g_a * data.decode[span.group] as f64;
        (0..self.n)
            .map(|n| {
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for (k, a) in a.iter().enumerate() {
                    let row = span.group * self.n + n;
                    let code = data.codes[row * self.k / 2 + k / 2] >> (k % 2 * 4) & 15;
                    let b = e2m1::decode(code) as f64
                        * e4m3::decode(data.scales[row * blocks + k / BLOCK]) as f64;
                    sum += a * b;
                    magnitude += (a * b).abs();
                }
                let bias = if self.bias { data.bias.floats()[span.group * self.n + n] as f64 } else { 0.0 };
                let bound = magnitude * scale * 2f64.powi(-15) * (self.k as f64 / 8192.0).max(1.0);
                (sum * scale + bias, bound + (sum * scale + bias).abs() * 2f64.powi(-22))
            })
            .collect()
    }

    /// Compares values with the reference, and everything else with the poison.
    fn check_values(&self, dtype: Dtype, data: &mut Data, out: &Buffer, old: f32) {
        let stride = self.out_cols() + data.row_gap;
        let mut used = vec![false; out.len / dtype.bytes()];
        let half_ulp = match dtype {
            Dtype::Bf16 => 2f64.powi(-8),
            Dtype::F16 => 2f64.powi(-11),
            Dtype::F32 => 2f64.powi(-24),
        };
        let tile_rows = if let In::Codes(layout) = self.a { layout.tile_rows() } else { 1 };
        for span in self.spans(data, tile_rows) {
            for r in 0..span.rows {
                let exact = self.exact(data, &span, r);
                for col in 0..self.out_cols() {
                    let at = (span.first_row + r) * stride + col;
                    used[at] = true;
                    // SAFETY: inside the buffer.
                    let got = unsafe { dtype.load(out.bytes().as_ptr(), at) } as f64;
                    let (v, bound) = match self.activation {
                        Activation::None => {
                            let (v, bound) = exact[col];
                            (v + old as f64, bound + (v + old as f64).abs() * half_ulp)
                        }
                        Activation::Relu2 => {
                            let (x, bound) = exact[col];
                            let v = if x.is_nan() { x } else { x.max(0.0) * x.max(0.0) };
                            (v, 2.0 * x.abs() * (bound + x.abs() / 256.0) + bound * bound + v / 256.0)
                        }
                        Activation::SwiGlu(p) => {
                            let ((gate, d_gate), (up, d_up)) = (exact[col], exact[col + self.n / 2]);
                            let (d_gate, d_up) = (d_gate + gate.abs() / 256.0, d_up + up.abs() / 256.0);
                            let v = math::swiglu(gate as f32, up as f32, &p) as f64;
                            let slope = 1.1 * p.alpha.max(1.0) as f64;
                            let d = slope * d_gate * (up.abs() + p.beta as f64 + d_up) + d_up * gate.abs();
                            (v, d + v.abs() / 128.0)
                        }
                    };
                    assert!(
                        (got - v).abs() <= bound + 1e-7 || got.is_nan() && v.is_nan(),
                        "{self:?}: group {} row {r} col {col}: {got} instead of {v} ± {bound}",
                        span.group
                    );
                }
            }
        }
        for (at, bytes) in out.bytes().chunks(dtype.bytes()).enumerate().filter(|(at, _)| !used[*at]) {
            assert!(bytes.iter().all(|&b| b == out.poison), "{self:?}: element {at} was written");
        }
    }

    /// Codes must be what the quantizer makes of the same product in bf16.
    fn check_codes(&self, cpu: &Cpu, data: &mut Data, outs: &[Buffer]) {
        let (Out::Static(layout) | Out::Dynamic(layout)) = self.out else { unreachable!() };
        let row_gap = std::mem::take(&mut data.row_gap);
        assert_eq!(row_gap, 0, "cases with codes are generated without gaps");
        let mut values = Case { out: Out::Values(Dtype::Bf16), ..*self }.run(cpu, data, outs[0].poison);
        let (groups, cols) = (self.groups(&mut data.index), self.out_cols());
        let mut want: Vec<Buffer> = outs.iter().map(|out| Buffer::new(out.len, out.poison)).collect();
        let (decode, scope) = match self.out {
            Out::Static(_) => (DecodeScales::Static(data.static_decode.ptr()), self.scope),
            _ => (DecodeScales::Dynamic(want[2].ptr()), Scope::Row),
        };
        let group_stride = groups.total_rows() / groups.count().max(1) * cols;
        let src = Matrix { base: values[0].ptr(), dtype: Dtype::Bf16, row_stride: cols, group_stride };
        let out = QuantOut {
            codes: want[0].ptr(),
            codes_row_stride: cols / 2,
            scales: Scales { base: want[1].ptr(), layout, row_stride: cols / BLOCK },
            rule: ScaleRule::Amax,
            scope,
            decode,
        };
        let producer = Producer::Plain { src };
        // SAFETY: the buffers have the sizes of the outputs.
        unsafe {
            rows::run(
                cpu,
                &QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None },
            )
        };
        for (want, got) in want.iter().zip(outs) {
            assert!(want.bytes() == got.bytes(), "{self:?}: not the quantizer's bytes");
        }
    }
}

/// The plain product against the reference; every instruction set and thread count against the plain product.
fn check(case: Case, seed: u64) {
    let mut data = case.data(seed);
    if matches!(case.out, Out::Static(_) | Out::Dynamic(_)) {
        let mut seed = seed;
        while data.row_gap != 0 {
            seed += 1;
            data = case.data(seed);
        }
    }
    for poison in [0xA5, 0x5A] {
        let plain = cpu(Isa::Portable, 1);
        let want = case.run(&plain, &mut data, poison);
        match case.out {
            Out::Values(dtype) => case.check_values(dtype, &mut data, &want[0], 0.0),
            Out::Accumulate(dtype) => {
                // SAFETY: one element of poison.
                let old = unsafe { dtype.load([poison; 4].as_ptr(), 0) };
                case.check_values(dtype, &mut data, &want[0], old);
            }
            _ => case.check_codes(&plain, &mut data, &want),
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for threads in [1, 3] {
                let got = case.run(&cpu(isa, threads), &mut data, poison);
                for (want, got) in want.iter().zip(&got) {
                    assert!(want.bytes() == got.bytes(), "{case:?}: {} with {threads} threads", isa.name());
                }
            }
        }
    }
}

const PLAIN: Case = Case {
    split: Split::One(3),
    n: 40,
    k: 272,
    a: In::Bf16,
    scope: Scope::Tensor,
    bias: false,
    activation: Activation::None,
    out: Out::Values(Dtype::Bf16),
    nan: false,
};

#[test]
fn table_of_cases() {
    use Dtype::{Bf16, F16, F32};
    let codes = In::Codes(Linear);
    let cases = [
        PLAIN,
        Case { k: 16, n: 1, split: Split::One(1), ..PLAIN },
        Case { split: Split::One(0), ..PLAIN },
        Case { a: In::F16, out: Out::Values(F16), bias: true, scope: Scope::Row, ..PLAIN },
        Case { a: codes, out: Out::Values(F32), bias: true, scope: Scope::Row, ..PLAIN },
        Case { split: Split::Ends(&[], 5), ..PLAIN },
        Case { split: Split::Ends(&[2, 2, 21, 23], 25), k: 528, n: 65, nan: true, ..PLAIN },
        Case {
            split: Split::Ends(&[2, 2, 21, 23], 25),
            k: 1040,
            a: In::Codes(Tiled128x4),
            nan: true,
            ..PLAIN
        },
        Case {
            split: Split::Ends(&[7, 3, -5, 99], 17),
            a: In::Codes(Tiled8x4),
            scope: Scope::Group,
            ..PLAIN
        },
        Case {
            split: Split::Masked(&[5, 0, 9, 99, -1], 9),
            a: In::Codes(Tiled8x4),
            scope: Scope::Row,
            ..PLAIN
        },
        Case { split: Split::Masked(&[1, 0, 4], 4), scope: Scope::Group, out: Out::Values(F32), ..PLAIN },
        Case { split: Split::Strided(3, 5), scope: Scope::Row, bias: true, ..PLAIN },
        Case { split: Split::Strided(2, 9), a: In::Codes(Tiled128x4), scope: Scope::Row, ..PLAIN },
        Case { split: Split::Shared(3, 5), scope: Scope::Row, bias: true, ..PLAIN },
        Case { split: Split::Shared(3, 2), a: In::Codes(Tiled128x4), scope: Scope::Row, ..PLAIN },
        Case { split: Split::Shared(2, 9), a: codes, scope: Scope::Row, ..PLAIN },
        Case { out: Out::Accumulate(Bf16), bias: true, ..PLAIN },
        Case { out: Out::Accumulate(F32), a: codes, ..PLAIN },
        Case { activation: SWIGLU, n: 70, split: Split::One(19), ..PLAIN },
        Case { activation: GPT_OSS, n: 64, bias: true, out: Out::Values(F32), nan: true, ..PLAIN },
        Case { activation: SWIGLU, n: 34, a: codes, out: Out::Values(F16), bias: true, ..PLAIN },
        Case { activation: Activation::Relu2, a: codes, out: Out::Values(F32), ..PLAIN },
        Case { activation: Activation::Relu2, nan: true, ..PLAIN },
        Case { n: 48, out: Out::Static(Tiled128x4), bias: true, ..PLAIN },
        Case { n: 160, activation: SWIGLU, out: Out::Dynamic(Tiled128x4), ..PLAIN },
        Case { n: 544, activation: GPT_OSS, out: Out::Dynamic(Linear), a: codes, nan: true, ..PLAIN },
        Case {
            n: 96,
            activation: SWIGLU,
            out: Out::Dynamic(Tiled8x4),
            split: Split::Ends(&[2, 2, 21, 23], 25),
            a: codes,
            ..PLAIN
        },
        Case {
            n: 80,
            out: Out::Static(Tiled128x4),
            scope: Scope::Row,
            split: Split::Masked(&[1, 0, 4], 4),
            activation: Activation::Relu2,
            ..PLAIN
        },
        Case { n: 64, out: Out::Dynamic(Tiled8x4), split: Split::Strided(2, 9), ..PLAIN },
        Case { n: 64, out: Out::Static(Linear), scope: Scope::Group, split: Split::Shared(2, 3), ..PLAIN },
        // More tokens and rows than a task holds.
        Case { split: Split::One(267), n: 290, k: 32, ..PLAIN },
        Case { split: Split::One(521), n: 17, k: 48, a: codes, ..PLAIN },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        check(case, 1000 + i as u64);
    }
}

#[test]
fn random_shapes() {
    let mut random = Random(7);
    for i in 0..30 {
        let layouts = [Linear, Tiled128x4, Tiled8x4];
        let activation = [Activation::None, SWIGLU, Activation::Relu2][random.below(3)];
        let case = Case {
            split: Split::One(1 + random.below(36)),
            n: (1 + random.below(150)) * 2,
            k: 16 * (1 + random.below(68)),
            a: [In::Bf16, In::F16, In::Codes(layouts[random.below(3)])][random.below(3)],
            scope: [Scope::Tensor, Scope::Row][random.below(2)],
            bias: random.below(2) == 0,
            activation,
            out: Out::Values([Dtype::Bf16, Dtype::F16, Dtype::F32][random.below(3)]),
            nan: random.below(4) == 0,
        };
        check(case, i);
    }
}

//! Cases of the product and the memory they run in: random operands, guarded buffers, problems.

use super::super::super::kernels::{Isa, Kernels};
use super::super::super::{Cpu, weights};
use super::super::{run, workspace_size};
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout::{self, Linear};
use crate::format::{BLOCK, e4m3};
use crate::plan::dequantize::QuantIn;
use crate::plan::gemm::{Activation, Activations, GemmOut, GemmProblem};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::quantize::{DecodeScales, QuantOut, Scales, Scope};
use crate::plan::weights::{PrepareProblem, Weights, WeightsShape, WeightsSource};

/// A processor with an instruction set's product, whether or not its row kernels exist.
pub fn cpu(isa: Isa, threads: usize) -> Cpu {
    let mut cpu = Cpu::new(threads, Some(isa)).unwrap();
    cpu.kernels = Box::leak(Box::new(Kernels { isa, ..*cpu.kernels }));
    cpu
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 33;
        x.wrapping_mul(0xFF51_AFD7_ED55_8CCD) >> 20
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// Roughly normal, times a power of two that varies a little.
    pub fn value(&mut self) -> f32 {
        let sum: i64 = (0..4).map(|_| (self.next() & 0xFFFF) as i64 - 0x8000).sum();
        sum as f32 / 32768.0 * [0.25, 1.0, 4.0][self.below(3)]
    }
}

#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(dead_code, reason = "read through a pointer")]
pub struct Line([u8; 64]);

/// Memory between guards, 64-byte aligned.
#[derive(Clone)]
pub struct Buffer {
    pub lines: Vec<Line>,
    pub len: usize,
    pub poison: u8,
}

impl Buffer {
    pub fn new(len: usize, poison: u8) -> Buffer {
        Buffer { lines: vec![Line([poison; 64]); len.div_ceil(64) + 2], len, poison }
    }
    pub fn of<T: Copy>(values: &[T]) -> Buffer {
        let mut buffer = Buffer::new(size_of_val(values), 0xEE);
        // SAFETY: plain numbers; the buffer is as long.
        unsafe { buffer.ptr::<T>().get_mut().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        buffer
    }
    pub fn ptr<T>(&mut self) -> Ptr<T> {
        Ptr::from_mut(self.lines[1..].as_mut_ptr().cast())
    }
    pub fn all(&self) -> &[u8] {
        // SAFETY: lines are bytes without gaps.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 64) }
    }
    pub fn bytes(&self) -> &[u8] {
        &self.all()[64..64 + self.len]
    }
    pub fn floats(&self) -> Vec<f32> {
        self.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    pub fn assert_guarded(&self, what: &str) {
        let (before, after) = (&self.all()[..64], &self.all()[64 + self.len..]);
        assert!(before.iter().chain(after).all(|&b| b == self.poison), "{what}: a guard was overwritten");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Split {
    One(usize),
    Ends(&'static [i32], usize),
    Masked(&'static [i32], usize),
    Strided(usize, usize),
    /// Strided, all groups on the same rows.
    Shared(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum In {
    Bf16,
    F16,
    Codes(ScaleLayout),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Out {
    Values(Dtype),
    Accumulate(Dtype),
    Static(ScaleLayout),
    Dynamic(ScaleLayout),
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub split: Split,
    pub n: usize,
    pub k: usize,
    pub a: In,
    pub scope: Scope,
    pub bias: bool,
    pub activation: Activation,
    pub out: Out,
    /// NaN scales here and there.
    pub nan: bool,
}

/// Everything a case reads.
pub struct Data {
    pub index: Buffer,
    pub a: Buffer,
    pub a_scales: Buffer,
    pub a_decode: Buffer,
    pub bias: Buffer,
    pub codes: Vec<u8>,
    pub scales: Vec<u8>,
    pub decode: Vec<f32>,
    pub static_decode: Buffer,
    pub row_gap: usize,
    /// Behind every strided group.
    pub group_gap: usize,
}

impl Case {
    pub fn groups(&self, index: &mut Buffer) -> Groups {
        match self.split {
            Split::One(rows) => Groups::None { rows },
            Split::Ends(ends, rows) => Groups::Ends { ends: index.ptr(), count: ends.len(), rows },
            Split::Masked(counts, max_rows) => {
                Groups::Masked { counts: index.ptr(), count: counts.len(), max_rows }
            }
            Split::Strided(count, rows) | Split::Shared(count, rows) => Groups::Strided { count, rows },
        }
    }

    pub fn gated(&self) -> bool {
        matches!(self.activation, Activation::SwiGlu(_))
    }

    pub fn out_cols(&self) -> usize {
        if self.gated() { self.n / 2 } else { self.n }
    }

    pub fn shape(&self, groups: usize) -> WeightsShape {
        WeightsShape { groups, rows: self.n, cols: self.k, gate_up: self.gated() }
    }

    pub fn data(&self, seed: u64) -> Data {
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
        let group_gap = if let Split::Strided(..) = self.split { 32 } else { 0 };
        let (a, a_scales) = match self.a {
            In::Codes(layout) => {
                let codes: Vec<u8> = (0..rows * (self.k / 2 + row_gap) + count * group_gap)
                    .map(|_| random.next() as u8)
                    .collect();
                let rows = groups.scale_rows(layout.tile_rows());
                let scales: Vec<u8> =
                    (0..rows * blocks.next_multiple_of(4)).map(|_| scale(&mut random)).collect();
                (Buffer::of(&codes), Buffer::of(&scales))
            }
            dtype => {
                let dtype = if dtype == In::F16 { Dtype::F16 } else { Dtype::Bf16 };
                let elements = rows * (self.k + row_gap) + count * group_gap;
                let mut a = Buffer::new(elements * 2, 0xEE);
                for i in 0..elements {
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
            group_gap,
        }
    }

    pub fn activations(&self, data: &mut Data) -> Activations {
        let rows = match self.split {
            Split::Strided(_, rows) => rows,
            _ => 0,
        };
        let shared = matches!(self.split, Split::Shared(..));
        let stride = |row: usize| if shared { 0 } else { rows * row + data.group_gap };
        let row = data.row_gap + if let In::Codes(_) = self.a { self.k / 2 } else { self.k };
        let group_stride = stride(row);
        let (scope, decode) = (self.scope, data.a_decode.ptr());
        match self.a {
            In::Codes(layout) => Activations::Codes(QuantIn {
                codes: data.a.ptr(),
                codes_row_stride: row,
                codes_group_stride: group_stride,
                scales: Scales { base: data.a_scales.ptr(), layout, row_stride: self.k / BLOCK },
                scope,
                decode,
            }),
            dtype => {
                let dtype = if dtype == In::F16 { Dtype::F16 } else { Dtype::Bf16 };
                let a = Matrix { base: data.a.ptr(), dtype, row_stride: row, group_stride };
                Activations::Values { a, scope, decode }
            }
        }
    }

    /// Every byte that a run leaves in its outputs: values, or codes, scales and decode scales.
    pub fn run(&self, cpu: &Cpu, data: &mut Data, poison: u8) -> Vec<Buffer> {
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
                let (count, gap) = (groups.count(), data.group_gap);
                outs.push(Buffer::new((rows * stride + count * gap) * dtype.bytes(), poison));
                let group_stride = rows / count.max(1) * stride + gap;
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
            batch_invariant: false,
            dependent_launch: false,
            workspace: Ptr::NULL,
            plan: None,
        };
        let mut workspace = Buffer::new(workspace_size(cpu, &p).unwrap(), poison);
        p.workspace = workspace.ptr();
        unsafe { run(cpu, &p) };
        workspace.assert_guarded("workspace");
        outs.iter().for_each(|out| out.assert_guarded("output"));
        outs
    }

    /// Index of an output row with this many elements to the next.
    pub fn out_row(&self, data: &Data, span: &Span, r: usize, stride: usize) -> usize {
        (span.first_row + r) * stride + span.group * data.group_gap
    }

    pub fn spans(&self, data: &mut Data, tile_rows: usize) -> Vec<Span> {
        let groups = self.groups(&mut data.index);
        // SAFETY: the index array is in `data`.
        unsafe { groups.spans(tile_rows) }.collect()
    }
}

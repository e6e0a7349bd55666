//! Where rows come from: plain values, weights stored [K, N], RMSNorm with what precedes it, gated activations.
//!
//! A source hands out rows in chunks of at most [`CHUNK`] values. The first look at a row has side effects (the
//! residual is updated, copies are written); later looks give the same values and touch nothing.

use std::ops::Range;

use super::kernels::{AHEAD, Aligned, CHUNK, Kernels, prefetch};
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::format::math::{self, PairSum};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Vector};
use crate::plan::quantize::{GatedActivation, HyperConnection, Norm, NormInput};

/// Rows that a strip has at most: what lies side by side in a cache line of halves.
pub const STRIP_ROWS: usize = 32;

/// A producer of rows, a strip of them at a time. All addresses inside are vouched for by the caller of the operation.
pub trait Source: Sync {
    /// What is known of a strip before its values are asked for.
    type Strip;
    /// Rows of a strip, except the last one of a group or task.
    const STRIP: usize = 1;
    /// Rows lie in memory as they are: `stored` tells where.
    const STORED: bool = false;

    fn begin(&self, kernels: &Kernels, span: &Span, rows: Range<usize>, first: bool) -> Self::Strip;

    /// Values from column `col` on, as many of each row, one row after another. `first`: write the optional copies too.
    fn chunk(&self, kernels: &Kernels, strip: &Self::Strip, col: usize, out: &mut [f32], first: bool);

    fn stored(&self, _: &Span, _: usize) -> Option<Stored> {
        None
    }
}

/// A row in memory.
pub struct Stored {
    pub dtype: Dtype,
    pub base: *const u8,
}

impl Stored {
    /// Address of the value in a column.
    pub fn at(&self, col: usize) -> *const u8 {
        self.base.wrapping_add(col * self.dtype.bytes())
    }
}

pub struct PlainSource {
    pub groups: Groups,
    pub src: Matrix,
}

impl Source for PlainSource {
    type Strip = usize;
    const STORED: bool = true;

    fn begin(&self, _: &Kernels, span: &Span, rows: Range<usize>, _: bool) -> usize {
        self.src.row(&self.groups, span, rows.start)
    }

    fn chunk(&self, kernels: &Kernels, row: &usize, col: usize, out: &mut [f32], _: bool) {
        read(kernels, &self.src, row + col, out);
    }

    fn stored(&self, span: &Span, r: usize) -> Option<Stored> {
        let row = self.src.row(&self.groups, span, r) * self.src.dtype.bytes();
        Some(Stored { dtype: self.src.dtype, base: self.src.base.get().wrapping_add(row) })
    }
}

pub struct TransposedSource {
    pub groups: Groups,
    pub src: Matrix,
}

pub struct Columns {
    first: usize,
    count: usize,
}

impl Source for TransposedSource {
    type Strip = Columns;
    const STRIP: usize = STRIP_ROWS;

    fn begin(&self, _: &Kernels, span: &Span, rows: Range<usize>, _: bool) -> Columns {
        let first = match self.groups {
            Groups::Strided { .. } => span.group * self.src.group_stride,
            _ => span.first_row,
        };
        Columns { first: first + rows.start, count: rows.len() }
    }

    fn chunk(&self, kernels: &Kernels, columns: &Columns, col: usize, out: &mut [f32], _: bool) {
        let (width, n) = (columns.count, out.len() / columns.count);
        let mut lines = Aligned::<{ BLOCK * STRIP_ROWS }>::ZERO;
        let lines = &mut lines.0[..BLOCK * width];
        let bytes = self.src.dtype.bytes();
        for k in (0..n).step_by(BLOCK) {
            for (i, line) in lines.chunks_mut(width).enumerate() {
                let at = columns.first + (col + k + i) * self.src.row_stride;
                let from = self.src.base.get().wrapping_add(at * bytes);
                prefetch(from.wrapping_add(BLOCK * self.src.row_stride * bytes), width * bytes);
                // SAFETY: elements (col + k + i, first …) of the stored matrix; the table was checked.
                unsafe { (kernels.widen)(self.src.dtype, from, line) };
            }
            // SAFETY: the table was checked against this processor.
            unsafe { (kernels.transpose)(lines, width, &mut out[k..], n) };
        }
    }
}

pub struct NormSource {
    pub cols: usize,
    pub input: NormInput,
    pub norm: Norm,
}

pub struct NormRow {
    r: usize,
    inv: f32,
}

impl Source for NormSource {
    type Strip = NormRow;

    fn begin(&self, kernels: &Kernels, span: &Span, rows: Range<usize>, first: bool) -> NormRow {
        let r = span.first_row + rows.start;
        let mut pairs = PairSum::default();
        let (mut chunk, mut sums) = (Aligned::<CHUNK>::ZERO, [0f32; CHUNK / BLOCK]);
        for col in (0..self.cols).step_by(CHUNK) {
            let n = CHUNK.min(self.cols - col);
            let chunk = &mut chunk.0[..n];
            self.input_chunk(kernels, r, col, chunk, first);
            // SAFETY: the table was checked against this processor.
            unsafe { (kernels.square_sums)(chunk, &mut sums[..n / BLOCK]) };
            // Every chunk but the last is full, so that sixteens follow upon sixteens.
            let (sixteens, rest) = sums[..n / BLOCK].as_chunks::<16>();
            sixteens.iter().for_each(|sums| pairs.push_16(sums));
            rest.iter().for_each(|&sum| pairs.push(sum));
        }
        let inv = math::inverse_rms(pairs.total(), self.cols, self.norm.eps);
        if let (true, Some(out)) = (first, self.norm.inv_rms) {
            // SAFETY: the array has one entry a row.
            unsafe { out.get_mut().add(r).write(inv) };
        }
        NormRow { r, inv }
    }

    fn chunk(&self, kernels: &Kernels, row: &NormRow, col: usize, out: &mut [f32], first: bool) {
        let mut weight = Aligned::<CHUNK>::ZERO;
        let weight = &mut weight.0[..out.len()];
        // `begin` has updated the residual: from here on x is what stands there.
        self.input_chunk(kernels, row.r, col, out, false);
        // SAFETY: the weight has `cols` elements; the table was checked against this processor.
        unsafe {
            (kernels.widen)(self.norm.weight.dtype, element(&self.norm.weight, col), weight);
            (kernels.scale_rows)(out, row.inv, weight, self.norm.weight_offset);
            (kernels.round)(self.dtype(), out);
        }
        if let (true, Some(normed)) = (first, &self.norm.normed) {
            write(kernels, normed, row.r * normed.row_stride + col, out);
        }
    }
}

impl NormSource {
    fn dtype(&self) -> Dtype {
        match &self.input {
            NormInput::Rows { src, .. } => src.dtype,
            NormInput::Hyper(hc) => hc.streams.dtype,
        }
    }

    /// The values that are normalised. `first`: make them (and store what is stored); else only read or repeat them.
    fn input_chunk(&self, kernels: &Kernels, r: usize, col: usize, out: &mut [f32], first: bool) {
        match &self.input {
            NormInput::Rows { src, residual: None } => read(kernels, src, r * src.row_stride + col, out),
            NormInput::Rows { src, residual: Some(residual) } => {
                let at = r * residual.row_stride + col;
                read(kernels, residual, at, out);
                if first {
                    let mut x = Aligned::<CHUNK>::ZERO;
                    let x = &mut x.0[..out.len()];
                    read(kernels, src, r * src.row_stride + col, x);
                    // SAFETY: the table was checked against this processor.
                    unsafe {
                        (kernels.add)(out, x);
                        (kernels.round)(residual.dtype, out);
                    }
                    write(kernels, residual, at, out);
                }
            }
            NormInput::Hyper(hc) => {
                mix(kernels, hc, r, col, out);
                if let (true, Some(mixed)) = (first, &hc.mixed) {
                    write(kernels, mixed, r * mixed.row_stride + col, out);
                }
            }
        }
    }
}

/// x = round(Σ_l mix[r, l] · stream_l[r]).
fn mix(kernels: &Kernels, hc: &HyperConnection, r: usize, col: usize, out: &mut [f32]) {
    let mut x = Aligned::<CHUNK>::ZERO;
    let x = &mut x.0[..out.len()];
    for l in 0..hc.count {
        read(kernels, &hc.streams, r * hc.streams.row_stride + l * hc.stream_stride + col, x);
        // SAFETY: mix has `count` floats a row; the table was checked against this processor.
        unsafe {
            let weight = hc.mix.get().add(r * hc.mix_row_stride + l).read_unaligned();
            if l == 0 {
                (kernels.mix_first)(weight, x, out);
            } else {
                (kernels.mix_more)(weight, x, out);
            }
        }
    }
    // SAFETY: the table was checked against this processor.
    unsafe { (kernels.round)(hc.streams.dtype, out) };
}

pub struct GatedSource {
    pub groups: Groups,
    /// Columns after the activation.
    pub cols: usize,
    pub src: Matrix,
    /// Gate and up alternate every 8 columns.
    pub interleaved: bool,
    pub activation: GatedActivation,
    pub activated: Option<Matrix>,
}

/// Columns of gate, then of up, that alternate in the interleaved form.
const INTERLEAVE: usize = 8;

pub struct GatedRow {
    src: usize,
    copy: usize,
}

impl Source for GatedSource {
    type Strip = GatedRow;

    fn begin(&self, _: &Kernels, span: &Span, rows: Range<usize>, _: bool) -> GatedRow {
        let r = rows.start;
        let copy = self.activated.map_or(0, |m| (span.first_row + r) * m.row_stride);
        GatedRow { src: self.src.row(&self.groups, span, r), copy }
    }

    fn chunk(&self, kernels: &Kernels, row: &GatedRow, col: usize, out: &mut [f32], first: bool) {
        match &self.activation {
            GatedActivation::SwiGlu(p) => {
                let mut up = Aligned::<CHUNK>::ZERO;
                let up = &mut up.0[..out.len()];
                if self.interleaved {
                    self.pairs(kernels, row, col, out, up);
                } else {
                    read(kernels, &self.src, row.src + col, out);
                    read(kernels, &self.src, row.src + self.cols + col, up);
                }
                // SAFETY: the table was checked against this processor.
                unsafe { (kernels.swiglu)(out, up, p) };
            }
            GatedActivation::Relu2 => {
                read(kernels, &self.src, row.src + col, out);
                // SAFETY: as above.
                unsafe { (kernels.relu2)(out) };
            }
            GatedActivation::Identity => {
                let width = self.cols / 2;
                // A chunk may straddle the border between gate and up.
                let gate = width.saturating_sub(col).min(out.len());
                if !self.interleaved {
                    read(kernels, &self.src, row.src + col, out);
                } else {
                    let mut unused = [0f32; CHUNK];
                    let (low, high) = out.split_at_mut(gate);
                    self.pairs(kernels, row, col, low, &mut unused[..gate]);
                    let up = (col + gate).saturating_sub(width);
                    let n = high.len();
                    self.pairs(kernels, row, up, &mut unused[..n], high);
                }
            }
        }
        // SAFETY: as above.
        unsafe { (kernels.round)(self.src.dtype, out) };
        if let (true, Some(copy)) = (first, &self.activated) {
            write(kernels, copy, row.copy + col, out);
        }
    }
}

impl GatedSource {
    /// Columns from `col` on of interleaved gate and up: whole runs of 8 each.
    fn pairs(&self, kernels: &Kernels, row: &GatedRow, col: usize, gate: &mut [f32], up: &mut [f32]) {
        let mut mixed = Aligned::<{ 2 * CHUNK }>::ZERO;
        let mixed = &mut mixed.0[..2 * gate.len()];
        read(kernels, &self.src, row.src + 2 * col, mixed);
        let runs = gate.as_chunks_mut::<INTERLEAVE>().0.iter_mut().zip(up.as_chunks_mut::<INTERLEAVE>().0);
        for ((gate, up), mixed) in runs.zip(mixed.as_chunks::<{ 2 * INTERLEAVE }>().0) {
            gate.copy_from_slice(&mixed[..INTERLEAVE]);
            up.copy_from_slice(&mixed[INTERLEAVE..]);
        }
    }
}

fn element(vector: &Vector, i: usize) -> *const u8 {
    vector.base.get().wrapping_add(i * vector.dtype.bytes())
}

fn read(kernels: &Kernels, m: &Matrix, at: usize, out: &mut [f32]) {
    // A few lines at a time, as many as may be on their way at once.
    const PART: usize = 256;
    let bytes = m.dtype.bytes();
    for (i, part) in out.chunks_mut(PART).enumerate() {
        let from = m.base.get().wrapping_add((at + i * PART) * bytes);
        prefetch(from.wrapping_add(AHEAD), part.len() * bytes);
        // SAFETY: the caller of the operation vouches for the matrix; the table was checked against this processor.
        unsafe { (kernels.widen)(m.dtype, from, part) };
    }
}

fn write(kernels: &Kernels, m: &Matrix, at: usize, x: &[f32]) {
    // SAFETY: as above, and every row has one writer.
    unsafe { (kernels.narrow)(m.dtype, x, m.base.get_mut().add(at * m.dtype.bytes())) };
}

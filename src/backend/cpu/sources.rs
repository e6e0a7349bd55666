//! Where rows come from: plain values, weights stored [K, N], RMSNorm with what precedes it, gated activations.
//!
//! A source hands out a row in chunks of at most [`CHUNK`] values. The first look at a row has side effects (the
//! residual is updated, copies are written); later looks give the same values and touch nothing.

use super::kernels::{CHUNK, Kernels};
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::format::math::{self, PairSum};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Vector};
use crate::plan::quantize::{GatedActivation, HyperConnection, Norm, NormInput};

/// A producer of rows. All addresses inside are vouched for by the caller of the operation.
pub trait Source: Sync {
    /// What is known of a row before its values are asked for.
    type Row;

    fn begin(&self, kernels: &Kernels, span: &Span, r: usize, first: bool) -> Self::Row;

    /// Values from column `col` on. `first`: write the optional copies too.
    fn chunk(&self, kernels: &Kernels, row: &Self::Row, col: usize, out: &mut [f32], first: bool);
}

pub struct PlainSource {
    pub groups: Groups,
    pub src: Matrix,
}

impl Source for PlainSource {
    type Row = usize;

    fn begin(&self, _: &Kernels, span: &Span, r: usize, _: bool) -> usize {
        self.src.row(&self.groups, span, r)
    }

    fn chunk(&self, kernels: &Kernels, row: &usize, col: usize, out: &mut [f32], _: bool) {
        read(kernels, &self.src, row + col, out);
    }
}

pub struct TransposedSource {
    pub groups: Groups,
    pub src: Matrix,
}

impl Source for TransposedSource {
    type Row = usize;

    fn begin(&self, _: &Kernels, span: &Span, r: usize, _: bool) -> usize {
        match self.groups {
            Groups::Strided { .. } => span.group * self.src.group_stride + r,
            _ => span.first_row + r,
        }
    }

    fn chunk(&self, _: &Kernels, row: &usize, col: usize, out: &mut [f32], _: bool) {
        for (i, v) in out.iter_mut().enumerate() {
            // SAFETY: element (col + i, r) of the stored matrix.
            *v = unsafe { self.src.dtype.load(self.src.base.get(), row + (col + i) * self.src.row_stride) };
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
    type Row = NormRow;

    fn begin(&self, kernels: &Kernels, span: &Span, r: usize, first: bool) -> NormRow {
        let r = span.first_row + r;
        let mut pairs = PairSum::default();
        let (mut chunk, mut sums) = ([0f32; CHUNK], [0f32; CHUNK / BLOCK]);
        for col in (0..self.cols).step_by(CHUNK) {
            let n = CHUNK.min(self.cols - col);
            let chunk = &mut chunk[..n];
            self.input_chunk(kernels, r, col, chunk, first);
            // SAFETY: the table was checked against this processor.
            unsafe { (kernels.square_sums)(chunk, &mut sums[..n / BLOCK]) };
            sums[..n / BLOCK].iter().for_each(|&s| pairs.push(s));
        }
        let inv = math::inverse_rms(pairs.total(), self.cols, self.norm.eps);
        if let (true, Some(out)) = (first, self.norm.inv_rms) {
            // SAFETY: the array has one entry a row.
            unsafe { out.get_mut().add(r).write(inv) };
        }
        NormRow { r, inv }
    }

    fn chunk(&self, kernels: &Kernels, row: &NormRow, col: usize, out: &mut [f32], first: bool) {
        let mut weight = [0f32; CHUNK];
        let weight = &mut weight[..out.len()];
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
                    let mut x = [0f32; CHUNK];
                    let x = &mut x[..out.len()];
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
    let mut x = [0f32; CHUNK];
    let x = &mut x[..out.len()];
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
    type Row = GatedRow;

    fn begin(&self, _: &Kernels, span: &Span, r: usize, _: bool) -> GatedRow {
        let copy = self.activated.map_or(0, |m| (span.first_row + r) * m.row_stride);
        GatedRow { src: self.src.row(&self.groups, span, r), copy }
    }

    fn chunk(&self, kernels: &Kernels, row: &GatedRow, col: usize, out: &mut [f32], first: bool) {
        match &self.activation {
            GatedActivation::SwiGlu(p) => {
                let mut up = [0f32; CHUNK];
                let up = &mut up[..out.len()];
                self.half(kernels, row, false, self.cols, col, out);
                self.half(kernels, row, true, self.cols, col, up);
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
                let (low, high) = out.split_at_mut(gate);
                self.half(kernels, row, false, width, col, low);
                self.half(kernels, row, true, width, (col + gate).saturating_sub(width), high);
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
    /// Columns from `col` on of gate (or up), each `width` columns wide.
    fn half(&self, kernels: &Kernels, row: &GatedRow, up: bool, width: usize, col: usize, out: &mut [f32]) {
        if !self.interleaved {
            return read(kernels, &self.src, row.src + up as usize * width + col, out);
        }
        let mut col = col;
        let mut out = out;
        while !out.is_empty() {
            let n = (INTERLEAVE - col % INTERLEAVE).min(out.len());
            let at = col / INTERLEAVE * 2 * INTERLEAVE + up as usize * INTERLEAVE + col % INTERLEAVE;
            let (head, tail) = out.split_at_mut(n);
            read(kernels, &self.src, row.src + at, head);
            (out, col) = (tail, col + n);
        }
    }
}

fn element(vector: &Vector, i: usize) -> *const u8 {
    vector.base.get().wrapping_add(i * vector.dtype.bytes())
}

fn read(kernels: &Kernels, m: &Matrix, at: usize, out: &mut [f32]) {
    // SAFETY: the caller of the operation vouches for the matrix; the table was checked against this processor.
    unsafe { (kernels.widen)(m.dtype, m.base.get().add(at * m.dtype.bytes()), out) };
}

fn write(kernels: &Kernels, m: &Matrix, at: usize, x: &[f32]) {
    // SAFETY: as above, and every row has one writer.
    unsafe { (kernels.narrow)(m.dtype, x, m.base.get_mut().add(at * m.dtype.bytes())) };
}

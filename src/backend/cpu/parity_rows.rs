//! Whole quantizing calls against the contract written out row by row: producers, groups, scopes, layouts.

use super::kernels::Isa;
use super::{Cpu, rows};
use crate::format::BLOCK;
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::format::math::{self, SwiGlu};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::quantize::*;

const POISON: u8 = 0xA5;
const DTYPE: Dtype = Dtype::Bf16;
const SWIGLU: SwiGlu = SwiGlu { limit: 7.0, alpha: 1.702, beta: 1.0 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain(Dtype),
    Transposed,
    Norm { residual: bool },
    Hyper,
    SwiGlu { interleaved: bool },
    Relu2,
    Identity { interleaved: bool },
}

/// Values of any dtype in memory, addressed as the calls address them.
struct Values {
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Values {
    fn new(dtype: Dtype, n: usize, seed: u32) -> Values {
        let mut bytes = vec![0u8; n * dtype.bytes()];
        let mut state = seed;
        for i in 0..n {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let v = ((state >> 8) as f32 / 8_388_608.0 - 1.0) * 3.0;
            let v = if state.is_multiple_of(5000) { f32::INFINITY } else { v };
            // SAFETY: the buffer holds n elements.
            unsafe { dtype.store(bytes.as_mut_ptr(), i, v) };
        }
        Values { dtype, bytes }
    }

    fn get(&self, i: usize) -> f32 {
        // SAFETY: element i is inside; a test that asks for more reads past its own vector and must not.
        assert!((i + 1) * self.dtype.bytes() <= self.bytes.len());
        unsafe { self.dtype.load(self.bytes.as_ptr(), i) }
    }

    fn matrix(&self, row_stride: usize, group_stride: usize) -> Matrix {
        Matrix { base: Ptr::new(self.bytes.as_ptr()), dtype: self.dtype, row_stride, group_stride }
    }
}

struct Inputs {
    src: Values,
    residual: Values,
    weight: Values,
    mix: Vec<f32>,
    stride: usize,
    group_stride: usize,
}

const STREAMS: usize = 3;

impl Inputs {
    fn new(kind: Kind, groups: &Groups, cols: usize) -> Inputs {
        let total = groups.total_rows();
        let dtype = if let Kind::Plain(dtype) = kind { dtype } else { DTYPE };
        // Strides that are no multiple of anything.
        let (stride, lines) = match kind {
            Kind::Transposed => (total + 3, cols * groups.count()),
            Kind::Hyper => (STREAMS * cols + 5, total),
            _ => (2 * cols + 5, total),
        };
        let group_stride = match (kind, groups) {
            (Kind::Transposed, _) => cols * stride,
            (_, Groups::Strided { rows, .. }) => rows * stride,
            _ => 0,
        };
        Inputs {
            src: Values::new(dtype, stride * lines + 64, 1),
            residual: Values::new(dtype, total * cols, 2),
            weight: Values::new(dtype, cols, 3),
            mix: (0..total * STREAMS).map(|i| (i % 7) as f32 * 0.25 - 0.5).collect(),
            stride,
            group_stride,
        }
    }

    fn producer(&self, kind: Kind) -> Producer {
        let src = self.src.matrix(self.stride, self.group_stride);
        let norm = Norm {
            weight: Vector { base: Ptr::new(self.weight.bytes.as_ptr()), dtype: DTYPE },
            weight_offset: 1.0,
            eps: 1e-5,
            normed: None,
            inv_rms: None,
        };
        let cols = self.weight.bytes.len() / self.weight.dtype.bytes();
        let gated = |interleaved, activation| Producer::Gated { src, interleaved, activation };
        match kind {
            Kind::Plain(_) => Producer::Plain { src },
            Kind::Transposed => Producer::Transposed { src },
            Kind::Norm { residual } => {
                let residual = residual.then(|| self.residual.matrix(cols, 0));
                Producer::Norm { input: NormInput::Rows { src, residual }, norm }
            }
            Kind::Hyper => {
                let mix = Ptr::new(self.mix.as_ptr());
                let (stream_stride, count, mix_row_stride) = (cols, STREAMS, STREAMS);
                let hyper =
                    HyperConnection { streams: src, stream_stride, count, mix, mix_row_stride, mixed: None };
                Producer::Norm { input: NormInput::Hyper(hyper), norm }
            }
            Kind::SwiGlu { interleaved } => gated(interleaved, GatedActivation::SwiGlu(SWIGLU)),
            Kind::Relu2 => gated(false, GatedActivation::Relu2),
            Kind::Identity { interleaved } => gated(interleaved, GatedActivation::Identity),
        }
    }

    /// One row as the contract defines it.
    fn row(&self, kind: Kind, groups: &Groups, span: &Span, r: usize, cols: usize) -> Vec<f32> {
        let logical = span.first_row + r;
        let strided = matches!(groups, Groups::Strided { .. });
        let base = match kind {
            Kind::Transposed if strided => span.group * self.group_stride + r,
            Kind::Transposed => logical,
            _ if strided => span.group * self.group_stride + r * self.stride,
            _ => logical * self.stride,
        };
        let x = |i: usize| self.src.get(base + i);
        let normalised = |x: Vec<f32>| -> Vec<f32> {
            let mut pairs = math::PairSum::default();
            x.chunks(BLOCK).for_each(|b| pairs.push(math::block_square_sum(b)));
            let inv = math::inverse_rms(pairs.total(), cols, 1e-5);
            x.iter().enumerate().map(|(i, v)| DTYPE.round((v * inv) * (self.weight.get(i) + 1.0))).collect()
        };
        let pair = |i: usize, width: usize, up: usize, interleaved: bool| match interleaved {
            true => x(i / 8 * 16 + up * 8 + i % 8),
            false => x(up * width + i),
        };
        match kind {
            Kind::Plain(_) => (0..cols).map(x).collect(),
            Kind::Transposed => (0..cols).map(|i| self.src.get(base + i * self.stride)).collect(),
            Kind::Norm { residual: false } => normalised((0..cols).map(x).collect()),
            Kind::Norm { residual: true } => {
                let old = |i: usize| self.residual.get(logical * cols + i);
                normalised((0..cols).map(|i| DTYPE.round(old(i) + x(i))).collect())
            }
            Kind::Hyper => normalised(
                (0..cols)
                    .map(|i| {
                        let mix = &self.mix[logical * STREAMS..];
                        let first = mix[0] * x(i);
                        DTYPE
                            .round((1..STREAMS).fold(first, |acc, l| math::fma(mix[l], x(l * cols + i), acc)))
                    })
                    .collect(),
            ),
            Kind::SwiGlu { interleaved } => (0..cols)
                .map(|i| (pair(i, cols, 0, interleaved), pair(i, cols, 1, interleaved)))
                .map(|(gate, up)| DTYPE.round(math::swiglu(gate, up, &SWIGLU)))
                .collect(),
            Kind::Relu2 => (0..cols).map(|i| DTYPE.round(math::relu2(x(i)))).collect(),
            Kind::Identity { interleaved } => (0..cols)
                .map(|i| DTYPE.round(pair(i % (cols / 2), cols / 2, i / (cols / 2), interleaved)))
                .collect(),
        }
    }
}

/// Codes, scales and decode scales of a call.
#[derive(PartialEq)]
struct Output {
    codes: Vec<u8>,
    scales: Vec<u8>,
    decode: Vec<f32>,
}

impl Output {
    fn poisoned(groups: &Groups, cols: usize, layout: ScaleLayout, decode: f32) -> Output {
        let scale_rows = groups.scale_rows(layout.tile_rows());
        Output {
            codes: vec![POISON; groups.total_rows() * cols / 2 + 64],
            scales: vec![POISON; scale_rows * (cols / BLOCK).next_multiple_of(4) + 64],
            decode: vec![decode; groups.total_rows().max(groups.count())],
        }
    }

    fn expected(
        groups: &Groups,
        cols: usize,
        layout: ScaleLayout,
        scope: Scope,
        given: Option<f32>,
        row: impl Fn(&Span, usize) -> Vec<f32>,
    ) -> Output {
        let mut out = Output::poisoned(groups, cols, layout, given.unwrap_or(0.0));
        let blocks = cols / BLOCK;
        // SAFETY: the index arrays are vectors of the test.
        let spans: Vec<Span> = unsafe { groups.spans(layout.tile_rows()) }.collect();
        let rows: Vec<Vec<Vec<f32>>> =
            spans.iter().map(|s| (0..s.rows).map(|r| row(s, r)).collect()).collect();
        let mut amax = vec![0f32; out.decode.len()];
        for (span, rows) in spans.iter().zip(&rows) {
            for (r, x) in rows.iter().enumerate() {
                let slot = &mut amax[rows::scope_index(scope, span, r)];
                *slot = x.iter().filter(|v| v.is_finite()).fold(*slot, |m, v| m.max(v.abs()));
            }
        }
        for (span, rows) in spans.iter().zip(&rows) {
            for (r, x) in rows.iter().enumerate() {
                let index = rows::scope_index(scope, span, r);
                let encode = given.map_or(Encode::from_amax(amax[index]), Encode::from_static);
                for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let codes = &mut out.codes[(span.first_row + r) * cols / 2 + b * 8..];
                    let (byte, _) = block::quantize(x, &encode, ScaleRule::Amax, codes);
                    let at = match layout.is_tiled() {
                        true => layout.tiled_offset(span.first_scale_row + r, b, blocks),
                        false => (span.first_row + r) * blocks + b,
                    };
                    out.scales[at] = byte;
                }
                if given.is_none() && scope == Scope::Row {
                    out.decode[index] = block::decode_scale_from_amax(amax[index]);
                }
            }
            let padded = span.rows.next_multiple_of(layout.tile_rows());
            for (r, b) in (0..padded).flat_map(|r| (0..blocks.next_multiple_of(4)).map(move |b| (r, b))) {
                if layout.is_tiled() && (r >= span.rows || b >= blocks) {
                    out.scales[layout.tiled_offset(span.first_scale_row + r, b, blocks)] = 0;
                }
            }
        }
        if given.is_none() && scope != Scope::Row {
            let count = if scope == Scope::Tensor { 1 } else { groups.count() };
            for (slot, &amax) in out.decode[..count].iter_mut().zip(&amax) {
                *slot = block::decode_scale_from_amax(amax);
            }
        }
        out
    }
}

fn check(kind: Kind, groups: Groups, cols: usize, layout: ScaleLayout, scope: Scope, given: Option<f32>) {
    let inputs = Inputs::new(kind, &groups, cols);
    let row = |span: &Span, r: usize| inputs.row(kind, &groups, span, r, cols);
    let expected = Output::expected(&groups, cols, layout, scope, given, row);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for threads in [1, 3] {
            // The residual is written to: every run gets its own.
            let inputs = Inputs::new(kind, &groups, cols);
            let mut out = Output::poisoned(&groups, cols, layout, given.unwrap_or(0.0));
            let decode = Ptr::from_mut(out.decode.as_mut_ptr());
            let problem = QuantizeProblem {
                groups,
                cols,
                producer: inputs.producer(kind),
                activated: None,
                out: Some(QuantOut {
                    codes: Ptr::from_mut(out.codes.as_mut_ptr()),
                    codes_row_stride: cols / 2,
                    scales: Scales {
                        base: Ptr::from_mut(out.scales.as_mut_ptr()),
                        layout,
                        row_stride: cols / BLOCK,
                    },
                    rule: ScaleRule::Amax,
                    scope,
                    decode: match given {
                        Some(_) => DecodeScales::Static(decode),
                        None => DecodeScales::Dynamic(decode),
                    },
                }),
                amax: None,
            };
            let cpu = Cpu::new(threads, Some(isa)).unwrap();
            // SAFETY: the buffers cover the problem.
            unsafe { rows::run(&cpu, &problem) };
            let what = format!(
                "{kind:?} {groups:?} cols {cols} {layout:?} {scope:?} {given:?} on {} × {threads}",
                isa.name()
            );
            assert!(out.scales == expected.scales, "scales of {what}");
            assert!(out.codes == expected.codes, "codes of {what}");
            assert_eq!(out.decode, expected.decode, "decode scales of {what}");
        }
    }
}

const KINDS: [Kind; 12] = [
    Kind::Plain(Dtype::Bf16),
    Kind::Plain(Dtype::F16),
    Kind::Plain(Dtype::F32),
    Kind::Transposed,
    Kind::Norm { residual: false },
    Kind::Norm { residual: true },
    Kind::Hyper,
    Kind::SwiGlu { interleaved: false },
    Kind::SwiGlu { interleaved: true },
    Kind::Relu2,
    Kind::Identity { interleaved: false },
    Kind::Identity { interleaved: true },
];

const LAYOUTS: [ScaleLayout; 3] = [ScaleLayout::Linear, ScaleLayout::Tiled128x4, ScaleLayout::Tiled8x4];

#[test]
fn every_producer_quantizes_as_the_contract_says() {
    // Around chunks, around what is kept of a row, and columns that do not fill a tile.
    for (i, cols) in [16, 80, 272, 1024, 1040, 8192, 8208].into_iter().enumerate() {
        for (j, kind) in KINDS.into_iter().enumerate() {
            let layout = LAYOUTS[(i + j) % 3];
            let groups = Groups::None { rows: if cols > 1000 { 3 } else { 37 } };
            check(kind, groups, cols, layout, Scope::Tensor, Some(0.004));
            check(kind, groups, cols, layout, Scope::Row, None);
        }
    }
}

#[test]
fn every_split_into_groups_and_every_scope() {
    let ends = [3, 3, 70, 60, 140, 400];
    let counts = [5, 0, 40, 17];
    let splits = [
        Groups::Ends { ends: Ptr::new(ends.as_ptr()), count: ends.len(), rows: 150 },
        Groups::Masked { counts: Ptr::new(counts.as_ptr()), count: counts.len(), max_rows: 35 },
        Groups::Strided { count: 3, rows: 33 },
        Groups::None { rows: 130 },
        Groups::None { rows: 0 },
    ];
    for groups in splits {
        for kind in [Kind::Plain(Dtype::Bf16), Kind::Transposed, Kind::SwiGlu { interleaved: true }] {
            for layout in LAYOUTS {
                for scope in [Scope::Tensor, Scope::Group, Scope::Row] {
                    check(kind, groups, 48, layout, scope, None);
                    check(kind, groups, 48, layout, scope, Some(0.001));
                }
            }
        }
    }
}

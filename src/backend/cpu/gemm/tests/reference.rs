//! What a case must give: a float64 product with its bound, and codes that equal a separate quantization.

use super::super::super::{Cpu, rows};
use super::case::{Buffer, Case, In, Out, Split};
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout::Linear;
use crate::format::{BLOCK, e2m1, e4m3, math};
use crate::plan::gemm::Activation;
use crate::plan::groups::Span;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope};

use super::case::Data;

impl Case {
    fn a_row(&self, data: &Data, span: &Span, r: usize, row: usize) -> usize {
        match self.split {
            Split::Shared(..) => r * (row + data.row_gap),
            _ => self.out_row(data, span, r, row + data.row_gap),
        }
    }

    /// (exact v, bound of |v − exact|) of an output row in canonical weight order, in f64.
    pub fn exact(&self, data: &mut Data, span: &Span, r: usize) -> Vec<(f64, f64)> {
        let shared = matches!(self.split, Split::Shared(..));
        let (row, scale_row) = if shared { (r, r) } else { (span.first_row + r, span.first_scale_row + r) };
        let blocks = self.k / BLOCK;
        let a: Vec<f64> = (0..self.k)
            .map(|k| match self.a {
                In::Codes(layout) => {
                    let byte = data.a.bytes()[self.a_row(data, span, r, self.k / 2) + k / 2];
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
                    unsafe {
                        dtype.load(data.a.bytes().as_ptr(), self.a_row(data, span, r, self.k) + k) as f64
                    }
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
    pub fn check_values(&self, dtype: Dtype, data: &mut Data, out: &Buffer, old: f32) {
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
                    let at = self.out_row(data, &span, r, stride) + col;
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
    pub fn check_codes(&self, cpu: &Cpu, data: &mut Data, outs: &[Buffer]) {
        let (Out::Static(layout) | Out::Dynamic(layout)) = self.out else { unreachable!() };
        assert_eq!(data.row_gap, 0, "cases with codes have no gaps between output rows");
        let mut values = Case { out: Out::Values(Dtype::Bf16), ..*self }.run(cpu, data, outs[0].poison);
        let (groups, cols) = (self.groups(&mut data.index), self.out_cols());
        let mut want: Vec<Buffer> = outs.iter().map(|out| Buffer::new(out.len, out.poison)).collect();
        let (decode, scope) = match self.out {
            Out::Static(_) => (DecodeScales::Static(data.static_decode.ptr()), self.scope),
            _ => (DecodeScales::Dynamic(want[2].ptr()), Scope::Row),
        };
        let group_stride = groups.total_rows() / groups.count().max(1) * cols + data.group_gap;
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

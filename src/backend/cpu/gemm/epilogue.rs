//! Totals of a task → output rows: decode scales, bias, activation, rounding, as docs/numerics.md orders them.
//!
//! A row's part of the task is at most 256 weight rows wide, so that it stays on the stack between the steps.

use super::super::kernels::Kernels;
use super::super::weights::{LANES, Panels};
use super::kernel::ROWS;
use super::pack::Rows;
use super::workspace::Workspace;
use crate::format::dtype::Dtype;
use crate::plan::gemm::{Activation, GemmOut, GemmProblem};
use crate::plan::groups::Span;
use crate::plan::memory::Matrix;

/// The part of the product that a task holds.
pub struct Block<'a> {
    pub span: &'a Span,
    pub first_token: usize,
    pub tokens: usize,
    pub first_panel: usize,
    pub panel_count: usize,
}

pub struct Epilogue<'a> {
    p: &'a GemmProblem,
    panels: Panels,
    out: Matrix,
    accumulate: bool,
    /// What gate, up and the activation's result are rounded to.
    inner: Dtype,
}

impl<'a> Epilogue<'a> {
    pub fn new(p: &'a GemmProblem, workspace: &Workspace) -> Self {
        let (out, accumulate) = match p.out {
            GemmOut::Values { out, accumulate } => (out, accumulate),
            GemmOut::Codes(_) => (workspace.values(p), false),
        };
        let inner = if out.dtype == Dtype::F32 { Dtype::Bf16 } else { out.dtype };
        Epilogue { p, panels: Panels::new(&p.weights.shape), out, accumulate, inner }
    }

    /// # Safety
    /// The addresses of the problem are valid; `totals` holds [tokens][ROWS].
    pub unsafe fn write(&self, kernels: &Kernels, block: &Block, totals: *const f32) {
        let group = block.span.group;
        let rows = Rows::new(self.p, block.span);
        let width = block.panel_count * LANES;
        let mut bias = [0f32; ROWS];
        // SAFETY: the caller's promise, here and below; the kernels were checked against this processor.
        let g_b = unsafe { self.panels.decode_scale(self.p.weights.storage.get(), group) };
        if let Some(vector) = self.p.bias {
            for (i, bias) in bias[..width].iter_mut().enumerate() {
                if let Some(row) = self.panels.row(block.first_panel + i / LANES, i % LANES) {
                    *bias = unsafe { vector.get(group * self.panels.shape.rows + row) };
                }
            }
        }
        for token in 0..block.tokens {
            let r = block.first_token + token;
            let mut v = [0f32; ROWS];
            let v = &mut v[..width];
            unsafe {
                let g_a = rows.decode_scale(r);
                let totals = std::slice::from_raw_parts(totals.add(token * ROWS), width);
                v.iter_mut().zip(totals).for_each(|(v, total)| *v = (total * g_a) * g_b);
                if self.p.bias.is_some() {
                    v.iter_mut().zip(&bias).for_each(|(v, bias)| *v += bias);
                }
                self.write_row(kernels, block, r, v);
            }
        }
    }

    unsafe fn write_row(&self, kernels: &Kernels, block: &Block, r: usize, v: &mut [f32]) {
        let mut up = [0f32; ROWS / 2];
        let (first, v) = match self.p.activation {
            Activation::None => (block.first_panel * LANES, v),
            Activation::Relu2 => {
                // SAFETY: the kernels were checked against this processor.
                unsafe {
                    (kernels.round)(self.inner, v);
                    (kernels.relu2)(v);
                    (kernels.round)(self.inner, v);
                }
                (block.first_panel * LANES, v)
            }
            Activation::SwiGlu(parameters) => {
                const HALF: usize = LANES / 2;
                let up = &mut up[..block.panel_count * HALF];
                for panel in 0..block.panel_count {
                    let at = panel * LANES;
                    up[panel * HALF..][..HALF].copy_from_slice(&v[at + HALF..at + LANES]);
                    v.copy_within(at..at + HALF, panel * HALF);
                }
                let gate = &mut v[..block.panel_count * HALF];
                // SAFETY: as above.
                unsafe {
                    (kernels.round)(self.inner, gate);
                    (kernels.round)(self.inner, up);
                    (kernels.swiglu)(gate, up, &parameters);
                    (kernels.round)(self.inner, gate);
                }
                (block.first_panel * HALF, gate)
            }
        };
        // Rows that pad the last panel end here.
        let n = v.len().min(self.p.out_cols() - first);
        let v = &mut v[..n];
        let at = self.out.row(&self.p.groups, block.span, r) + first;
        // SAFETY: the caller vouches for the output row; the kernels were checked against this processor.
        unsafe {
            let to = self.out.base.get_mut().add(at * self.out.dtype.bytes());
            if self.accumulate {
                let mut old = [0f32; ROWS];
                (kernels.widen)(self.out.dtype, to, &mut old[..n]);
                (kernels.add)(v, &old[..n]);
            }
            (kernels.narrow)(self.out.dtype, v, to);
        }
    }
}

//! Activation rows of a call → the packed rows of a pass: f32 values, or NVFP4 blocks in half units.

use super::super::kernels::{CHUNK, Kernels};
use super::super::rows::scope_index;
use super::kernel::{CODE_CHUNK, CodeBlock, GemmKernels};
use crate::format::BLOCK;
use crate::plan::gemm::{Activations, GemmProblem};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Ptr;
use crate::plan::quantize::{Scales, Scope};

/// The rows of one group as the activations hold them.
pub struct Rows<'a> {
    p: &'a GemmProblem,
    span: Span,
}

impl<'a> Rows<'a> {
    pub fn new(p: &'a GemmProblem, span: &Span) -> Self {
        let stride = match p.a {
            Activations::Values { a, .. } => a.group_stride,
            Activations::Codes(q) => q.codes_group_stride,
        };
        let shared = matches!(p.groups, Groups::Strided { .. }) && stride == 0;
        let span = if shared { Span { first_row: 0, first_scale_row: 0, ..*span } } else { *span };
        Rows { p, span }
    }

    /// Decode scale of row `r`.
    ///
    /// # Safety
    /// The array covers its scope.
    pub unsafe fn decode_scale(&self, r: usize) -> f32 {
        let (scope, decode): (Scope, Ptr<f32>) = match self.p.a {
            Activations::Values { scope, decode, .. } => (scope, decode),
            Activations::Codes(q) => (q.scope, q.decode),
        };
        match decode.some() {
            // SAFETY: the caller's promise.
            Some(decode) => unsafe { decode.get().add(scope_index(scope, &self.span, r)).read() },
            None => 1.0,
        }
    }

    /// Packs some blocks of row `r`.
    ///
    /// # Safety
    /// The row is readable; `to` has room for f32 values, or CodeBlocks where the activations are codes.
    pub unsafe fn pack(
        &self,
        kernels: (&Kernels, &GemmKernels),
        r: usize,
        first: usize,
        blocks: usize,
        to: *mut u8,
    ) {
        match &self.p.a {
            Activations::Values { a, .. } => {
                let row = a.row(&self.p.groups, &self.span, r) + first * BLOCK;
                for col in (0..blocks * BLOCK).step_by(CHUNK) {
                    let n = CHUNK.min(blocks * BLOCK - col);
                    // SAFETY: the caller's promise; the table was checked against this processor.
                    unsafe {
                        let from = a.base.get().add((row + col) * a.dtype.bytes());
                        let to = std::slice::from_raw_parts_mut(to.cast::<f32>().add(col), n);
                        (kernels.0.widen)(a.dtype, from, to);
                    }
                }
            }
            Activations::Codes(q) => {
                let row = q.codes_row(&self.p.groups, &self.span, r);
                let total_blocks = self.p.weights.shape.cols / BLOCK;
                let mut scales = [0u8; CODE_CHUNK];
                for at in (0..blocks).step_by(CODE_CHUNK) {
                    let scales = &mut scales[..CODE_CHUNK.min(blocks - at)];
                    // SAFETY: as above.
                    unsafe {
                        self.scales(&q.scales, r, first + at, total_blocks, scales);
                        let codes = q.codes.get().add(row + (first + at) * (BLOCK / 2));
                        (kernels.1.pack_codes)(codes, scales, to.cast::<CodeBlock>().add(at));
                    }
                }
            }
        }
    }

    /// Scale bytes of row `r` from block `first` on, a multiple of 4: whole words of a tile, or a piece of a row.
    unsafe fn scales(&self, scales: &Scales, r: usize, first: usize, blocks: usize, out: &mut [u8]) {
        let base = scales.base.get();
        if !scales.layout.is_tiled() {
            let at = (self.span.first_row + r) * scales.row_stride + first;
            // SAFETY: the caller vouches for the scales.
            return unsafe { base.add(at).copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        }
        for (i, word) in out.chunks_mut(4).enumerate() {
            let at = scales.layout.tiled_offset(self.span.first_scale_row + r, first + 4 * i, blocks);
            // SAFETY: as above.
            unsafe { base.add(at).copy_to_nonoverlapping(word.as_mut_ptr(), word.len()) };
        }
    }
}

//! Activation rows of a call → the packed rows of a pass: f32 values, or NVFP4 blocks in half units.

use super::super::kernels::{CHUNK, Kernels};
use super::super::rows::{read_scales, scope_index};
use super::kernel::{CODE_CHUNK, CodeBlock};
use crate::format::{BLOCK, e4m3};
use crate::plan::gemm::{Activations, GemmProblem};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Ptr;
use crate::plan::quantize::Scope;

/// Half units of the two codes of a byte, the even k first.
const PAIRS: [[i8; 2]; 256] = {
    const UNITS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [UNITS[byte & 15], UNITS[byte >> 4]];
        byte += 1;
    }
    pairs
};

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
    pub unsafe fn pack(&self, kernels: &Kernels, r: usize, first: usize, blocks: usize, to: *mut u8) {
        match &self.p.a {
            Activations::Values { a, .. } => {
                let row = a.row(&self.p.groups, &self.span, r) + first * BLOCK;
                for col in (0..blocks * BLOCK).step_by(CHUNK) {
                    let n = CHUNK.min(blocks * BLOCK - col);
                    // SAFETY: the caller's promise; the table was checked against this processor.
                    unsafe {
                        let from = a.base.get().add((row + col) * a.dtype.bytes());
                        let to = std::slice::from_raw_parts_mut(to.cast::<f32>().add(col), n);
                        (kernels.widen)(a.dtype, from, to);
                    }
                }
            }
            Activations::Codes(q) => {
                let row = match self.p.groups {
                    Groups::Strided { .. } => self.span.group * q.codes_group_stride + r * q.codes_row_stride,
                    _ => (self.span.first_row + r) * q.codes_row_stride,
                };
                let total_blocks = self.p.weights.shape.cols / BLOCK;
                let mut scales = [0u8; CODE_CHUNK];
                for at in (0..blocks).step_by(CODE_CHUNK) {
                    let scales = &mut scales[..CODE_CHUNK.min(blocks - at)];
                    // SAFETY: as above.
                    unsafe {
                        read_scales(&q.scales, &self.span, r, first + at, total_blocks, scales);
                        let codes = q.codes.get().add(row + (first + at) * (BLOCK / 2));
                        pack_codes(codes, scales, to.cast::<CodeBlock>().add(at));
                    }
                }
            }
        }
    }
}

unsafe fn pack_codes(codes: *const u8, scales: &[u8], to: *mut CodeBlock) {
    for (i, &scale) in scales.iter().enumerate() {
        let mut q = [0i8; BLOCK];
        for (j, pair) in q.chunks_exact_mut(2).enumerate() {
            // SAFETY: the caller vouches for 8 bytes a scale.
            pair.copy_from_slice(&PAIRS[unsafe { codes.add(i * (BLOCK / 2) + j).read() } as usize]);
        }
        let start = -12 * q.iter().map(|&v| v as i32).sum::<i32>();
        // SAFETY: the caller vouches for a block a scale.
        unsafe { to.add(i).write(CodeBlock { q, start, scale: e4m3::decode(scale) * 64.0 }) };
    }
}

//! What the driver asks of an instruction set: one pass over packed activations and weight panels.
//!
//! The order of additions is the same everywhere, so results are too, bit for bit. K is cut into chunks; inside one,
//! acc starts at +0 and runs over ascending k, then total += acc.
//! - value activations: chunks of 256 k, acc = fma(a, e2m1 · e4m3, acc) for every k;
//! - NVFP4 activations: chunks of 512 k, acc = fma(d, sa · sb / 4, acc) for every block of 16, where d is the integer
//!   dot product of the codes in half units. Every factor and product is exact, so a kernel may split them as it likes.

use super::super::kernels::Isa;
use super::super::weights::LANES;
use super::portable;
use crate::format::BLOCK;

/// Blocks of a chunk of value activations: 256 k.
pub const VALUE_CHUNK: usize = 16;
/// Blocks of a chunk of NVFP4 activations: 512 k.
pub const CODE_CHUNK: usize = 32;
/// Panels of a task at most.
pub const PANELS: usize = 16;
/// Weight rows of a task at most: floats between the totals of two tokens.
pub const ROWS: usize = PANELS * LANES;
/// Up to so many tokens a pass may span many chunks, so that weights can be used as they stream in.
pub const STREAM_TOKENS: usize = 8;
/// Floats between two tokens of a one-chunk pass of values; not a power of two, which would crowd few cache sets.
pub const VALUE_STRIDE: usize = VALUE_CHUNK * BLOCK + 16;
/// Bytes that a pass may use to unpack weights into.
pub const UNPACKED_BYTES: usize = 2 * VALUE_CHUNK * BLOCK * LANES * 4;

/// A block of one NVFP4 token as the dot products want it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CodeBlock {
    /// Codes in half units, k ascending.
    pub q: [i8; BLOCK],
    /// −12 · Σ q: undoes the 12 that makes weights unsigned.
    pub start: i32,
    /// e4m3 · 64: the 1/4 of two half units, and the 256 that stored weight scales are short of.
    pub scale: f32,
}

impl CodeBlock {
    /// Four codes a word, as a dot product broadcasts them.
    #[inline(always)]
    pub fn words(&self) -> [i32; 4] {
        std::array::from_fn(|j| i32::from_le_bytes(std::array::from_fn(|i| self.q[4 * j + i] as u8)))
    }
}

/// totals[token][row] += the product over some blocks, starting at a chunk border.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Tokens × k: f32, or [`CodeBlock`]s.
    pub a: *const u8,
    /// Bytes between tokens.
    pub a_stride: usize,
    pub tokens: usize,
    /// First panel, at the first block.
    pub panels: *const u8,
    pub panel_stride: usize,
    pub panel_count: usize,
    pub blocks: usize,
    /// [tokens][ROWS]; lane l of panel p at p · LANES + l.
    pub totals: *mut f32,
    /// UNPACKED_BYTES of scratch.
    pub unpacked: *mut u8,
}

/// The inner loops of an instruction set.
pub struct GemmKernels {
    /// NVFP4 blocks of a token from 8 code bytes and a scale each.
    pub pack_codes: unsafe fn(codes: *const u8, scales: &[u8], to: *mut CodeBlock),
    pub values: unsafe fn(&Pass),
    pub codes: unsafe fn(&Pass),
}

impl GemmKernels {
    /// The table for an instruction set that this processor has.
    pub fn for_isa(isa: Isa) -> &'static GemmKernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &super::avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &super::avx2::KERNELS,
            _ => &portable::KERNELS,
        }
    }
}

impl Pass {
    /// The pass cut into chunks of `chunk` blocks: (first block, blocks).
    pub fn chunks(&self, chunk: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let blocks = self.blocks;
        (0..blocks).step_by(chunk).map(move |first| (first, chunk.min(blocks - first)))
    }

    /// # Safety
    /// `panel` is one of the pass.
    #[inline]
    pub unsafe fn panel(&self, panel: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.panels.add(panel * self.panel_stride) }
    }

    /// # Safety
    /// `token` is one of the pass.
    #[inline]
    pub unsafe fn token<T>(&self, token: usize) -> *const T {
        // SAFETY: the caller's promise.
        unsafe { self.a.add(token * self.a_stride).cast() }
    }

    /// # Safety
    /// `token` and `panel` are of the pass.
    #[inline]
    pub unsafe fn total(&self, token: usize, panel: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.totals.add(token * ROWS + panel * LANES) }
    }
}

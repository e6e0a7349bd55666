//! The inner loops of the row operations, one table per instruction set, chosen once per context.
//!
//! Every entry computes exactly what `portable.rs` computes, bit for bit. Slices are chunks of rows, at most
//! [`CHUNK`] values, so that a chunk stays in the first-level cache between the steps of a fused operation.

use super::portable;
use crate::error::{Error, Result};
use crate::format::block::{Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::math::SwiGlu;

/// Values a chunk holds at most: 64 blocks, enough for the tables to work on several groups of lanes at once.
pub const CHUNK: usize = 1024;
/// Bytes between what is read and what is fetched for later, where memory is read from one end to the other.
pub const AHEAD: usize = 4096;

/// Values on a line of the cache, so that no vector of them straddles two.
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [f32; N]);

impl<const N: usize> Aligned<N> {
    pub const ZERO: Aligned<N> = Aligned([0.0; N]);
}

/// Instruction sets with a table of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    Portable,
    Avx2,
    Avx512,
}

impl Isa {
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this processor and this build have it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The best that is available.
    pub fn detect() -> Isa {
        *Isa::ALL.iter().rev().find(|isa| isa.available()).unwrap_or(&Isa::Portable)
    }
}

/// Blocks → codes and scales, see [`Kernels::quantize`].
pub type QuantizeBlocks = unsafe fn(&[f32], &Encode, ScaleRule, codes: &mut [u8], scales: &mut [u8]) -> u32;

/// Stored values → codes and scales, see [`Kernels::quantize_from`].
pub type QuantizeStored =
    unsafe fn(Dtype, *const u8, &Encode, ScaleRule, codes: &mut [u8], scales: &mut [u8]) -> u32;

/// The table. All lengths in values; `x` and `out` have the same length unless said otherwise.
///
/// Entries are `unsafe fn`: a table of an instruction set may only be called where [`Isa::available`] holds, which
/// [`Kernels::for_isa`] checks; pointers must be valid for the slice's length in elements of the dtype.
pub struct Kernels {
    pub isa: Isa,
    /// Widens `out.len()` elements at a byte address to f32, exactly.
    pub widen: unsafe fn(Dtype, *const u8, &mut [f32]),
    /// Turns 16 lines of `width` values into columns: out[j · stride + i] = x[i · width + j].
    pub transpose: unsafe fn(x: &[f32], width: usize, out: &mut [f32], stride: usize),
    /// Rounds to the dtype and stores; NaN canonical.
    pub narrow: unsafe fn(Dtype, &[f32], *mut u8),
    /// Rounds to the dtype and widens back, in place; NaN canonical.
    pub round: unsafe fn(Dtype, &mut [f32]),
    /// max(amax, largest finite |x|).
    pub finite_amax: unsafe fn(f32, &[f32]) -> f32,
    /// Quantizes whole blocks: `codes` has len / 2 bytes, `scales` len / 16. Returns the or of `block::FLAG_*`.
    pub quantize: QuantizeBlocks,
    /// `quantize` of what `widen` makes of the `scales.len()` blocks at a byte address.
    pub quantize_from: QuantizeStored,
    /// Values of whole blocks: (e2m1 · e4m3) · decode scale, NaN canonical.
    pub dequantize: unsafe fn(codes: &[u8], scales: &[u8], decode_scale: f32, out: &mut [f32]),
    /// out[j] = Σ x² of block j in index order by fma; out has len / 16 entries.
    pub square_sums: unsafe fn(&[f32], out: &mut [f32]),
    /// x += addend.
    pub add: unsafe fn(x: &mut [f32], addend: &[f32]),
    /// x = (x · inv) · (weight + offset).
    pub scale_rows: unsafe fn(x: &mut [f32], inv: f32, weight: &[f32], offset: f32),
    /// acc = mix · x.
    pub mix_first: unsafe fn(mix: f32, x: &[f32], acc: &mut [f32]),
    /// acc = fma(mix, x, acc).
    pub mix_more: unsafe fn(mix: f32, x: &[f32], acc: &mut [f32]),
    /// gate = swiglu(gate, up).
    pub swiglu: unsafe fn(gate: &mut [f32], up: &[f32], &SwiGlu),
    /// x = max(x, 0)².
    pub relu2: unsafe fn(x: &mut [f32]),
}

impl Kernels {
    /// The table of an instruction set, or of the best one; refused where the processor lacks it.
    pub fn for_isa(isa: Option<Isa>) -> Result<&'static Kernels> {
        let isa = isa.unwrap_or_else(Isa::detect);
        if !isa.available() {
            return Err(Error::Unsupported {
                what: format!("instruction set {} on this processor", isa.name()),
                next: "pass NVFP4_ISA_BEST",
            });
        }
        Ok(match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &super::avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &super::avx512::KERNELS,
            _ => &portable::KERNELS,
        })
    }
}

/// Asks the processor for the cache lines of bytes that will be read soon. Any address will do: nothing is accessed.
#[inline]
pub fn prefetch(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let before = from.addr() % LINE;
        for at in (0..before + bytes).step_by(LINE) {
            // SAFETY: a prefetch of an address that is not there does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_sub(before).wrapping_add(at).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

//! The value types of tensors, and the one place where a float becomes one of them.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
        }
    }

    /// Rounds to nearest even and widens again; every NaN becomes the quiet one without sign or payload.
    #[inline]
    pub fn round(self, x: f32) -> f32 {
        if x.is_nan() {
            return f32::from_bits(0x7FC0_0000);
        }
        match self {
            Dtype::Bf16 => f32::from_bits((bf16_bits(x) as u32) << 16),
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::F32 => x,
        }
    }

    /// Reads element `i` of an array of this type.
    ///
    /// # Safety
    /// `base` must point to at least `i + 1` readable elements.
    #[inline]
    pub unsafe fn load(self, base: *const u8, i: usize) -> f32 {
        // SAFETY: the caller vouches for the element; unaligned reads are allowed for.
        unsafe {
            match self {
                Dtype::Bf16 => f32::from_bits((base.cast::<u16>().add(i).read_unaligned() as u32) << 16),
                Dtype::F16 => f16::from_bits(base.cast::<u16>().add(i).read_unaligned()).to_f32(),
                Dtype::F32 => base.cast::<f32>().add(i).read_unaligned(),
            }
        }
    }

    /// Writes element `i`, rounded to nearest even, NaN canonical.
    ///
    /// # Safety
    /// `base` must point to at least `i + 1` writable elements.
    #[inline]
    pub unsafe fn store(self, base: *mut u8, i: usize, x: f32) {
        // SAFETY: the caller vouches for the element.
        unsafe {
            match self {
                Dtype::Bf16 => base.cast::<u16>().add(i).write_unaligned(bf16_bits(x)),
                Dtype::F16 => base.cast::<u16>().add(i).write_unaligned(f16_bits(x)),
                Dtype::F32 => base.cast::<f32>().add(i).write_unaligned(canonical(x)),
            }
        }
    }
}

/// Replaces any NaN by the quiet NaN without sign or payload.
#[inline]
pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7FC0_0000) } else { x }
}

#[inline]
pub fn bf16_bits(x: f32) -> u16 {
    if x.is_nan() { 0x7FC0 } else { bf16::from_f32(x).to_bits() }
}

#[inline]
pub fn f16_bits(x: f32) -> u16 {
    if x.is_nan() { 0x7E00 } else { f16::from_f32(x).to_bits() }
}

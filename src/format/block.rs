//! Block quantization as docs/numerics.md writes it: 16 floats → 8 code bytes and an E4M3 scale.
//! This is the plain form that every SIMD and GPU path is held to, bit for bit.

use super::{BLOCK, e2m1, e4m3};

/// How the block scale is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    Amax,
    FourOverSix,
    MinMse,
}

/// Largest finite E2M1 times largest finite E4M3.
const RANGE: f32 = 2688.0;
/// A `t` above this rounds to more than 448, so the block saturates.
pub const SATURATION: f32 = 464.0;

/// A block held a NaN or an infinity, so it reads as NaN.
pub const FLAG_NON_FINITE: u32 = 1;
/// A block scale saturated at 448: the decode scale is too small for the data.
pub const FLAG_SATURATED: u32 = 2;
/// A static decode scale is not finite or not above 0.
pub const FLAG_BAD_DECODE_SCALE: u32 = 4;

/// What one scope (tensor, group or row) needs to encode its blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encode {
    /// 1 / encode scale, the step that the codes are multiplied back with.
    pub inverse: f32,
    /// encode scale · fl(1/6).
    pub sixth: f32,
    /// The decode scale was not usable: every block is NaN.
    pub invalid: bool,
}

impl Encode {
    fn new(encode_scale: f32) -> Self {
        Encode { inverse: 1.0 / encode_scale, sixth: encode_scale * (1.0 / 6.0), invalid: false }
    }

    /// From the caller's decode scale.
    pub fn from_static(decode_scale: f32) -> Self {
        if !(decode_scale.is_finite() && decode_scale > 0.0) {
            return Encode { inverse: 1.0, sixth: 0.0, invalid: true };
        }
        Encode::new((1.0 / decode_scale).min(f32::MAX))
    }

    /// From the largest finite magnitude of the scope.
    pub fn from_amax(amax: f32) -> Self {
        if amax == 0.0 {
            return Encode::new(1.0);
        }
        Encode::new((RANGE / amax).min(f32::MAX))
    }
}

/// The decode scale that is stored for a scope with this amax.
pub fn decode_scale_from_amax(amax: f32) -> f32 {
    if amax == 0.0 {
        1.0
    } else if RANGE / amax > f32::MAX {
        1.0 / f32::MAX
    } else {
        amax / RANGE
    }
}

/// Quantizes one block; writes 8 bytes of codes (even k in the low nibble) and returns (scale byte, flags).
pub fn quantize(x: &[f32; BLOCK], encode: &Encode, rule: ScaleRule, codes: &mut [u8]) -> (u8, u32) {
    let codes = &mut codes[..BLOCK / 2];
    if encode.invalid {
        codes.fill(0);
        return (e4m3::NAN, FLAG_BAD_DECODE_SCALE);
    }
    if !x.iter().all(|v| v.is_finite()) {
        codes.fill(0);
        return (e4m3::NAN, FLAG_NON_FINITE);
    }
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let t = amax * encode.sixth;
    let flags = if t > SATURATION { FLAG_SATURATED } else { 0 };
    let mut best = e4m3::encode(t);
    match rule {
        ScaleRule::Amax => {}
        ScaleRule::FourOverSix => {
            let wide = e4m3::encode(t * 1.5);
            if square_error(x, wide, encode) < square_error(x, best, encode) {
                best = wide;
            }
        }
        ScaleRule::MinMse => {
            let base = best as i32;
            let mut least = square_error(x, best, encode);
            for step in (1..=7).flat_map(|s| [-s, s]) {
                let candidate = (base + step).clamp(0, 126) as u8;
                let error = square_error(x, candidate, encode);
                if error < least {
                    (least, best) = (error, candidate);
                }
            }
        }
    }
    let r = reciprocal(best, encode);
    for (byte, pair) in codes.iter_mut().zip(x.chunks_exact(2)) {
        *byte = code_of(pair[0], best, r) | code_of(pair[1], best, r) << 4;
    }
    (best, flags)
}

/// r of step 3: what the values are multiplied with before rounding to E2M1.
#[inline]
fn reciprocal(scale: u8, encode: &Encode) -> f32 {
    (1.0 / (e4m3::decode(scale) * encode.inverse)).min(f32::MAX)
}

#[inline]
fn code_of(x: f32, scale: u8, r: f32) -> u8 {
    if scale == 0 { 0 } else { e2m1::encode(x * r) }
}

/// Σ (e2m1 · sf · (1/G) − x)² in index order.
fn square_error(x: &[f32; BLOCK], scale: u8, encode: &Encode) -> f32 {
    let (r, sf) = (reciprocal(scale, encode), e4m3::decode(scale));
    x.iter().fold(0f32, |sum, &v| {
        let value = e2m1::decode(code_of(v, scale, r)) * sf * encode.inverse;
        let difference = value - v;
        sum + difference * difference
    })
}

/// The 16 values of a block: (e2m1 · e4m3) · decode scale, NaN canonical.
pub fn dequantize(codes: &[u8], scale: u8, decode_scale: f32, out: &mut [f32]) {
    let sf = e4m3::decode(scale);
    for (pair, &byte) in out[..BLOCK].chunks_exact_mut(2).zip(&codes[..BLOCK / 2]) {
        pair[0] = super::dtype::canonical(e2m1::decode(byte & 15) * sf * decode_scale);
        pair[1] = super::dtype::canonical(e2m1::decode(byte >> 4) * sf * decode_scale);
    }
}

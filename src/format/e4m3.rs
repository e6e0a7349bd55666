//! E4M3 (the `fn` kind: no infinities, 0x7F is NaN), used here without its sign bit: block scales.

/// The byte of a NaN scale.
pub const NAN: u8 = 0x7F;
/// The largest finite value, code 0x7E.
pub const MAX: f32 = 448.0;

/// Every byte as a float, the sign bit included; 0x7F and 0xFF are NaN.
pub const TABLE: [f32; 256] = table();

const fn table() -> [f32; 256] {
    let mut out = [0f32; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, mantissa) = ((byte >> 3) & 15, byte & 7);
        let magnitude = if byte & 0x7F == 0x7F {
            f32::NAN
        } else if exponent == 0 {
            mantissa as f32 * 0.001953125 // 2^-9
        } else {
            f32::from_bits(((exponent as u32 + 120) << 23) | (mantissa as u32) << 20)
        };
        out[byte] = if byte & 0x80 != 0 && byte != 0xFF { -magnitude } else { magnitude };
        byte += 1;
    }
    out
}

#[inline]
pub fn decode(byte: u8) -> f32 {
    TABLE[byte as usize]
}

/// Nearest code of a value that is zero or above, ties to even, saturating at 448. `t` must not be NaN.
#[inline]
pub fn encode(t: f32) -> u8 {
    let t = t.min(MAX);
    if t < 0.015625 {
        // Below 2^-6 codes are multiples of 2^-9: adding 1.5 * 2^14 leaves that multiple, rounded to even, in the low bits.
        return ((t + 24576.0).to_bits() & 0xFF) as u8;
    }
    let bits = t.to_bits();
    let rounded = bits + 0x0007_FFFF + ((bits >> 20) & 1);
    ((rounded >> 20) - (120 << 3)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_and_ties_go_to_even() {
        for byte in 0..=0x7Eu8 {
            assert_eq!(encode(decode(byte)), byte);
            if byte < 0x7E {
                let mid = (decode(byte) + decode(byte + 1)) / 2.0;
                assert_eq!(encode(mid), byte + byte % 2, "tie above {byte:#x}");
                assert_eq!(encode(mid.next_up()), byte + 1);
                assert_eq!(encode(mid.next_down()), byte);
            }
        }
        assert_eq!(encode(f32::INFINITY), 0x7E);
        assert_eq!(encode(f32::from_bits(1)), 0);
        assert!(decode(NAN).is_nan() && decode(0xFF).is_nan());
        assert_eq!(decode(0x7E), MAX);
    }
}

//! E2M1: 4-bit floats, sign first; magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6.

/// The magnitude of each code's low three bits.
pub const MAGNITUDE: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// A code (low four bits) as a float, −0 kept.
#[inline]
pub fn decode(code: u8) -> f32 {
    let magnitude = MAGNITUDE[(code & 7) as usize];
    if code & 8 != 0 { -magnitude } else { magnitude }
}

/// Nearest code, ties to the even code, saturating at 6, sign bit kept.
#[inline]
pub fn encode(y: f32) -> u8 {
    let m = y.abs();
    // Between codes c-1 and c the midpoint belongs to the even one of the two.
    let code = (m > 0.25) as u8
        + (m >= 0.75) as u8
        + (m > 1.25) as u8
        + (m >= 1.75) as u8
        + (m > 2.5) as u8
        + (m >= 3.5) as u8
        + (m > 5.0) as u8;
    code | ((y.to_bits() >> 31) as u8) << 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives() {
        for code in 0..16 {
            assert_eq!(encode(decode(code)), code);
        }
    }

    #[test]
    fn ties_go_to_the_even_code() {
        for c in 1..8u8 {
            let mid = (MAGNITUDE[c as usize - 1] + MAGNITUDE[c as usize]) / 2.0;
            let even = if c % 2 == 0 { c } else { c - 1 };
            assert_eq!(encode(mid), even);
            assert_eq!(encode(-mid), even | 8);
            assert_eq!(encode(mid.next_up()), c);
            assert_eq!(encode(mid.next_down()), c - 1);
        }
        assert_eq!(encode(f32::MAX), 7);
        assert_eq!(encode(-0.0), 8);
    }
}

//! The fixed-order reductions and the transcendentals of docs/numerics.md, one value at a time.

use super::BLOCK;

/// Fused multiply-add, one rounding.
#[inline]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// The smaller of two; a NaN on either side is passed on.
#[inline]
pub fn min(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }
}

/// The larger of two; a NaN on either side is passed on.
#[inline]
pub fn max(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

/// Σ x² of one block in index order, by fma from 0. A short block counts as padded with zeros.
#[inline]
pub fn block_square_sum(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |acc, &v| fma(v, v, acc))
}

/// Adds partial sums as the padded binary tree does: adjacent pairs, level by level.
///
/// A binary counter of finished subtrees gives the same additions as padding to a power of two with zeros,
/// because adding a padded zero changes no partial sum.
#[derive(Clone, Copy)]
pub struct PairSum {
    level: [f32; 48],
    count: u64,
}

impl Default for PairSum {
    fn default() -> Self {
        PairSum { level: [0.0; 48], count: 0 }
    }
}

impl PairSum {
    #[inline]
    pub fn push(&mut self, value: f32) {
        self.carry(value, 0);
    }

    /// Adds 16 values, after a multiple of 16: their own tree first, which has no long chain of additions.
    #[inline]
    pub fn push_16(&mut self, values: &[f32; 16]) {
        debug_assert!(self.count.is_multiple_of(16));
        let mut sums = *values;
        for n in [8, 4, 2, 1] {
            for i in 0..n {
                sums[i] = sums[2 * i] + sums[2 * i + 1];
            }
        }
        self.carry(sums[0], 4);
    }

    /// Adds the sum of a finished subtree of 2^bit values.
    #[inline]
    fn carry(&mut self, mut value: f32, bit: usize) {
        let mut at = bit;
        while self.count >> at & 1 == 1 {
            value += self.level[at];
            at += 1;
        }
        self.level[at] = value;
        self.count += 1 << bit;
    }

    pub fn total(&self) -> f32 {
        let mut sum: Option<f32> = None;
        for bit in 0..48 {
            if self.count >> bit & 1 == 1 {
                sum = Some(match sum {
                    Some(low) => self.level[bit] + low,
                    None => self.level[bit],
                });
            }
        }
        sum.unwrap_or(0.0)
    }
}

/// Σ x in the ordered form: blocks of 16 in index order, then adjacent pairs.
pub fn ordered_sum(x: &[f32]) -> f32 {
    let mut pairs = PairSum::default();
    for block in x.chunks(BLOCK) {
        pairs.push(block.iter().fold(0.0, |acc, &v| fma(v, 1.0, acc)));
    }
    pairs.total()
}

/// 1 / sqrt(sum / cols + eps), NaN canonical.
pub fn inverse_rms(square_sum: f32, cols: usize, eps: f32) -> f32 {
    super::dtype::canonical(1.0 / (square_sum / cols as f32 + eps).sqrt())
}

/// The constants of [`exp`], as the contract writes them.
#[allow(clippy::excessive_precision, clippy::approx_constant)]
pub mod exp_constants {
    pub const LOG2_E: f32 = 1.44269504;
    /// −ln 2 in two parts, the first short enough for an exact product.
    pub const MINUS_LN2_HIGH: f32 = -0.693359375;
    pub const MINUS_LN2_LOW: f32 = 2.12194440e-4;
    /// Highest power first.
    pub const POLYNOMIAL: [f32; 6] = [
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ];
}

/// exp on [−87, 88], clamped outside, within 1 ulp; NaN stays NaN.
#[inline]
pub fn exp(z: f32) -> f32 {
    use exp_constants::*;
    let z = min(max(z, -87.0), 88.0);
    let n = (z * LOG2_E).round_ties_even();
    let r = fma(n, MINUS_LN2_LOW, fma(n, MINUS_LN2_HIGH, z));
    let q = POLYNOMIAL[1..].iter().fold(POLYNOMIAL[0], |q, &c| fma(q, r, c));
    let e = fma(q, r * r, r) + 1.0;
    if n.is_nan() {
        return f32::NAN;
    }
    e * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// log(1 + u) on [0, 1], as 2 atanh(u / (2 + u)) by a fixed polynomial.
pub fn log1p(u: f32) -> f32 {
    let w = u / (2.0 + u);
    let w2 = w * w;
    let mut t = 1.0 / 15.0;
    for n in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0f32] {
        t = fma(t, w2, 1.0 / n);
    }
    (2.0 * w) * t
}

/// The parameters of a gated activation, defaults resolved: `limit` 0 is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwiGlu {
    pub limit: f32,
    pub alpha: f32,
    pub beta: f32,
}

/// (gate / (1 + exp(−(alpha · gate)))) · (up + beta), before the rounding to the tensor's dtype.
#[inline]
pub fn swiglu(gate: f32, up: f32, p: &SwiGlu) -> f32 {
    let (mut gate, mut up) = (gate, up);
    if p.limit > 0.0 {
        gate = min(gate, p.limit);
        up = min(max(up, -p.limit), p.limit);
    }
    gate / (1.0 + exp(-(gate * p.alpha))) * (up + p.beta)
}

/// max(x, 0)², before the rounding to the tensor's dtype.
#[inline]
pub fn relu2(x: f32) -> f32 {
    let r = max(x, 0.0);
    r * r
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_sum_is_the_padded_tree() {
        for n in 0..70usize {
            let leaves: Vec<f32> =
                (0..n).map(|i| (i as f32 + 0.1).sqrt() * 1e3f32.powi(i as i32 % 3)).collect();
            let mut level = leaves.clone();
            level.resize(n.next_power_of_two().max(1), 0.0);
            while level.len() > 1 {
                level = level.chunks(2).map(|p| p[0] + p[1]).collect();
            }
            let mut pairs = PairSum::default();
            leaves.iter().for_each(|&v| pairs.push(v));
            assert_eq!(pairs.total().to_bits(), level[0].to_bits(), "{n} leaves");
            let mut pairs = PairSum::default();
            let (sixteens, rest) = leaves.as_chunks::<16>();
            sixteens.iter().for_each(|v| pairs.push_16(v));
            rest.iter().for_each(|&v| pairs.push(v));
            assert_eq!(pairs.total().to_bits(), level[0].to_bits(), "{n} leaves by sixteens");
        }
    }

    #[test]
    fn exp_stays_within_an_ulp() {
        for i in -87_000..88_000 {
            let z = i as f32 / 1000.0;
            let exact = (z as f64).exp();
            let got = exp(z) as f64;
            let ulp = (f32::from_bits((exact as f32).to_bits() + 1) - exact as f32) as f64;
            assert!((got - exact).abs() <= ulp * 1.01, "exp({z})");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(-1e9), exp(-87.0));
    }
}

//! Floats → codes and scales, 8 blocks at a time, a block a lane.

use core::arch::x86_64::*;

use super::blocks::{Blocks, LANES, VALUES};
use super::values::widen;
use crate::backend::cpu::kernels::{AHEAD, Aligned, prefetch};
use crate::format::BLOCK;
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::e4m3;

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn quantize(
    x: &[f32],
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    let load = |i: usize, blocks: &mut Blocks| blocks.fill(&x[i * VALUES..x.len().min((i + 1) * VALUES)]);
    quantize_groups(load, encode, rule, codes, scales)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn quantize_from(
    dtype: Dtype,
    src: *const u8,
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    let (bytes, blocks) = (dtype.bytes(), scales.len());
    let load = |i: usize, group: &mut Blocks| {
        let n = LANES.min(blocks - i * LANES);
        let src = src.wrapping_add(i * VALUES * bytes);
        prefetch(src.wrapping_add(AHEAD), VALUES * bytes);
        // SAFETY: the caller vouches for scales.len() blocks.
        unsafe {
            if dtype == Dtype::Bf16 {
                return group.fill_bf16(std::slice::from_raw_parts(src.cast(), n));
            }
            let mut x = Aligned::<VALUES>::ZERO;
            widen(dtype, src, &mut x.0[..n * BLOCK]);
            group.fill(&x.0)
        }
    };
    quantize_groups(load, encode, rule, codes, scales)
}

/// Quantizes the groups of blocks that `load` fetches.
///
/// The scales of one group are chosen before the group ahead of it is encoded: the way from the maximum to the
/// reciprocal is one long chain, and while it is walked the processor has codes to work on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_groups(
    load: impl Fn(usize, &mut Blocks),
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    let count = scales.len().div_ceil(LANES);
    if count == 0 {
        return 0;
    }
    if encode.invalid {
        codes.fill(0);
        scales.fill(e4m3::NAN);
        return block::FLAG_BAD_DECODE_SCALE;
    }
    let step = Step { inverse: _mm256_set1_ps(encode.inverse), sixth: _mm256_set1_ps(encode.sixth) };
    let mut outputs = codes.chunks_mut(VALUES / 2).zip(scales.chunks_mut(LANES));
    let mut flags = 0;
    let (mut groups, mut scaled) = ([Blocks::zero(), Blocks::zero()], [Scaled::zero(), Scaled::zero()]);
    for i in 0..=count {
        if i < count {
            load(i, &mut groups[i % 2]);
            flags |= choose_scales(&groups[i % 2], &step, rule, &mut scaled[i % 2]);
        }
        if i > 0
            && let Some((codes, scales)) = outputs.next()
        {
            write(&groups[(i - 1) % 2], &scaled[(i - 1) % 2], codes, scales);
        }
    }
    flags
}

/// `Encode` in every lane.
struct Step {
    inverse: __m256,
    sixth: __m256,
}

/// What is known of blocks before they are encoded.
struct Scaled {
    r: __m256,
    /// Lanes whose codes may differ from zero: a zero scale has zero codes, signs included, and so has a block that
    /// is not finite.
    live: __m256i,
    /// One byte a lane.
    scales: __m256i,
}

impl Scaled {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn zero() -> Scaled {
        Scaled { r: _mm256_setzero_ps(), live: _mm256_setzero_si256(), scales: _mm256_setzero_si256() }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn choose_scales(blocks: &Blocks, step: &Step, rule: ScaleRule, scaled: &mut Scaled) -> u32 {
    let Blocks { x, amax } = blocks;
    let amax = *amax;
    let finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7F80_0000), amax);
    let amax = _mm256_castsi256_ps(_mm256_and_si256(finite, amax));

    let t = _mm256_mul_ps(amax, step.sixth);
    let saturated = _mm256_cmp_ps::<_CMP_GT_OQ>(t, _mm256_set1_ps(block::SATURATION));
    let mut best = encode_e4m3(t);
    match rule {
        ScaleRule::Amax => {}
        ScaleRule::FourOverSix => {
            let wide = encode_e4m3(_mm256_mul_ps(t, _mm256_set1_ps(1.5)));
            let (narrow_error, wide_error) = (square_error(x, best, step), square_error(x, wide, step));
            best = select(_mm256_cmp_ps::<_CMP_LT_OQ>(wide_error, narrow_error), wide, best);
        }
        ScaleRule::MinMse => best = least_error(x, best, step),
    }

    *scaled = Scaled {
        r: reciprocal(best, step),
        live: _mm256_andnot_si256(_mm256_cmpeq_epi32(best, _mm256_setzero_si256()), finite),
        scales: select(_mm256_castsi256_ps(finite), best, _mm256_set1_epi32(e4m3::NAN as i32)),
    };
    let mut flags = 0;
    if _mm256_movemask_epi8(finite) != -1 {
        flags |= block::FLAG_NON_FINITE;
    }
    if _mm256_movemask_ps(saturated) != 0 {
        flags |= block::FLAG_SATURATED;
    }
    flags
}

/// Encodes blocks whose scales are chosen, and stores as many as the slices have room for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn write(blocks: &Blocks, scaled: &Scaled, codes: &mut [u8], scales: &mut [u8]) {
    let [low, high] = encode_blocks(&blocks.x, scaled.r);
    let [first, second] = interleave(_mm256_and_si256(scaled.live, low), _mm256_and_si256(scaled.live, high));
    let (mut all_codes, mut all_scales) = ([0u8; VALUES / 2], [0u32; LANES]);
    // SAFETY: the arrays have the size of the vectors.
    unsafe {
        _mm256_storeu_si256(all_codes.as_mut_ptr().cast(), first);
        _mm256_storeu_si256(all_codes.as_mut_ptr().add(32).cast(), second);
        _mm256_storeu_si256(all_scales.as_mut_ptr().cast(), scaled.scales);
    }
    codes.copy_from_slice(&all_codes[..codes.len()]);
    scales.iter_mut().zip(all_scales).for_each(|(scale, byte)| *scale = byte as u8);
}

/// The lanes of `yes` where the condition holds, else those of `no`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn select(condition: __m256, yes: __m256i, no: __m256i) -> __m256i {
    _mm256_blendv_epi8(no, yes, _mm256_castps_si256(condition))
}

/// `e4m3::encode` in every lane; t is zero or above.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn encode_e4m3(t: __m256) -> __m256i {
    let t = _mm256_min_ps(t, _mm256_set1_ps(e4m3::MAX));
    let bits = _mm256_castps_si256(t);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<20>(bits), _mm256_set1_epi32(1));
    let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x0007_FFFF)), odd);
    let normal = _mm256_sub_epi32(_mm256_srli_epi32::<20>(up), _mm256_set1_epi32(120 << 3));
    let small = _mm256_castps_si256(_mm256_add_ps(t, _mm256_set1_ps(24576.0)));
    let is_small = _mm256_cmp_ps::<_CMP_LT_OQ>(t, _mm256_set1_ps(0.015625));
    select(is_small, _mm256_and_si256(small, _mm256_set1_epi32(0xFF)), normal)
}

/// `e4m3::decode` of bytes below 0x7F. Subnormal codes go through an integer, as a subnormal float would be slow.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn decode_e4m3(byte: __m256i) -> __m256 {
    let normal = _mm256_add_epi32(_mm256_slli_epi32::<20>(byte), _mm256_set1_epi32(120 << 23));
    let is_small = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(8), byte));
    let small = _mm256_mul_ps(_mm256_cvtepi32_ps(byte), _mm256_set1_ps(0.001953125));
    _mm256_blendv_ps(_mm256_castsi256_ps(normal), small, is_small)
}

/// r of step 3. The minimum returns its second operand where the first is NaN, as `f32::min` does.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn reciprocal(scale: __m256i, step: &Step) -> __m256 {
    let product = _mm256_mul_ps(decode_e4m3(scale), step.inverse);
    _mm256_min_ps(_mm256_div_ps(_mm256_set1_ps(1.0), product), _mm256_set1_ps(f32::MAX))
}

/// 2^22 + 3. Added to |y| in [1, 2), or below 1, in units of 2^22, it leaves y rounded to halves, ties to even, in
/// the low bits; [2, 4) and [4, 8) likewise with the constant times two and four.
const ROUNDER: f32 = 4_194_307.0;

/// |y| = |x · r|, saturated at 6, as (its power of two, at least 1; that · ROUNDER + |y|).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rounded(x: __m256, r: __m256) -> (__m256, __m256) {
    let y = _mm256_andnot_ps(_mm256_set1_ps(-0.0), _mm256_mul_ps(x, r));
    let y = _mm256_min_ps(y, _mm256_set1_ps(6.0));
    let power = _mm256_max_ps(y, _mm256_set1_ps(1.0));
    let power = _mm256_and_ps(power, _mm256_castsi256_ps(_mm256_set1_epi32(0x7F80_0000)));
    (power, _mm256_fmadd_ps(power, _mm256_set1_ps(ROUNDER), y))
}

/// The codes of all blocks: nibble k % 8 of word k / 8 of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn encode_blocks(x: &[__m256; BLOCK], r: __m256) -> [__m256i; 2] {
    let mut words = [_mm256_setzero_si256(); 2];
    for (word, x) in words.iter_mut().zip(x.as_chunks::<8>().0) {
        for &x in x.iter().rev() {
            let sum = _mm256_castps_si256(rounded(x, r).1);
            // The exponent, whose last bit lands on the code's bit 1, makes up for the coarser steps.
            let code = _mm256_add_epi32(sum, _mm256_srli_epi32::<22>(sum));
            // Three bits of the code, and above them the sign.
            let sign = _mm256_slli_epi32::<3>(_mm256_srli_epi32::<31>(_mm256_castps_si256(x)));
            let nibble = _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi32(7)), sign);
            *word = _mm256_or_si256(_mm256_slli_epi32::<4>(*word), nibble);
        }
    }
    words
}

/// The two words of each lane → eight bytes a block, in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn interleave(low: __m256i, high: __m256i) -> [__m256i; 2] {
    // Blocks 0, 1, 4, 5, and the others.
    let (a, b) = (_mm256_unpacklo_epi32(low, high), _mm256_unpackhi_epi32(low, high));
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// Σ (e2m1 · sf · (1/G) − x)² of every block in index order. Under a zero scale the value is 0 whatever the code.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn square_error(x: &[__m256; BLOCK], scale: __m256i, step: &Step) -> __m256 {
    let (r, sf) = (reciprocal(scale, step), decode_e4m3(scale));
    let mut error = _mm256_setzero_ps();
    for &x in x {
        let (power, sum) = rounded(x, r);
        // Taking the constant off again leaves the rounded magnitude: both steps are exact.
        let e2m1 = _mm256_fnmadd_ps(power, _mm256_set1_ps(ROUNDER), sum);
        let e2m1 = _mm256_or_ps(e2m1, _mm256_and_ps(x, _mm256_set1_ps(-0.0)));
        let value = _mm256_mul_ps(_mm256_mul_ps(e2m1, sf), step.inverse);
        let difference = _mm256_sub_ps(value, x);
        error = _mm256_add_ps(error, _mm256_mul_ps(difference, difference));
    }
    error
}

/// The scale of least error among base, base − 1, base + 1, … base ± 7, ties to the first.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn least_error(x: &[__m256; BLOCK], base: __m256i, step: &Step) -> __m256i {
    let (mut best, mut least) = (base, square_error(x, base, step));
    for distance in 1..=7 {
        for offset in [-distance, distance] {
            let candidate = _mm256_add_epi32(base, _mm256_set1_epi32(offset));
            let candidate = _mm256_max_epi32(candidate, _mm256_setzero_si256());
            let candidate = _mm256_min_epi32(candidate, _mm256_set1_epi32(126));
            let error = square_error(x, candidate, step);
            let better = _mm256_cmp_ps::<_CMP_LT_OQ>(error, least);
            least = _mm256_blendv_ps(least, error, better);
            best = select(better, candidate, best);
        }
    }
    best
}

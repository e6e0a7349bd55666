//! Floats → codes and scales, 16 blocks at a time, a block a lane.

use core::arch::x86_64::*;

use super::blocks::{Blocks, LANES, VALUES, first_lanes};
use super::values::widen;
use crate::backend::cpu::kernels::{AHEAD, Aligned, prefetch};
use crate::format::BLOCK;
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::e4m3;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
    let step = Step { inverse: _mm512_set1_ps(encode.inverse), sixth: _mm512_set1_ps(encode.sixth) };
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
    inverse: __m512,
    sixth: __m512,
}

/// What is known of blocks before they are encoded.
struct Scaled {
    r: __m512,
    /// Lanes whose codes may differ from zero: a zero scale has zero codes, signs included, and so has a block that
    /// is not finite.
    live: __mmask16,
    /// One byte a lane.
    scales: __m512i,
}

impl Scaled {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn zero() -> Scaled {
        Scaled { r: _mm512_setzero_ps(), live: 0, scales: _mm512_setzero_si512() }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn choose_scales(blocks: &Blocks, step: &Step, rule: ScaleRule, scaled: &mut Scaled) -> u32 {
    let Blocks { x, amax } = blocks;
    let amax = *amax;
    let finite = _mm512_cmplt_epi32_mask(amax, _mm512_set1_epi32(0x7F80_0000));
    let amax = _mm512_castsi512_ps(_mm512_maskz_mov_epi32(finite, amax));

    let t = _mm512_mul_ps(amax, step.sixth);
    let saturated = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(t, _mm512_set1_ps(block::SATURATION));
    let mut best = encode_e4m3(t);
    match rule {
        ScaleRule::Amax => {}
        ScaleRule::FourOverSix => {
            let wide = encode_e4m3(_mm512_mul_ps(t, _mm512_set1_ps(1.5)));
            let (narrow_error, wide_error) = (square_error(x, best, step), square_error(x, wide, step));
            let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(wide_error, narrow_error);
            best = _mm512_mask_mov_epi32(best, better, wide);
        }
        ScaleRule::MinMse => best = least_error(x, best, step),
    }

    *scaled = Scaled {
        r: reciprocal(best, step),
        live: finite & _mm512_test_epi32_mask(best, best),
        scales: _mm512_mask_mov_epi32(_mm512_set1_epi32(e4m3::NAN as i32), finite, best),
    };
    let mut flags = 0;
    if finite != 0xFFFF {
        flags |= block::FLAG_NON_FINITE;
    }
    if saturated != 0 {
        flags |= block::FLAG_SATURATED;
    }
    flags
}

/// Encodes blocks whose scales are chosen, and stores as many as the slices have room for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn write(blocks: &Blocks, scaled: &Scaled, codes: &mut [u8], scales: &mut [u8]) {
    let [low, high] = encode_blocks(&blocks.x, scaled.r);
    let (low, high) = (_mm512_maskz_mov_epi32(scaled.live, low), _mm512_maskz_mov_epi32(scaled.live, high));
    let [first, second] = interleave(low, high);
    let lanes = first_lanes(scales.len());
    // SAFETY: the masks cover the blocks that there are.
    unsafe {
        let at: *mut i64 = codes.as_mut_ptr().cast();
        _mm512_mask_storeu_epi64(at, lanes as __mmask8, first);
        _mm512_mask_storeu_epi64(at.wrapping_add(8), (lanes >> 8) as __mmask8, second);
        _mm_mask_storeu_epi8(scales.as_mut_ptr().cast(), lanes, _mm512_cvtepi32_epi8(scaled.scales));
    }
}

/// `e4m3::encode` in every lane; t is zero or above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn encode_e4m3(t: __m512) -> __m512i {
    let t = _mm512_min_ps(t, _mm512_set1_ps(e4m3::MAX));
    let bits = _mm512_castps_si512(t);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<20>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x0007_FFFF)), odd);
    let normal = _mm512_sub_epi32(_mm512_srli_epi32::<20>(up), _mm512_set1_epi32(120 << 3));
    let small = _mm512_castps_si512(_mm512_add_ps(t, _mm512_set1_ps(24576.0)));
    let is_small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(t, _mm512_set1_ps(0.015625));
    _mm512_mask_and_epi32(normal, is_small, small, _mm512_set1_epi32(0xFF))
}

/// `e4m3::decode` of bytes below 0x7F. Subnormal codes go through an integer, as a subnormal float would be slow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn decode_e4m3(byte: __m512i) -> __m512 {
    let normal = _mm512_add_epi32(_mm512_slli_epi32::<20>(byte), _mm512_set1_epi32(120 << 23));
    let is_small = _mm512_cmplt_epi32_mask(byte, _mm512_set1_epi32(8));
    let small = _mm512_cvtepi32_ps(byte);
    _mm512_mask_mul_ps(_mm512_castsi512_ps(normal), is_small, small, _mm512_set1_ps(0.001953125))
}

/// r of step 3. The minimum returns its second operand where the first is NaN, as `f32::min` does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn reciprocal(scale: __m512i, step: &Step) -> __m512 {
    let product = _mm512_mul_ps(decode_e4m3(scale), step.inverse);
    _mm512_min_ps(_mm512_div_ps(_mm512_set1_ps(1.0), product), _mm512_set1_ps(f32::MAX))
}

/// 2^22 + 3. Added to |y| in [1, 2), or below 1, in units of 2^22, it leaves y rounded to halves, ties to even, in
/// the low bits; [2, 4) and [4, 8) likewise with the constant times two and four.
const ROUNDER: f32 = 4_194_307.0;

/// y = x · r, saturated at ±6, as (y's power of two, at least 1, with y's sign; that · ROUNDER + y).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn rounded(x: __m512, r: __m512) -> (__m512, __m512) {
    // vrange: the smaller or larger magnitude, with the first operand's sign.
    const SMALLER: i32 = 0b0010;
    const LARGER: i32 = 0b0011;
    let y = _mm512_range_ps::<SMALLER>(_mm512_mul_ps(x, r), _mm512_set1_ps(6.0));
    let power = _mm512_range_ps::<LARGER>(y, _mm512_set1_ps(1.0));
    let power = _mm512_and_ps(power, _mm512_castsi512_ps(_mm512_set1_epi32(0xFF80_0000_u32 as i32)));
    (power, _mm512_fmadd_ps(power, _mm512_set1_ps(ROUNDER), y))
}

/// The codes of all blocks: nibble k % 8 of word k / 8 of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn encode_blocks(x: &[__m512; BLOCK], r: __m512) -> [__m512i; 2] {
    let mut words = [_mm512_setzero_si512(); 2];
    for (word, x) in words.iter_mut().zip(x.as_chunks::<8>().0) {
        for &x in x.iter().rev() {
            let sum = _mm512_castps_si512(rounded(x, r).1);
            // The exponent, whose last bit lands on the code's bit 1, makes up for the coarser steps.
            let code = _mm512_add_epi32(sum, _mm512_srli_epi32::<22>(sum));
            // Three bits of the code, and above them the sign: code & 7 | sign & !7.
            let sign = _mm512_srli_epi32::<28>(sum);
            let nibble = _mm512_ternarylogic_epi32::<0xE4>(code, sign, _mm512_set1_epi32(7));
            *word = _mm512_or_si512(_mm512_slli_epi32::<4>(*word), nibble);
        }
    }
    words
}

/// The two words of each lane → eight bytes a block, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn interleave(low: __m512i, high: __m512i) -> [__m512i; 2] {
    // Blocks 0, 1, 4, 5, 8, 9, 12, 13, and the others.
    let (a, b) = (_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high));
    let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, second, b)]
}

/// Σ (e2m1 · sf · (1/G) − x)² of every block in index order. Under a zero scale the value is 0 whatever the code.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn square_error(x: &[__m512; BLOCK], scale: __m512i, step: &Step) -> __m512 {
    let (r, sf) = (reciprocal(scale, step), decode_e4m3(scale));
    let mut error = _mm512_setzero_ps();
    for &x in x {
        let (power, sum) = rounded(x, r);
        // Taking the constant off again leaves the rounded value: both steps are exact.
        let e2m1 = _mm512_fnmadd_ps(power, _mm512_set1_ps(ROUNDER), sum);
        let value = _mm512_mul_ps(_mm512_mul_ps(e2m1, sf), step.inverse);
        let difference = _mm512_sub_ps(value, x);
        error = _mm512_add_ps(error, _mm512_mul_ps(difference, difference));
    }
    error
}

/// The scale of least error among base, base − 1, base + 1, … base ± 7, ties to the first.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn least_error(x: &[__m512; BLOCK], base: __m512i, step: &Step) -> __m512i {
    let (mut best, mut least) = (base, square_error(x, base, step));
    for distance in 1..=7 {
        for offset in [-distance, distance] {
            let candidate = _mm512_add_epi32(base, _mm512_set1_epi32(offset));
            let candidate = _mm512_max_epi32(candidate, _mm512_setzero_si512());
            let candidate = _mm512_min_epi32(candidate, _mm512_set1_epi32(126));
            let error = square_error(x, candidate, step);
            let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(error, least);
            least = _mm512_mask_mov_ps(least, better, error);
            best = _mm512_mask_mov_epi32(best, better, candidate);
        }
    }
    best
}

//! Kernels that treat blocks of 16 values as one: 16 blocks at a time, transposed so that a lane is a block and
//! vector k holds value k of each. A block's maximum, its sums in index order, and its scale are then plain lanes.

use core::arch::x86_64::*;

use super::values::{canonical, load, store, widen};
use crate::format::BLOCK;
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::e4m3;

/// Blocks in a group, one a lane.
const LANES: usize = 16;
const VALUES: usize = LANES * BLOCK;

/// rows[i][j] → rows[j][i].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose(rows: &mut [__m512; 16]) {
    // Four rows at a time: part 4g + j holds, in its quarter q, rows 4g … 4g+3 of column 4q + j.
    let mut part = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        part[4 * g] = _mm512_shuffle_ps::<0x44>(ab_low, cd_low);
        part[4 * g + 1] = _mm512_shuffle_ps::<0xEE>(ab_low, cd_low);
        part[4 * g + 2] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
        part[4 * g + 3] = _mm512_shuffle_ps::<0xEE>(ab_high, cd_high);
    }
    // Then quarters: 0x88 picks the even quarters of both operands, 0xDD the odd ones.
    for j in 0..4 {
        let [a, b, c, d] = [part[j], part[4 + j], part[8 + j], part[12 + j]];
        let (even_ab, even_cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (odd_ab, odd_cd) = (_mm512_shuffle_f32x4::<0xDD>(a, b), _mm512_shuffle_f32x4::<0xDD>(c, d));
        rows[j] = _mm512_shuffle_f32x4::<0x88>(even_ab, even_cd);
        rows[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd);
        rows[8 + j] = _mm512_shuffle_f32x4::<0xDD>(even_ab, even_cd);
        rows[12 + j] = _mm512_shuffle_f32x4::<0xDD>(odd_ab, odd_cd);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn transpose_lines(x: &[f32], width: usize, out: &mut [f32], stride: usize) {
    let whole = width & !(LANES - 1);
    for j in (0..whole).step_by(LANES) {
        let mut tile = [_mm512_setzero_ps(); 16];
        for (i, row) in tile.iter_mut().enumerate() {
            *row = load(x[i * width + j..].first_chunk().unwrap());
        }
        transpose(&mut tile);
        for (i, column) in tile.into_iter().enumerate() {
            store(out[(j + i) * stride..].first_chunk_mut().unwrap(), column);
        }
    }
    for (i, line) in x.chunks_exact(width).enumerate() {
        for j in whole..width {
            out[j * stride + i] = line[j];
        }
    }
}

/// Up to 16 blocks, transposed; the lanes of missing blocks are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load_blocks(x: &[f32]) -> [__m512; BLOCK] {
    let mut padded;
    let x = match x.first_chunk::<VALUES>() {
        Some(x) => x,
        None => {
            padded = [0.0; VALUES];
            padded[..x.len()].copy_from_slice(x);
            &padded
        }
    };
    let mut v = [_mm512_setzero_ps(); BLOCK];
    for (v, block) in v.iter_mut().zip(x.as_chunks::<BLOCK>().0) {
        *v = load(block);
    }
    transpose(&mut v);
    v
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn square_sums(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks(VALUES).zip(out.chunks_mut(LANES)) {
        let mut sums = _mm512_setzero_ps();
        for v in load_blocks(x) {
            sums = _mm512_fmadd_ps(v, v, sums);
        }
        // SAFETY: the mask covers what `out` has.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), first_lanes(out.len()), sums) };
    }
}

#[inline]
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn quantize(
    x: &[f32],
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    if encode.invalid {
        return fill_invalid(codes, scales);
    }
    let step = Step::new(encode);
    let mut flags = 0;
    let parts = x.chunks(VALUES).zip(codes.chunks_mut(VALUES / 2)).zip(scales.chunks_mut(LANES));
    for ((x, codes), scales) in parts {
        let (out, seen) = quantize_blocks(&Blocks::new(load_blocks(x)), &step, rule);
        flags |= seen;
        write(&out, codes, scales);
    }
    flags
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
    if encode.invalid {
        return fill_invalid(codes, scales);
    }
    let step = Step::new(encode);
    let mut flags = 0;
    let parts = codes.chunks_mut(VALUES / 2).zip(scales.chunks_mut(LANES));
    for (i, (codes, scales)) in parts.enumerate() {
        let mut x = [0f32; VALUES];
        // SAFETY: the caller vouches for scales.len() blocks.
        let blocks = unsafe {
            let src = src.add(i * VALUES * dtype.bytes());
            if dtype == Dtype::Bf16 {
                Blocks::from_bf16(std::slice::from_raw_parts(src.cast(), scales.len()))
            } else {
                widen(dtype, src, &mut x[..scales.len() * BLOCK]);
                Blocks::new(load_blocks(&x))
            }
        };
        let (out, seen) = quantize_blocks(&blocks, &step, rule);
        flags |= seen;
        write(&out, codes, scales);
    }
    flags
}

fn fill_invalid(codes: &mut [u8], scales: &mut [u8]) -> u32 {
    codes.fill(0);
    scales.fill(e4m3::NAN);
    if scales.is_empty() { 0 } else { block::FLAG_BAD_DECODE_SCALE }
}

/// Where the results of up to 16 blocks go.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn write(out: &Quantized, codes: &mut [u8], scales: &mut [u8]) {
    let lanes = first_lanes(scales.len());
    // SAFETY: the masks cover the blocks that there are.
    unsafe {
        let at: *mut i64 = codes.as_mut_ptr().cast();
        _mm512_mask_storeu_epi64(at, lanes as __mmask8, out.codes[0]);
        _mm512_mask_storeu_epi64(at.wrapping_add(8), (lanes >> 8) as __mmask8, out.codes[1]);
        _mm_mask_storeu_epi8(scales.as_mut_ptr().cast(), lanes, _mm512_cvtepi32_epi8(out.scales));
    }
}

/// Transposed blocks and the bits of their largest magnitudes.
struct Blocks {
    x: [__m512; BLOCK],
    amax: __m512i,
}

impl Blocks {
    /// As integers magnitudes compare like floats, and NaNs and infinities above all numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(x: [__m512; BLOCK]) -> Blocks {
        let mut amax = _mm512_setzero_si512();
        for v in x {
            let magnitude = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFF_FFFF));
            amax = _mm512_max_epi32(amax, magnitude);
        }
        Blocks { x, amax }
    }

    /// Up to 16 blocks of bf16. Pairs of values are transposed, which takes half the shuffles, and then split.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn from_bf16(src: &[[u8; 2 * BLOCK]]) -> Blocks {
        let mut padded;
        let src = match src.first_chunk::<LANES>() {
            Some(src) => src,
            None => {
                padded = [[0; 2 * BLOCK]; LANES];
                padded[..src.len()].copy_from_slice(src);
                &padded
            }
        };
        let pairs = transpose_pairs(src);
        let (mut x, mut amax) = ([_mm512_setzero_ps(); BLOCK], _mm512_setzero_si512());
        for (two, pair) in x.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            let magnitudes = _mm512_and_si512(pair, _mm512_set1_epi16(0x7FFF));
            amax = _mm512_max_epu16(amax, magnitudes);
            two[0] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            two[1] = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)));
        }
        let odd = _mm512_and_si512(amax, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
        Blocks { x, amax: _mm512_max_epi32(odd, _mm512_slli_epi32::<16>(amax)) }
    }
}

/// Blocks of bf16 → vectors of pairs (2j, 2j + 1), a block a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose_pairs(src: &[[u8; 2 * BLOCK]; LANES]) -> [__m512i; BLOCK / 2] {
    // Blocks i and i + 4 side by side, of each eight: then the lanes come out in order.
    let mut rows = [_mm512_setzero_si512(); 8];
    for (i, row) in rows.iter_mut().enumerate() {
        let at = src[i / 4 * 8 + i % 4..].as_ptr();
        // SAFETY: blocks up to 15 are there.
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(at.cast()));
            *row = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(at.add(4).cast()));
        }
    }
    let mut pairs = [_mm512_setzero_si512(); 8];
    let mut part = [_mm512_setzero_si512(); 8];
    for g in 0..2 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        part[4 * g] = _mm512_unpacklo_epi64(ab_low, cd_low);
        part[4 * g + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        part[4 * g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        part[4 * g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    for j in 0..4 {
        pairs[j] = _mm512_shuffle_i32x4::<0x88>(part[j], part[4 + j]);
        pairs[4 + j] = _mm512_shuffle_i32x4::<0xDD>(part[j], part[4 + j]);
    }
    pairs
}

/// `Encode` in every lane.
struct Step {
    inverse: __m512,
    sixth: __m512,
}

impl Step {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(encode: &Encode) -> Step {
        Step { inverse: _mm512_set1_ps(encode.inverse), sixth: _mm512_set1_ps(encode.sixth) }
    }
}

struct Quantized {
    /// Eight bytes a block, in order.
    codes: [__m512i; 2],
    /// One byte a lane.
    scales: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_blocks(blocks: &Blocks, step: &Step, rule: ScaleRule) -> (Quantized, u32) {
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

    // A zero scale has zero codes, signs included, and so has a block that is not finite.
    let live = finite & _mm512_test_epi32_mask(best, best);
    let [low, high] = encode_blocks(x, reciprocal(best, step));
    let codes = interleave(_mm512_maskz_mov_epi32(live, low), _mm512_maskz_mov_epi32(live, high));
    let scales = _mm512_mask_mov_epi32(_mm512_set1_epi32(e4m3::NAN as i32), finite, best);
    let mut flags = 0;
    if finite != 0xFFFF {
        flags |= block::FLAG_NON_FINITE;
    }
    if saturated != 0 {
        flags |= block::FLAG_SATURATED;
    }
    (Quantized { codes, scales }, flags)
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
#[inline]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn dequantize(codes: &[u8], scales: &[u8], decode_scale: f32, out: &mut [f32]) {
    let table = _mm512_setr_ps(
        0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
    );
    let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    let blocks = out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<8>().0);
    for ((out, &codes), &scale) in blocks.zip(scales) {
        let codes = u64::from_le_bytes(codes);
        let words = _mm512_mask_set1_epi32(_mm512_set1_epi32(codes as i32), 0xFF00, (codes >> 32) as i32);
        // The permutation looks at the low four bits of each lane: its nibble.
        let e2m1 = _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), table);
        let value = _mm512_mul_ps(e2m1, _mm512_set1_ps(e4m3::decode(scale)));
        let value = canonical(_mm512_mul_ps(value, _mm512_set1_ps(decode_scale)));
        store(out, value);
    }
}

//! Kernels that treat blocks of 16 values as one: 8 blocks at a time, transposed so that a lane is a block and
//! vector k holds value k of each. A block's maximum, its sums in index order, and its scale are then plain lanes.

use core::arch::x86_64::*;

use super::values::{canonical, load, store, widen};
use crate::format::BLOCK;
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::e4m3;

/// Blocks in a group, one a lane.
const LANES: usize = 8;
const VALUES: usize = LANES * BLOCK;

/// rows[i][j] → rows[j][i].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    // Four rows at a time: part 4g + j holds, in its half h, rows 4g … 4g+3 of column 4h + j.
    let mut part = [_mm256_setzero_ps(); 8];
    for g in 0..2 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        part[4 * g] = _mm256_shuffle_ps::<0x44>(ab_low, cd_low);
        part[4 * g + 1] = _mm256_shuffle_ps::<0xEE>(ab_low, cd_low);
        part[4 * g + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
        part[4 * g + 3] = _mm256_shuffle_ps::<0xEE>(ab_high, cd_high);
    }
    // Then halves: 0x20 picks the low halves of both operands, 0x31 the high ones.
    let mut columns = [_mm256_setzero_ps(); 8];
    for j in 0..4 {
        columns[j] = _mm256_permute2f128_ps::<0x20>(part[j], part[4 + j]);
        columns[4 + j] = _mm256_permute2f128_ps::<0x31>(part[j], part[4 + j]);
    }
    columns
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn transpose_lines(x: &[f32], width: usize, out: &mut [f32], stride: usize) {
    let whole = width & !(LANES - 1);
    for (first, j) in [0, LANES].into_iter().flat_map(|i| (0..whole).step_by(LANES).map(move |j| (i, j))) {
        let mut tile = [_mm256_setzero_ps(); LANES];
        for (i, row) in tile.iter_mut().enumerate() {
            *row = load(x[(first + i) * width + j..].first_chunk().unwrap());
        }
        for (i, column) in transpose(tile).into_iter().enumerate() {
            store(out[(j + i) * stride + first..].first_chunk_mut().unwrap(), column);
        }
    }
    for (i, line) in x.chunks_exact(width).enumerate() {
        for j in whole..width {
            out[j * stride + i] = line[j];
        }
    }
}

/// Up to 8 blocks, transposed; the lanes of missing blocks are zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_blocks(x: &[f32]) -> [__m256; BLOCK] {
    let mut padded;
    let x = match x.first_chunk::<VALUES>() {
        Some(x) => x,
        None => {
            padded = [0.0; VALUES];
            padded[..x.len()].copy_from_slice(x);
            &padded
        }
    };
    // Halves of blocks alternate: values 0 to 7 and 8 to 15.
    let halves = x.as_chunks::<LANES>().0;
    let mut v = [_mm256_setzero_ps(); BLOCK];
    for (half, v) in v.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        for (block, v) in v.iter_mut().enumerate() {
            *v = load(&halves[2 * block + half]);
        }
        *v = transpose(*v);
    }
    v
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn square_sums(x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks(VALUES).zip(out.chunks_mut(LANES)) {
        let mut sums = _mm256_setzero_ps();
        for v in load_blocks(x) {
            sums = _mm256_fmadd_ps(v, v, sums);
        }
        let mut lanes = [0f32; LANES];
        store(&mut lanes, sums);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
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

/// Where the results of up to 8 blocks go.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn write(out: &Quantized, codes: &mut [u8], scales: &mut [u8]) {
    let (out_codes, out_scales) = out.bytes();
    codes.copy_from_slice(&out_codes[..codes.len()]);
    scales.copy_from_slice(&out_scales[..scales.len()]);
}

/// Transposed blocks and the bits of their largest magnitudes.
struct Blocks {
    x: [__m256; BLOCK],
    amax: __m256i,
}

impl Blocks {
    /// As integers magnitudes compare like floats, and NaNs and infinities above all numbers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new(x: [__m256; BLOCK]) -> Blocks {
        let mut amax = _mm256_setzero_si256();
        for v in x {
            let magnitude = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFF_FFFF));
            amax = _mm256_max_epi32(amax, magnitude);
        }
        Blocks { x, amax }
    }

    /// Up to 8 blocks of bf16. Pairs of values are transposed, which takes half the shuffles, and then split.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
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
        let (mut x, mut amax) = ([_mm256_setzero_ps(); BLOCK], _mm256_setzero_si256());
        for (two, pair) in x.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            let magnitudes = _mm256_and_si256(pair, _mm256_set1_epi16(0x7FFF));
            amax = _mm256_max_epu16(amax, magnitudes);
            two[0] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            two[1] = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(0xFFFF_0000_u32 as i32)));
        }
        let odd = _mm256_and_si256(amax, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
        Blocks { x, amax: _mm256_max_epi32(odd, _mm256_slli_epi32::<16>(amax)) }
    }
}

/// Blocks of bf16 → vectors of pairs (2j, 2j + 1), a block a lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose_pairs(src: &[[u8; 2 * BLOCK]; LANES]) -> [__m256i; BLOCK / 2] {
    let mut rows = [_mm256_setzero_ps(); LANES];
    for (row, block) in rows.iter_mut().zip(src) {
        // SAFETY: a block is 32 bytes.
        *row = unsafe { _mm256_loadu_ps(block.as_ptr().cast()) };
    }
    let mut pairs = [_mm256_setzero_si256(); LANES];
    for (pair, column) in pairs.iter_mut().zip(transpose(rows)) {
        *pair = _mm256_castps_si256(column);
    }
    pairs
}

/// `Encode` in every lane.
struct Step {
    inverse: __m256,
    sixth: __m256,
}

impl Step {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new(encode: &Encode) -> Step {
        Step { inverse: _mm256_set1_ps(encode.inverse), sixth: _mm256_set1_ps(encode.sixth) }
    }
}

struct Quantized {
    /// Eight bytes a block, in order.
    codes: [__m256i; 2],
    /// One byte a lane.
    scales: __m256i,
}

impl Quantized {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn bytes(&self) -> ([u8; VALUES / 2], [u8; LANES]) {
        let (mut codes, mut scales) = ([0u8; VALUES / 2], [0u32; LANES]);
        // SAFETY: the arrays have the size of the vectors.
        unsafe {
            _mm256_storeu_si256(codes.as_mut_ptr().cast(), self.codes[0]);
            _mm256_storeu_si256(codes.as_mut_ptr().add(32).cast(), self.codes[1]);
            _mm256_storeu_si256(scales.as_mut_ptr().cast(), self.scales);
        }
        (codes, scales.map(|byte| byte as u8))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_blocks(blocks: &Blocks, step: &Step, rule: ScaleRule) -> (Quantized, u32) {
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

    // A zero scale has zero codes, signs included, and so has a block that is not finite.
    let live = _mm256_andnot_si256(_mm256_cmpeq_epi32(best, _mm256_setzero_si256()), finite);
    let [low, high] = encode_blocks(x, reciprocal(best, step));
    let codes = interleave(_mm256_and_si256(live, low), _mm256_and_si256(live, high));
    let scales = select(_mm256_castsi256_ps(finite), best, _mm256_set1_epi32(e4m3::NAN as i32));
    let mut flags = 0;
    if _mm256_movemask_epi8(finite) != -1 {
        flags |= block::FLAG_NON_FINITE;
    }
    if _mm256_movemask_ps(saturated) != 0 {
        flags |= block::FLAG_SATURATED;
    }
    (Quantized { codes, scales }, flags)
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
#[inline]
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

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn dequantize(codes: &[u8], scales: &[u8], decode_scale: f32, out: &mut [f32]) {
    let table = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
    let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    let blocks = out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(codes.as_chunks::<8>().0);
    for ((out, codes), &scale) in blocks.zip(scales) {
        for (out, &word) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(codes.as_chunks::<4>().0) {
            let nibbles = _mm256_srlv_epi32(_mm256_set1_epi32(i32::from_le_bytes(word)), shifts);
            // The permutation looks at the low three bits of each lane: the magnitude.
            let magnitude = _mm256_permutevar8x32_ps(table, nibbles);
            let sign = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(nibbles));
            let e2m1 = _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0)));
            let value = _mm256_mul_ps(e2m1, _mm256_set1_ps(e4m3::decode(scale)));
            store(out, canonical(_mm256_mul_ps(value, _mm256_set1_ps(decode_scale))));
        }
    }
}

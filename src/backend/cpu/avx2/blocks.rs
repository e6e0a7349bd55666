//! Kernels that treat blocks of 16 values as one: 8 blocks at a time, transposed so that a lane is a block and
//! vector k holds value k of each. A block's maximum, its sums in index order, and its scale are then plain lanes.

use core::arch::x86_64::*;

use super::values::{canonical, load, store};
use crate::format::BLOCK;
use crate::format::e4m3;

/// Blocks in a group, one a lane.
pub const LANES: usize = 8;
pub const VALUES: usize = LANES * BLOCK;

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
pub fn load_blocks(x: &[f32]) -> [__m256; BLOCK] {
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

/// Transposed blocks and the bits of their largest magnitudes.
pub struct Blocks {
    pub x: [__m256; BLOCK],
    pub amax: __m256i,
}

impl Blocks {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn zero() -> Blocks {
        Blocks { x: [_mm256_setzero_ps(); BLOCK], amax: _mm256_setzero_si256() }
    }

    /// Takes up to 8 blocks. As integers magnitudes compare like floats, and NaNs and infinities above all numbers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn fill(&mut self, x: &[f32]) {
        self.x = load_blocks(x);
        self.amax = _mm256_setzero_si256();
        for v in self.x {
            let magnitude = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFF_FFFF));
            self.amax = _mm256_max_epi32(self.amax, magnitude);
        }
    }

    /// Takes up to 8 blocks of bf16. Pairs of values are transposed, which takes half the shuffles, and then split.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn fill_bf16(&mut self, src: &[[u8; 2 * BLOCK]]) {
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
        let high = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
        let mut amax = _mm256_setzero_si256();
        for (two, pair) in self.x.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            amax = _mm256_max_epu16(amax, _mm256_and_si256(pair, _mm256_set1_epi16(0x7FFF)));
            two[0] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            two[1] = _mm256_castsi256_ps(_mm256_and_si256(pair, high));
        }
        self.amax = _mm256_max_epi32(_mm256_and_si256(amax, high), _mm256_slli_epi32::<16>(amax));
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

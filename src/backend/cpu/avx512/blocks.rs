//! Kernels that treat blocks of 16 values as one: 16 blocks at a time, transposed so that a lane is a block and
//! vector k holds value k of each. A block's maximum, its sums in index order, and its scale are then plain lanes.

use core::arch::x86_64::*;

use super::values::{canonical, load, store};
use crate::format::BLOCK;
use crate::format::e4m3;

/// Blocks in a group, one a lane.
pub const LANES: usize = 16;
pub const VALUES: usize = LANES * BLOCK;

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
pub fn load_blocks(x: &[f32]) -> [__m512; BLOCK] {
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
pub fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Transposed blocks and the bits of their largest magnitudes.
pub struct Blocks {
    pub x: [__m512; BLOCK],
    pub amax: __m512i,
}

impl Blocks {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub fn zero() -> Blocks {
        Blocks { x: [_mm512_setzero_ps(); BLOCK], amax: _mm512_setzero_si512() }
    }

    /// Takes up to 16 blocks. As integers magnitudes compare like floats, and NaNs and infinities above all numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub fn fill(&mut self, x: &[f32]) {
        self.x = load_blocks(x);
        self.amax = _mm512_setzero_si512();
        for v in self.x {
            let magnitude = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFF_FFFF));
            self.amax = _mm512_max_epi32(self.amax, magnitude);
        }
    }

    /// Takes up to 16 blocks of bf16. Pairs of values are transposed, which takes half the shuffles, and then split.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
        let high = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
        let mut amax = _mm512_setzero_si512();
        for (two, pair) in self.x.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            amax = _mm512_max_epu16(amax, _mm512_and_si512(pair, _mm512_set1_epi16(0x7FFF)));
            two[0] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair));
            two[1] = _mm512_castsi512_ps(_mm512_and_si512(pair, high));
        }
        self.amax = _mm512_max_epi32(_mm512_and_si512(amax, high), _mm512_slli_epi32::<16>(amax));
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

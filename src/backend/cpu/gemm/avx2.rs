//! The product with AVX2, FMA and F16C: a panel of 16 weight rows is two registers wide.
//!
//! A chunk of a panel is unpacked once into the first-level cache; register tiles of 6 tokens (values) or 4 tokens
//! (codes) run over it.

use core::arch::x86_64::*;

use super::super::weights::{LANES, codes_at, scales_at};
use super::kernel::{CODE_CHUNK, CodeBlock, GemmKernels, Pass, VALUE_CHUNK};
use crate::format::{BLOCK, e4m3};

pub static KERNELS: GemmKernels = GemmKernels { pack_codes, values, codes };

/// Magnitudes of E2M1 · 256: stored scales decode to 1/256 of their value.
const MAGNITUDES: [f32; 8] = [0.0, 128.0, 256.0, 384.0, 512.0, 768.0, 1024.0, 1536.0];
/// Half units + 12: unsigned, as the first operand of vpmaddubsw must be.
const UNITS: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

unsafe fn values(pass: &Pass) {
    for panel in 0..pass.panel_count {
        for (first, blocks) in pass.chunks(VALUE_CHUNK) {
            // SAFETY: the table is chosen only where the processor has these features; the pass is the caller's.
            unsafe {
                unpack_values(pass, panel, first, blocks);
                let mut token = 0;
                while token < pass.tokens {
                    token += match pass.tokens - token {
                        6.. => value_tile::<6>(pass, token, panel, first, blocks),
                        4.. => value_tile::<4>(pass, token, panel, first, blocks),
                        2.. => value_tile::<2>(pass, token, panel, first, blocks),
                        _ => value_tile::<1>(pass, token, panel, first, blocks),
                    }
                }
            }
        }
    }
}

unsafe fn codes(pass: &Pass) {
    for panel in 0..pass.panel_count {
        for (first, blocks) in pass.chunks(CODE_CHUNK) {
            // SAFETY: as above.
            unsafe {
                unpack_codes(pass, panel, first, blocks);
                let mut token = 0;
                while token < pass.tokens {
                    token += match pass.tokens - token {
                        4.. => code_tile::<4>(pass, token, panel, first, blocks),
                        2.. => code_tile::<2>(pass, token, panel, first, blocks),
                        _ => code_tile::<1>(pass, token, panel, first, blocks),
                    }
                }
            }
        }
    }
}

pub unsafe fn pack_codes(codes: *const u8, scales: &[u8], to: *mut CodeBlock) {
    // SAFETY: the table is chosen only where the processor has these features; the addresses are the caller's.
    unsafe { pack_code_blocks(codes, scales, to) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_code_blocks(codes: *const u8, scales: &[u8], to: *mut CodeBlock) {
    // SAFETY: the caller vouches for 8 bytes and a block for every scale.
    unsafe {
        let (table, low) = (_mm_loadu_si128(UNITS.as_ptr().cast()), _mm_set1_epi8(15));
        for (i, &scale) in scales.iter().enumerate() {
            let pairs = _mm_loadl_epi64(codes.add(i * (BLOCK / 2)).cast());
            let (even, odd) = (_mm_and_si128(pairs, low), _mm_and_si128(_mm_srli_epi16::<4>(pairs), low));
            let units = _mm_shuffle_epi8(table, _mm_unpacklo_epi8(even, odd));
            let sums = _mm_sad_epu8(units, _mm_setzero_si128());
            let sum = _mm_cvtsi128_si32(sums) + _mm_extract_epi32::<2>(sums) - 12 * BLOCK as i32;
            let block = to.add(i);
            _mm_storeu_si128((&raw mut (*block).q).cast(), _mm_sub_epi8(units, _mm_set1_epi8(12)));
            (&raw mut (*block).start).write(-12 * sum);
            (&raw mut (*block).scale).write(e4m3::decode(scale) * 64.0);
        }
    }
}

/// 16 stored scales / 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales(bytes: *const u8) -> [__m256; 2] {
    // SAFETY: the caller vouches for 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.cast()) };
    let words = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
    [_mm256_cvtph_ps(_mm256_castsi256_si128(words)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(words))]
}

/// A chunk of a panel → e2m1 · e4m3, [k][lane].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_values(pass: &Pass, panel: usize, first: usize, blocks: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (from, to) = (pass.panel(panel), pass.unpacked.cast::<f32>());
        let (table, sign) = (_mm256_loadu_ps(MAGNITUDES.as_ptr()), _mm256_set1_epi32(i32::MIN));
        for i in 0..blocks {
            let scales = scales(from.add(scales_at(first + i)));
            for part in 0..4 {
                // Half of the block's k, half of its lanes.
                let (half, lanes) = (part / 2, part % 2);
                let words = from.add(codes_at(first + i) + 64 * half + 32 * lanes);
                let words = _mm256_loadu_si256(words.cast());
                for k in 0..8 {
                    let shift = (k % 4 * 8 + k / 4 * 4) as i32;
                    // Only the low 3 bits of a lane select; bit 3 becomes the sign.
                    let index = _mm256_srlv_epi32(words, _mm256_set1_epi32(shift));
                    let signs = _mm256_sllv_epi32(words, _mm256_set1_epi32(28 - shift));
                    let signs = _mm256_castsi256_ps(_mm256_and_si256(signs, sign));
                    let value = _mm256_xor_ps(_mm256_permutevar8x32_ps(table, index), signs);
                    let at = (i * BLOCK + 8 * half + k) * LANES + 8 * lanes;
                    _mm256_storeu_ps(to.add(at), _mm256_mul_ps(value, scales[lanes]));
                }
            }
        }
    }
}

/// T tokens held in registers over a chunk; returns T.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn value_tile<const T: usize>(
    pass: &Pass,
    token: usize,
    panel: usize,
    first: usize,
    blocks: usize,
) -> usize {
    let mut acc = [[_mm256_setzero_ps(); 2]; T];
    // SAFETY: the caller's promise.
    unsafe {
        let a: [*const f32; T] = std::array::from_fn(|t| pass.token::<f32>(token + t).add(first * BLOCK));
        let b = pass.unpacked.cast::<f32>();
        for k in 0..blocks * BLOCK {
            let b = [_mm256_loadu_ps(b.add(k * LANES)), _mm256_loadu_ps(b.add(k * LANES + 8))];
            for t in 0..T {
                let a = _mm256_set1_ps(a[t].add(k).read());
                acc[t][0] = _mm256_fmadd_ps(a, b[0], acc[t][0]);
                acc[t][1] = _mm256_fmadd_ps(a, b[1], acc[t][1]);
            }
        }
        add_totals(pass, token, panel, &acc);
    }
    T
}

/// A block of unpacked codes: operand j holds k = 4j … 4j + 3 of 8 lanes twice over, and the scales / 256.
#[repr(C)]
struct UnitBlock {
    operands: [[__m256i; 2]; 4],
    scales: [__m256; 2],
}

/// A chunk of a panel → half units + 12.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_codes(pass: &Pass, panel: usize, first: usize, blocks: usize) {
    const { assert!(CODE_CHUNK * size_of::<UnitBlock>() <= super::kernel::UNPACKED_BYTES) };
    // SAFETY: the caller's promise; `unpacked` is 64-byte aligned.
    unsafe {
        let (from, to) = (pass.panel(panel), pass.unpacked.cast::<UnitBlock>());
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(UNITS.as_ptr().cast()));
        let low = _mm256_set1_epi8(15);
        for i in 0..blocks {
            let mut operands = [[_mm256_setzero_si256(); 2]; 4];
            for part in 0..4 {
                let (half, lanes) = (part / 2, part % 2);
                let words = from.add(codes_at(first + i) + 64 * half + 32 * lanes);
                let words = _mm256_loadu_si256(words.cast());
                let high = _mm256_srli_epi16::<4>(words);
                operands[2 * half][lanes] = _mm256_shuffle_epi8(table, _mm256_and_si256(words, low));
                operands[2 * half + 1][lanes] = _mm256_shuffle_epi8(table, _mm256_and_si256(high, low));
            }
            to.add(i).write(UnitBlock { operands, scales: scales(from.add(scales_at(first + i))) });
        }
    }
}

/// T tokens held in registers over a chunk; returns T.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn code_tile<const T: usize>(
    pass: &Pass,
    token: usize,
    panel: usize,
    first: usize,
    blocks: usize,
) -> usize {
    let mut acc = [[_mm256_setzero_ps(); 2]; T];
    let ones = _mm256_set1_epi16(1);
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..blocks {
            let b = &*pass.unpacked.cast::<UnitBlock>().add(i);
            for (t, acc) in acc.iter_mut().enumerate() {
                let a = &*pass.token::<CodeBlock>(token + t).add(first + i);
                // Sums of 8 products, each at most 24 · 12, stay far inside 16 bits.
                let mut sums = [_mm256_setzero_si256(); 2];
                for (operand, q) in b.operands.iter().zip(a.words()) {
                    let q = _mm256_set1_epi32(q);
                    for lanes in 0..2 {
                        let products = _mm256_maddubs_epi16(operand[lanes], q);
                        sums[lanes] = _mm256_add_epi16(sums[lanes], products);
                    }
                }
                for lanes in 0..2 {
                    let dot =
                        _mm256_add_epi32(_mm256_madd_epi16(sums[lanes], ones), _mm256_set1_epi32(a.start));
                    let scale = _mm256_mul_ps(b.scales[lanes], _mm256_set1_ps(a.scale));
                    acc[lanes] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, acc[lanes]);
                }
            }
        }
        add_totals(pass, token, panel, &acc);
    }
    T
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_totals<const T: usize>(pass: &Pass, token: usize, panel: usize, acc: &[[__m256; 2]; T]) {
    for (t, acc) in acc.iter().enumerate() {
        for (lanes, acc) in acc.iter().enumerate() {
            // SAFETY: the caller vouches for the totals.
            unsafe {
                let total = pass.total(token + t, panel).add(8 * lanes);
                _mm256_storeu_ps(total, _mm256_add_ps(_mm256_loadu_ps(total), *acc));
            }
        }
    }
}

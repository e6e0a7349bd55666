//! The product with AVX-512 and VNNI: one panel of 16 weight rows is one register wide.
//!
//! Up to [`STREAM_TOKENS`] tokens use weights as they stream from memory, several panels at once so that enough
//! multiply-add chains run side by side. More tokens: a chunk of two panels is unpacked once into the first-level
//! cache, then register tiles of 14 tokens (values) or 8 tokens (codes) × 2 panels run over it.

use core::arch::x86_64::*;

use super::super::weights::{BLOCK_BYTES, LANES, QUAD, QUAD_BYTES, QUAD_SCALES, codes_at, scales_at};
use super::avx2;
use super::kernel::{CODE_CHUNK, CodeBlock, GemmKernels, Pass, STREAM_TOKENS, VALUE_CHUNK, VALUE_STRIDE};
use crate::format::BLOCK;

pub static KERNELS: GemmKernels = GemmKernels { pack_codes: avx2::pack_codes, values, codes };

/// E2M1 · 256: stored scales decode to 1/256 of their value.
const VALUES: [f32; 16] = {
    let half = [0.0, 128.0, 256.0, 384.0, 512.0, 768.0, 1024.0, 1536.0];
    let mut table = [0.0; 16];
    let mut i = 0;
    while i < 8 {
        (table[i], table[i + 8]) = (half[i], -half[i]);
        i += 1;
    }
    table
};
/// Half units + 12: unsigned, as the first operand of vpdpbusd must be.
const UNITS: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
/// How far ahead of its use weight memory is asked for, in bytes of a panel.
const AHEAD: usize = 4 * QUAD_BYTES;

unsafe fn values(pass: &Pass) {
    // SAFETY: the table is chosen only where the processor has these features.
    unsafe {
        match pass.tokens {
            1 => stream::<OneValue, 1, 4>(pass),
            2 => stream::<Values, 2, 2>(pass),
            3 => stream::<Values, 3, 2>(pass),
            4 => stream::<Values, 4, 2>(pass),
            5 => stream::<Values, 5, 2>(pass),
            6 => stream::<Values, 6, 2>(pass),
            7 => stream::<Values, 7, 2>(pass),
            8 => stream::<Values, 8, 2>(pass),
            _ => tiles_of_values(pass),
        }
    }
}

unsafe fn codes(pass: &Pass) {
    // SAFETY: as above.
    unsafe {
        match pass.tokens {
            1 => stream::<Codes, 1, 4>(pass),
            2 => stream::<Codes, 2, 2>(pass),
            3 => stream::<Codes, 3, 2>(pass),
            4 => stream::<Codes, 4, 2>(pass),
            5 => stream::<Codes, 5, 2>(pass),
            6 => stream::<Codes, 6, 2>(pass),
            7 => stream::<Codes, 7, 2>(pass),
            8 => stream::<Codes, 8, 2>(pass),
            _ => tiles_of_codes(pass),
        }
    }
    const { assert!(STREAM_TOKENS == 8) };
}

/// acc[token][panel] of one block of weights used where it lies.
trait Stream {
    const CHUNK: usize;
    unsafe fn block<const T: usize, const P: usize>(
        pass: &Pass,
        block: usize,
        codes: &[*const u8; P],
        scales: &[*const u8; P],
        acc: &mut [[__m512; P]; T],
    );
}

struct Values;
struct OneValue;
struct Codes;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn stream<S: Stream, const T: usize, const P: usize>(pass: &Pass) {
    // SAFETY: the pass describes readable and writable memory.
    unsafe {
        let mut panel = 0;
        while panel + P <= pass.panel_count {
            stream_panels::<S, T, P>(pass, panel);
            panel += P;
        }
        while panel + 2 <= pass.panel_count {
            stream_panels::<S, T, 2>(pass, panel);
            panel += 2;
        }
        if panel < pass.panel_count {
            stream_panels::<S, T, 1>(pass, panel);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn stream_panels<S: Stream, const T: usize, const P: usize>(pass: &Pass, panel: usize) {
    // SAFETY: the pass describes readable and writable memory; prefetching reads nothing.
    unsafe {
        let mut quads: [*const u8; P] = std::array::from_fn(|p| pass.panel(panel + p));
        for (first, blocks) in pass.chunks(S::CHUNK) {
            let mut acc = [[_mm512_setzero_ps(); P]; T];
            for quad in (first..first + blocks).step_by(QUAD) {
                for i in 0..QUAD.min(first + blocks - quad) {
                    let codes = quads.map(|q| q.add(i * BLOCK_BYTES));
                    let scales = quads.map(|q| q.add(QUAD_SCALES + i * LANES));
                    for q in quads {
                        _mm_prefetch::<_MM_HINT_T0>(q.wrapping_add(AHEAD + 2 * i * 64).cast());
                        _mm_prefetch::<_MM_HINT_T0>(q.wrapping_add(AHEAD + 2 * i * 64 + 64).cast());
                    }
                    S::block::<T, P>(pass, quad + i, &codes, &scales, &mut acc);
                }
                for q in &mut quads {
                    _mm_prefetch::<_MM_HINT_T0>(q.wrapping_add(AHEAD + QUAD_SCALES).cast());
                    *q = q.add(QUAD_BYTES);
                }
            }
            add_totals(pass, 0, panel, &acc);
        }
    }
}

impl Stream for Values {
    const CHUNK: usize = VALUE_CHUNK;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn block<const T: usize, const P: usize>(
        pass: &Pass,
        block: usize,
        codes: &[*const u8; P],
        scales: &[*const u8; P],
        acc: &mut [[__m512; P]; T],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let table = _mm512_loadu_ps(VALUES.as_ptr());
            let scales = scales.map(|s| scale(s));
            for half in 0..2 {
                let words = codes.map(|c| _mm512_loadu_si512(c.add(64 * half).cast()));
                for k in 0..8 {
                    let b: [__m512; P] =
                        std::array::from_fn(|p| _mm512_mul_ps(value(table, words[p], k), scales[p]));
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let a = pass.token::<f32>(t).add(block * BLOCK + 8 * half + k);
                        let a = _mm512_set1_ps(a.read());
                        for p in 0..P {
                            acc[p] = _mm512_fmadd_ps(a, b[p], acc[p]);
                        }
                    }
                }
            }
        }
    }
}

/// One token: its value times all 16 codes is the table that weights look up, one multiply for all panels.
///
/// The table is a · e2m1 / 256 and the scales make up for it: exact from the smallest bf16 subnormal to the largest
/// value, so that the fma rounds what the canonical order rounds.
impl Stream for OneValue {
    const CHUNK: usize = VALUE_CHUNK;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn block<const T: usize, const P: usize>(
        pass: &Pass,
        block: usize,
        codes: &[*const u8; P],
        scales: &[*const u8; P],
        acc: &mut [[__m512; P]; T],
    ) {
        const { assert!(T == 1) };
        // SAFETY: the caller's promise.
        unsafe {
            let table = _mm512_mul_ps(_mm512_loadu_ps(VALUES.as_ptr()), _mm512_set1_ps(1.0 / 65536.0));
            let scales = scales.map(|s| _mm512_mul_ps(scale(s), _mm512_set1_ps(65536.0)));
            for half in 0..2 {
                let words = codes.map(|c| _mm512_loadu_si512(c.add(64 * half).cast()));
                for k in 0..8 {
                    let a = pass.a.cast::<f32>().add(block * BLOCK + 8 * half + k).read();
                    let products = _mm512_mul_ps(_mm512_set1_ps(a), table);
                    for p in 0..P {
                        acc[0][p] = _mm512_fmadd_ps(value(products, words[p], k), scales[p], acc[0][p]);
                    }
                }
            }
        }
    }
}

impl Stream for Codes {
    const CHUNK: usize = CODE_CHUNK;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn block<const T: usize, const P: usize>(
        pass: &Pass,
        block: usize,
        codes: &[*const u8; P],
        scales: &[*const u8; P],
        acc: &mut [[__m512; P]; T],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let weights = codes.map(|c| units(c));
            let scales = scales.map(|s| scale(s));
            for (t, acc) in acc.iter_mut().enumerate() {
                dot_block(&*pass.token::<CodeBlock>(t).add(block), &weights, &scales, acc);
            }
        }
    }
}

/// acc[p] += (dot product of a block) · scales, for one token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
fn dot_block<const P: usize>(
    a: &CodeBlock,
    weights: &[[__m512i; 4]; P],
    scales: &[__m512; P],
    acc: &mut [__m512; P],
) {
    let (start, scale) = (_mm512_set1_epi32(a.start), _mm512_set1_ps(a.scale));
    let mut dot = [start; P];
    for (j, q) in a.words().into_iter().enumerate() {
        let q = _mm512_set1_epi32(q);
        for (dot, weights) in dot.iter_mut().zip(weights) {
            *dot = _mm512_dpbusd_epi32(*dot, weights[j], q);
        }
    }
    for p in 0..P {
        acc[p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[p]), _mm512_mul_ps(scales[p], scale), acc[p]);
    }
}

/// Asks for a block that the next panels will need; the address need not exist.
#[inline]
fn prefetch_block(panel: *const u8, block: usize) {
    // SAFETY: prefetching reads nothing.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(codes_at(block)).cast());
        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(codes_at(block) + 64).cast());
        _mm_prefetch::<_MM_HINT_T0>(panel.wrapping_add(scales_at(block)).cast());
    }
}

/// 16 stored scales / 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn scale(bytes: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.cast()) };
    _mm512_cvtph_ps(_mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes)))
}

/// E2M1 · 256 of the k-th of 8 codes in each 32-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
fn value(table: __m512, words: __m512i, k: usize) -> __m512 {
    // Only the low 4 bits of a lane select.
    let shift = (k % 4 * 8 + k / 4 * 4) as i32;
    _mm512_permutexvar_ps(_mm512_srlv_epi32(words, _mm512_set1_epi32(shift)), table)
}

/// The four byte operands of a block, k = 4j … 4j + 3 in lane order, half units + 12.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn units(codes: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller vouches for 128 bytes.
    let (z0, z1, table) = unsafe {
        let table = _mm_loadu_si128(UNITS.as_ptr().cast());
        (_mm512_loadu_si512(codes.cast()), _mm512_loadu_si512(codes.add(64).cast()), table)
    };
    let (table, low) = (_mm512_broadcast_i32x4(table), _mm512_set1_epi8(15));
    [z0, _mm512_srli_epi16::<4>(z0), z1, _mm512_srli_epi16::<4>(z1)]
        .map(|z| _mm512_shuffle_epi8(table, _mm512_and_si512(z, low)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn add_totals<const T: usize, const P: usize>(
    pass: &Pass,
    token: usize,
    panel: usize,
    acc: &[[__m512; P]; T],
) {
    for (t, acc) in acc.iter().enumerate() {
        for (p, acc) in acc.iter().enumerate() {
            // SAFETY: the caller vouches for the totals.
            unsafe {
                let total = pass.total(token + t, panel + p);
                _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), *acc));
            }
        }
    }
}

/// One chunk, many tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn tiles_of_values(pass: &Pass) {
    debug_assert!(pass.blocks <= VALUE_CHUNK && pass.a_stride == VALUE_STRIDE * 4);
    for panel in (0..pass.panel_count).step_by(2) {
        // SAFETY: the pass describes readable and writable memory; two panels fit into `unpacked`.
        unsafe {
            if panel + 1 < pass.panel_count {
                unpack_values(pass, panel);
                unpack_values(pass, panel + 1);
                value_tiles::<2>(pass, panel);
            } else {
                unpack_values(pass, panel);
                value_tiles::<1>(pass, panel);
            }
        }
    }
}

/// Floats of an unpacked chunk of a panel: [k][lane].
const UNPACKED_PANEL: usize = VALUE_CHUNK * BLOCK * LANES;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn unpack_values(pass: &Pass, panel: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let from = pass.panel(panel);
        let to = pass.unpacked.cast::<f32>().add(panel % 2 * UNPACKED_PANEL);
        let table = _mm512_loadu_ps(VALUES.as_ptr());
        for block in 0..pass.blocks {
            prefetch_block(pass.panels.wrapping_add((panel + 2) * pass.panel_stride), block);
            let scales = scale(from.add(scales_at(block)));
            for half in 0..2 {
                let words = _mm512_loadu_si512(from.add(codes_at(block) + 64 * half).cast());
                for k in 0..8 {
                    let b = _mm512_mul_ps(value(table, words, k), scales);
                    _mm512_storeu_ps(to.add((block * BLOCK + 8 * half + k) * LANES), b);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn value_tiles<const P: usize>(pass: &Pass, panel: usize) {
    let mut token = 0;
    while token < pass.tokens {
        // SAFETY: the caller's promise.
        unsafe {
            token += match pass.tokens - token {
                14.. => value_tile::<14, P>(pass, token, panel),
                8.. => value_tile::<8, P>(pass, token, panel),
                4.. => value_tile::<4, P>(pass, token, panel),
                2.. => value_tile::<2, P>(pass, token, panel),
                _ => value_tile::<1, P>(pass, token, panel),
            }
        }
    }
}

/// T tokens × P panels held in registers over a chunk; returns T.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn value_tile<const T: usize, const P: usize>(pass: &Pass, token: usize, panel: usize) -> usize {
    let mut acc = [[_mm512_setzero_ps(); P]; T];
    // SAFETY: the caller's promise.
    unsafe {
        let a = pass.token::<f32>(token);
        let b = pass.unpacked.cast::<f32>();
        for k in 0..pass.blocks * BLOCK {
            let b: [__m512; P] =
                std::array::from_fn(|p| _mm512_loadu_ps(b.add(p * UNPACKED_PANEL + k * LANES)));
            for (t, acc) in acc.iter_mut().enumerate() {
                let a = _mm512_set1_ps(a.add(t * VALUE_STRIDE + k).read());
                for p in 0..P {
                    acc[p] = _mm512_fmadd_ps(a, b[p], acc[p]);
                }
            }
        }
        add_totals(pass, token, panel, &acc);
    }
    T
}

/// A block of unpacked codes: the four operands and the scales / 256.
#[repr(C)]
struct UnitBlock {
    operands: [__m512i; 4],
    scales: __m512,
}

/// One chunk, many tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn tiles_of_codes(pass: &Pass) {
    debug_assert!(pass.blocks <= CODE_CHUNK);
    const { assert!(2 * CODE_CHUNK * size_of::<UnitBlock>() <= super::kernel::UNPACKED_BYTES) };
    for panel in (0..pass.panel_count).step_by(2) {
        // SAFETY: the pass describes readable and writable memory; two panels fit into `unpacked`.
        unsafe {
            if panel + 1 < pass.panel_count {
                unpack_codes(pass, panel);
                unpack_codes(pass, panel + 1);
                code_tiles::<2>(pass, panel);
            } else {
                unpack_codes(pass, panel);
                code_tiles::<1>(pass, panel);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn unpack_codes(pass: &Pass, panel: usize) {
    // SAFETY: the caller's promise; `unpacked` is 64-byte aligned.
    unsafe {
        let from = pass.panel(panel);
        let to = pass.unpacked.cast::<UnitBlock>().add(panel % 2 * CODE_CHUNK);
        for block in 0..pass.blocks {
            prefetch_block(pass.panels.wrapping_add((panel + 2) * pass.panel_stride), block);
            let operands = units(from.add(codes_at(block)));
            to.add(block).write(UnitBlock { operands, scales: scale(from.add(scales_at(block))) });
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn code_tiles<const P: usize>(pass: &Pass, panel: usize) {
    let mut token = 0;
    while token < pass.tokens {
        // SAFETY: the caller's promise.
        unsafe {
            token += match pass.tokens - token {
                8.. => code_tile::<8, P>(pass, token, panel),
                4.. => code_tile::<4, P>(pass, token, panel),
                2.. => code_tile::<2, P>(pass, token, panel),
                _ => code_tile::<1, P>(pass, token, panel),
            }
        }
    }
}

/// T tokens × P panels held in registers over a chunk; returns T.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn code_tile<const T: usize, const P: usize>(pass: &Pass, token: usize, panel: usize) -> usize {
    let mut acc = [[_mm512_setzero_ps(); P]; T];
    // SAFETY: the caller's promise.
    unsafe {
        let a = pass.token::<CodeBlock>(token);
        let b = pass.unpacked.cast::<UnitBlock>();
        for block in 0..pass.blocks {
            let weights: [[__m512i; 4]; P] =
                std::array::from_fn(|p| (*b.add(p * CODE_CHUNK + block)).operands);
            let scales: [__m512; P] = std::array::from_fn(|p| (*b.add(p * CODE_CHUNK + block)).scales);
            for (t, acc) in acc.iter_mut().enumerate() {
                dot_block(&*a.add(t * CODE_CHUNK + block), &weights, &scales, acc);
            }
        }
        add_totals(pass, token, panel, &acc);
    }
    T
}

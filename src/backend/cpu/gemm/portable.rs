//! The plain product: the canonical order written down, on any processor. The other files are held to it bit for bit.

use super::super::weights::{LANES, STORED_NAN, codes_at, scales_at};
use super::kernel::{CODE_CHUNK, CodeBlock, GemmKernels, Pass, UNPACKED_BYTES, VALUE_CHUNK};
use crate::format::math::fma;
use crate::format::{BLOCK, e2m1, e4m3};

pub static KERNELS: GemmKernels = GemmKernels { pack_codes, values, codes };

/// Half units of the two codes of a byte, the even k first.
const PAIRS: [[i8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [UNITS[byte & 15], UNITS[byte >> 4]];
        byte += 1;
    }
    pairs
};

unsafe fn pack_codes(codes: *const u8, scales: &[u8], to: *mut CodeBlock) {
    for (i, &scale) in scales.iter().enumerate() {
        let mut q = [0i8; BLOCK];
        for (j, pair) in q.chunks_exact_mut(2).enumerate() {
            // SAFETY: the caller vouches for 8 bytes a scale.
            pair.copy_from_slice(&PAIRS[unsafe { codes.add(i * (BLOCK / 2) + j).read() } as usize]);
        }
        let start = -12 * q.iter().map(|&v| v as i32).sum::<i32>();
        // SAFETY: the caller vouches for a block a scale.
        unsafe { to.add(i).write(CodeBlock { q, start, scale: e4m3::decode(scale) * 64.0 }) };
    }
}

unsafe fn values(pass: &Pass) {
    let weights = pass.unpacked.cast::<[f32; LANES]>();
    for panel in 0..pass.panel_count {
        for (first, blocks) in pass.chunks(VALUE_CHUNK) {
            // SAFETY: the pass describes readable and writable memory; a chunk of a panel fits into `unpacked`.
            unsafe {
                for i in 0..blocks {
                    let scales = block_scales(pass.panel(panel), first + i);
                    for (k, codes) in block_codes(pass.panel(panel), first + i).iter().enumerate() {
                        let b = std::array::from_fn(|lane| e2m1::decode(codes[lane]) * scales[lane]);
                        weights.add(i * BLOCK + k).write(b);
                    }
                }
                for token in 0..pass.tokens {
                    let a = pass.token::<f32>(token).add(first * BLOCK);
                    let mut acc = [0f32; LANES];
                    for k in 0..blocks * BLOCK {
                        let (a, b) = (a.add(k).read(), &*weights.add(k));
                        acc.iter_mut().zip(b).for_each(|(acc, &b)| *acc = fma(a, b, *acc));
                    }
                    add(pass.total(token, panel), &acc);
                }
            }
        }
    }
}

/// Half units of every code.
const UNITS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// An unpacked block: half units [k][lane], and scales.
struct UnitBlock {
    units: [[i8; LANES]; BLOCK],
    scales: [f32; LANES],
}

unsafe fn codes(pass: &Pass) {
    const { assert!(CODE_CHUNK * size_of::<UnitBlock>() <= UNPACKED_BYTES) };
    let weights = pass.unpacked.cast::<UnitBlock>();
    for panel in 0..pass.panel_count {
        for (first, blocks) in pass.chunks(CODE_CHUNK) {
            // SAFETY: the pass describes readable and writable memory; a chunk of a panel fits into `unpacked`.
            unsafe {
                for i in 0..blocks {
                    let units = block_codes(pass.panel(panel), first + i)
                        .map(|row| row.map(|code| UNITS[code as usize]));
                    let scales = block_scales(pass.panel(panel), first + i);
                    weights.add(i).write(UnitBlock { units, scales });
                }
                for token in 0..pass.tokens {
                    let mut acc = [0f32; LANES];
                    for i in 0..blocks {
                        let a = pass.token::<CodeBlock>(token).add(first + i).read();
                        let weights = &*weights.add(i);
                        let mut dots = [0i32; LANES];
                        for (&q, units) in a.q.iter().zip(&weights.units) {
                            dots.iter_mut().zip(units).for_each(|(dot, &u)| *dot += q as i32 * u as i32);
                        }
                        for ((acc, dot), scale) in acc.iter_mut().zip(dots).zip(weights.scales) {
                            *acc = fma(dot as f32, scale * (a.scale / 256.0), *acc);
                        }
                    }
                    add(pass.total(token, panel), &acc);
                }
            }
        }
    }
}

/// Codes of a block, [k][lane].
unsafe fn block_codes(panel: *const u8, block: usize) -> [[u8; LANES]; BLOCK] {
    let mut out = [[0; LANES]; BLOCK];
    for (k, codes) in out.iter_mut().enumerate() {
        let (half, j, shift) = (k / 8, k % 4, k % 8 / 4 * 4);
        for (lane, code) in codes.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the block.
            let byte = unsafe { panel.add(codes_at(block) + 64 * half + 4 * lane + j).read() };
            *code = byte >> shift & 15;
        }
    }
    out
}

unsafe fn block_scales(panel: *const u8, block: usize) -> [f32; LANES] {
    std::array::from_fn(|lane| {
        // SAFETY: the caller vouches for the block.
        let byte = unsafe { panel.add(scales_at(block) + lane).read() };
        if byte == STORED_NAN { f32::NAN } else { e4m3::decode(byte) }
    })
}

unsafe fn add(total: *mut f32, acc: &[f32; LANES]) {
    for (lane, acc) in acc.iter().enumerate() {
        // SAFETY: the caller vouches for the totals.
        unsafe { *total.add(lane) += acc };
    }
}

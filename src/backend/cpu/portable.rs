//! The plain kernels: the contract one value at a time, on any processor. Every other table is held to this one.

use super::kernels::{Isa, Kernels};
use crate::format::block::{self, Encode, ScaleRule};
use crate::format::dtype::Dtype;
use crate::format::math::{self, SwiGlu};
use crate::format::{BLOCK, dtype};

pub static KERNELS: Kernels = Kernels {
    isa: Isa::Portable,
    widen,
    transpose,
    narrow,
    round,
    finite_amax,
    quantize,
    quantize_from,
    dequantize,
    square_sums,
    add,
    scale_rows,
    mix_first,
    mix_more,
    swiglu,
    relu2,
};

pub unsafe fn widen(dtype: Dtype, src: *const u8, out: &mut [f32]) {
    for (i, v) in out.iter_mut().enumerate() {
        // SAFETY: the caller vouches for out.len() elements.
        *v = unsafe { dtype.load(src, i) };
    }
}

pub unsafe fn transpose(x: &[f32], width: usize, out: &mut [f32], stride: usize) {
    for (i, line) in x.chunks_exact(width).enumerate() {
        line.iter().enumerate().for_each(|(j, &v)| out[j * stride + i] = v);
    }
}

pub unsafe fn narrow(dtype: Dtype, x: &[f32], dst: *mut u8) {
    for (i, &v) in x.iter().enumerate() {
        // SAFETY: the caller vouches for x.len() elements.
        unsafe { dtype.store(dst, i, v) };
    }
}

pub unsafe fn round(dtype: Dtype, x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = dtype.round(*v));
}

pub unsafe fn finite_amax(amax: f32, x: &[f32]) -> f32 {
    x.iter().filter(|v| v.is_finite()).fold(amax, |m, v| m.max(v.abs()))
}

pub unsafe fn quantize(
    x: &[f32],
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    let mut flags = 0;
    let (blocks, _) = x.as_chunks::<BLOCK>();
    for ((x, codes), scale) in blocks.iter().zip(codes.chunks_exact_mut(BLOCK / 2)).zip(scales) {
        let (byte, seen) = block::quantize(x, encode, rule, codes);
        *scale = byte;
        flags |= seen;
    }
    flags
}

pub unsafe fn quantize_from(
    dtype: Dtype,
    src: *const u8,
    encode: &Encode,
    rule: ScaleRule,
    codes: &mut [u8],
    scales: &mut [u8],
) -> u32 {
    let mut flags = 0;
    for (i, (codes, scale)) in codes.chunks_exact_mut(BLOCK / 2).zip(scales.chunks_mut(1)).enumerate() {
        let mut x = [0f32; BLOCK];
        // SAFETY: the caller vouches for scales.len() blocks.
        unsafe {
            widen(dtype, src.add(i * BLOCK * dtype.bytes()), &mut x);
            flags |= quantize(&x, encode, rule, codes, scale);
        }
    }
    flags
}

pub unsafe fn dequantize(codes: &[u8], scales: &[u8], decode_scale: f32, out: &mut [f32]) {
    for ((out, codes), &scale) in out.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(BLOCK / 2)).zip(scales) {
        block::dequantize(codes, scale, decode_scale, out);
    }
}

pub unsafe fn square_sums(x: &[f32], out: &mut [f32]) {
    for (sum, block) in out.iter_mut().zip(x.chunks_exact(BLOCK)) {
        *sum = math::block_square_sum(block);
    }
}

pub unsafe fn add(x: &mut [f32], addend: &[f32]) {
    x.iter_mut().zip(addend).for_each(|(x, a)| *x += a);
}

pub unsafe fn scale_rows(x: &mut [f32], inv: f32, weight: &[f32], offset: f32) {
    x.iter_mut().zip(weight).for_each(|(x, w)| *x = (*x * inv) * (w + offset));
}

pub unsafe fn mix_first(mix: f32, x: &[f32], acc: &mut [f32]) {
    acc.iter_mut().zip(x).for_each(|(acc, x)| *acc = mix * x);
}

pub unsafe fn mix_more(mix: f32, x: &[f32], acc: &mut [f32]) {
    acc.iter_mut().zip(x).for_each(|(acc, x)| *acc = math::fma(mix, *x, *acc));
}

pub unsafe fn swiglu(gate: &mut [f32], up: &[f32], p: &SwiGlu) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = math::swiglu(*g, *u, p));
}

pub unsafe fn relu2(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = dtype::canonical(math::relu2(*v)));
}

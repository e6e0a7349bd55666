//! Kernels that treat every value alike: 16 at a time, what is left over at the end by the plain kernel.

use core::arch::x86_64::*;

use crate::backend::cpu::portable;
use crate::format::dtype::Dtype;
use crate::format::math::{SwiGlu, exp_constants};

const LANES: usize = 16;
const MAGNITUDE: i32 = 0x7FFF_FFFF;
const INFINITY: i32 = 0x7F80_0000;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array is readable.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn store(x: &mut [f32; LANES], v: __m512) {
    // SAFETY: the array is writable.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}

/// Replaces NaNs by the canonical one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn canonical(v: __m512) -> __m512 {
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    _mm512_mask_mov_ps(v, nan, _mm512_set1_ps(f32::from_bits(0x7FC0_0000)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn from_bf16(bits: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// The bf16 bits of each value in the low half of its lane. Integer arithmetic, because `vcvtneps2bf16` flushes
/// subnormals to zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn bf16_bits(v: __m512) -> __m512i {
    let bits = _mm512_castps_si512(canonical(v));
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    _mm512_srli_epi32::<16>(up)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn f16_bits(v: __m512) -> __m256i {
    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(canonical(v))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn widen(dtype: Dtype, src: *const u8, out: &mut [f32]) {
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let bytes = LANES * dtype.bytes();
    // SAFETY: the caller vouches for out.len() elements.
    unsafe {
        match dtype {
            Dtype::Bf16 => {
                for (i, out) in chunks.iter_mut().enumerate() {
                    store(out, from_bf16(_mm256_loadu_si256(src.add(i * bytes).cast())));
                }
            }
            Dtype::F16 => {
                for (i, out) in chunks.iter_mut().enumerate() {
                    store(out, _mm512_cvtph_ps(_mm256_loadu_si256(src.add(i * bytes).cast())));
                }
            }
            Dtype::F32 => {
                for (i, out) in chunks.iter_mut().enumerate() {
                    store(out, _mm512_loadu_ps(src.add(i * bytes).cast()));
                }
            }
        }
        portable::widen(dtype, src.add(chunks.len() * bytes), rest);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn narrow(dtype: Dtype, x: &[f32], dst: *mut u8) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let bytes = LANES * dtype.bytes();
    // SAFETY: the caller vouches for x.len() elements.
    unsafe {
        match dtype {
            Dtype::Bf16 => {
                for (i, x) in chunks.iter().enumerate() {
                    let half = _mm512_cvtepi32_epi16(bf16_bits(load(x)));
                    _mm256_storeu_si256(dst.add(i * bytes).cast(), half);
                }
            }
            Dtype::F16 => {
                for (i, x) in chunks.iter().enumerate() {
                    _mm256_storeu_si256(dst.add(i * bytes).cast(), f16_bits(load(x)));
                }
            }
            Dtype::F32 => {
                for (i, x) in chunks.iter().enumerate() {
                    _mm512_storeu_ps(dst.add(i * bytes).cast(), canonical(load(x)));
                }
            }
        }
        portable::narrow(dtype, rest, dst.add(chunks.len() * bytes));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn round(dtype: Dtype, x: &mut [f32]) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    match dtype {
        Dtype::Bf16 => {
            for x in chunks {
                let high = _mm512_slli_epi32::<16>(bf16_bits(load(x)));
                store(x, _mm512_castsi512_ps(high));
            }
        }
        Dtype::F16 => {
            for x in chunks {
                store(x, _mm512_cvtph_ps(f16_bits(load(x))));
            }
        }
        Dtype::F32 => {
            for x in chunks {
                store(x, canonical(load(x)));
            }
        }
    }
    // SAFETY: the plain kernel works on a slice.
    unsafe { portable::round(dtype, rest) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn finite_amax(amax: f32, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    // Magnitudes are ordered as their bits are, and everything from infinity on is not finite.
    let mut most = _mm512_setzero_si512();
    for x in chunks {
        let bits = _mm512_and_si512(_mm512_castps_si512(load(x)), _mm512_set1_epi32(MAGNITUDE));
        let finite = _mm512_cmplt_epi32_mask(bits, _mm512_set1_epi32(INFINITY));
        most = _mm512_mask_max_epi32(most, finite, most, bits);
    }
    let amax = amax.max(f32::from_bits(_mm512_reduce_max_epi32(most) as u32));
    // SAFETY: the plain kernel works on a slice.
    unsafe { portable::finite_amax(amax, rest) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn add(x: &mut [f32], addend: &[f32]) {
    let ((xs, x_rest), (addends, addend_rest)) = (x.as_chunks_mut::<LANES>(), addend.as_chunks::<LANES>());
    for (x, addend) in xs.iter_mut().zip(addends) {
        store(x, _mm512_add_ps(load(x), load(addend)));
    }
    // SAFETY: the plain kernel works on slices.
    unsafe { portable::add(x_rest, addend_rest) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn scale_rows(x: &mut [f32], inv: f32, weight: &[f32], offset: f32) {
    let ((xs, x_rest), (weights, weight_rest)) = (x.as_chunks_mut::<LANES>(), weight.as_chunks::<LANES>());
    for (x, weight) in xs.iter_mut().zip(weights) {
        let weight = _mm512_add_ps(load(weight), _mm512_set1_ps(offset));
        store(x, _mm512_mul_ps(_mm512_mul_ps(load(x), _mm512_set1_ps(inv)), weight));
    }
    // SAFETY: the plain kernel works on slices.
    unsafe { portable::scale_rows(x_rest, inv, weight_rest, offset) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn mix_first(mix: f32, x: &[f32], acc: &mut [f32]) {
    let ((xs, x_rest), (accs, acc_rest)) = (x.as_chunks::<LANES>(), acc.as_chunks_mut::<LANES>());
    for (x, acc) in xs.iter().zip(accs) {
        store(acc, _mm512_mul_ps(_mm512_set1_ps(mix), load(x)));
    }
    // SAFETY: the plain kernel works on slices.
    unsafe { portable::mix_first(mix, x_rest, acc_rest) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn mix_more(mix: f32, x: &[f32], acc: &mut [f32]) {
    let ((xs, x_rest), (accs, acc_rest)) = (x.as_chunks::<LANES>(), acc.as_chunks_mut::<LANES>());
    for (x, acc) in xs.iter().zip(accs) {
        store(acc, _mm512_fmadd_ps(_mm512_set1_ps(mix), load(x), load(acc)));
    }
    // SAFETY: the plain kernel works on slices.
    unsafe { portable::mix_more(mix, x_rest, acc_rest) };
}

/// `math::exp`, lane by lane. The instructions for min and max return their second operand where one is NaN, so
/// the value stands second: NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn exp(z: __m512) -> __m512 {
    let z = _mm512_min_ps(_mm512_set1_ps(88.0), _mm512_max_ps(_mm512_set1_ps(-87.0), z));
    let n = _mm512_mul_ps(z, _mm512_set1_ps(exp_constants::LOG2_E));
    let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(n);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(exp_constants::MINUS_LN2_HIGH), z);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(exp_constants::MINUS_LN2_LOW), r);
    let [first, rest @ ..] = exp_constants::POLYNOMIAL;
    let mut q = _mm512_set1_ps(first);
    for c in rest {
        q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(c));
    }
    let e = _mm512_add_ps(_mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0));
    // Where n is NaN so is e, whatever the exponent becomes.
    let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    _mm512_mul_ps(e, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn swiglu(gate: &mut [f32], up: &[f32], p: &SwiGlu) {
    let limited = p.limit > 0.0;
    let (limit, alpha) = (_mm512_set1_ps(p.limit), _mm512_set1_ps(p.alpha));
    let ((gates, gate_rest), (ups, up_rest)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks::<LANES>());
    for (gate, up) in gates.iter_mut().zip(ups) {
        let (mut g, mut u) = (load(gate), load(up));
        if limited {
            g = _mm512_min_ps(limit, g);
            u = _mm512_min_ps(limit, _mm512_max_ps(_mm512_set1_ps(-p.limit), u));
        }
        let z = _mm512_xor_ps(_mm512_mul_ps(g, alpha), _mm512_set1_ps(-0.0));
        let sigmoid = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0), exp(z)));
        store(gate, _mm512_mul_ps(sigmoid, _mm512_add_ps(u, _mm512_set1_ps(p.beta))));
    }
    // SAFETY: the plain kernel works on slices.
    unsafe { portable::swiglu(gate_rest, up_rest, p) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn relu2(x: &mut [f32]) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for x in chunks {
        let r = _mm512_max_ps(_mm512_setzero_ps(), load(x));
        store(x, canonical(_mm512_mul_ps(r, r)));
    }
    // SAFETY: the plain kernel works on a slice.
    unsafe { portable::relu2(rest) };
}

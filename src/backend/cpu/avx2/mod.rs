//! The row kernels in AVX2: 8 values, or 8 blocks, at a time. Held to `portable.rs` bit for bit.
//!
//! Every function here may only be called where `Isa::Avx2.available()` holds.

mod blocks;
mod quantize;
mod values;

use super::kernels::{Isa, Kernels};

pub static KERNELS: Kernels = Kernels {
    isa: Isa::Avx2,
    widen: values::widen,
    transpose: blocks::transpose_lines,
    narrow: values::narrow,
    round: values::round,
    finite_amax: values::finite_amax,
    quantize: quantize::quantize,
    quantize_from: quantize::quantize_from,
    dequantize: blocks::dequantize,
    square_sums: blocks::square_sums,
    add: values::add,
    scale_rows: values::scale_rows,
    mix_first: values::mix_first,
    mix_more: values::mix_more,
    swiglu: values::swiglu,
    relu2: values::relu2,
};

//! Mixture of experts: each part as a call of its own, and a whole layer.

pub mod combine;
pub mod forward;
pub mod permute;
pub mod route;
mod steps;

use core::ffi::c_void;

use super::check::{self, MATRIX, Regions};
use super::operand;
use super::types::*;
use crate::error::{Error, Result};
use crate::format::dtype::Dtype;
use crate::format::route::{MAX_EXPERTS, MAX_TOPK};
use crate::plan::memory::Matrix;

/// Tokens, slots a token and all slots, which an int32 can count.
fn slots(tokens: i64, topk: u32) -> Result<(usize, usize, usize)> {
    let tokens = check::count("tokens", tokens, 0, i32::MAX as i64)?;
    let topk = check::count("topk", topk as i64, 1, MAX_TOPK as i64)?;
    let slots = tokens * topk;
    if slots > i32::MAX as usize {
        let range = format!("at most 2^31 - 1 slots; {tokens} tokens of {topk} are more");
        return Err(Error::OutOfRange { argument: "tokens", value: tokens.to_string(), range });
    }
    Ok((tokens, topk, slots))
}

/// The number of all experts, `least` or more.
fn experts(value: i64, least: i64) -> Result<usize> {
    check::count("experts", value, least, MAX_EXPERTS as i64)
}

/// The first local expert of `local` ones.
fn first_expert(value: i64, local: usize, experts: usize) -> Result<usize> {
    let first = check::count("first_expert", value, 0, experts as i64)?;
    if first + local > experts {
        return Err(Error::Mismatch {
            argument: "first_expert",
            value: format!("{first} (of {local} local experts)"),
            expected: format!("a range inside the {experts} experts"),
        });
    }
    Ok(first)
}

/// Refuses what another argument leaves without a use.
fn unused(argument: &'static str, present: bool, why: &'static str) -> Result<()> {
    match present {
        true => Err(Error::Conflict { argument, problem: format!("not used {why}; leave it 0") }),
        false => Ok(()),
    }
}

fn quantized_is_set(q: &nvfp4_quantized) -> bool {
    !(q.codes.is_null()
        && q.scales.is_null()
        && q.decode_scales.is_null()
        && q.static_decode_scales.is_null())
}

fn input_is_set(q: &nvfp4_quantized_input) -> bool {
    !(q.codes.is_null() && q.scales.is_null() && q.decode_scales.is_null())
}

/// A dtype of values, or none for NVFP4.
fn dtype_or_codes(argument: &'static str, value: nvfp4_dtype) -> Result<Option<Dtype>> {
    match value {
        NVFP4_DTYPE_NVFP4 => Ok(None),
        NVFP4_DTYPE_BF16 | NVFP4_DTYPE_F16 | NVFP4_DTYPE_F32 => check::float_dtype(argument, value).map(Some),
        _ => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_DTYPE_BF16 (0), _F16 (1), _F32 (2), _NVFP4 (3)",
        }),
    }
}

/// A factor whose default 0 means 1.
fn scaling(argument: &'static str, value: f32) -> Result<f32> {
    check::finite(argument, value)?;
    Ok(if check::is_zero(value) { 1.0 } else { value })
}

/// The optional addend of a combined row.
fn shared(
    p: *const c_void,
    dtype: nvfp4_dtype,
    row_stride: i64,
    tokens: usize,
    cols: usize,
    regions: &mut Regions,
) -> Result<Option<Matrix>> {
    let dtype = check::float_dtype("shared_dtype", dtype)?;
    if p.is_null() {
        return Ok(None);
    }
    let names = ("shared", "shared_row_stride");
    operand::read_rows(names, p, dtype, row_stride, tokens, cols, regions).map(Some)
}

/// Where combined rows go.
fn out(
    p: *mut c_void,
    dtype: nvfp4_dtype,
    row_stride: i64,
    tokens: usize,
    cols: usize,
    regions: &mut Regions,
) -> Result<Matrix> {
    let dtype = check::float_dtype("out_dtype", dtype)?;
    let row_stride = check::stride("out_row_stride", row_stride, cols)?;
    let bytes = check::extent("out", tokens, row_stride, cols, dtype.bytes())?;
    let base = regions.write("out", p.cast::<u8>(), bytes, MATRIX)?;
    Ok(Matrix { base, dtype, row_stride, group_stride: 0 })
}

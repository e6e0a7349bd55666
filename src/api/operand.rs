//! The operands that several operations share, checked and turned into their plan forms.

use super::check::{self, Extent, MATRIX, Regions};
use super::types::*;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::dequantize::QuantIn;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr, Vector};
use crate::plan::quantize::{DecodeScales, QuantOut, Scales, Scope};

/// Argument names of an `nvfp4_quantized` inside a struct.
pub struct OutNames {
    codes: &'static str,
    codes_row_stride: &'static str,
    scales: &'static str,
    scales_row_stride: &'static str,
    scale_layout: &'static str,
    scale_rule: &'static str,
    scope: &'static str,
    reserved: &'static str,
    static_decode_scales: &'static str,
    decode_scales: &'static str,
}

macro_rules! out_names {
    ($prefix:literal) => {
        OutNames {
            codes: concat!($prefix, ".codes"),
            codes_row_stride: concat!($prefix, ".codes_row_stride"),
            scales: concat!($prefix, ".scales"),
            scales_row_stride: concat!($prefix, ".scales_row_stride"),
            scale_layout: concat!($prefix, ".scale_layout"),
            scale_rule: concat!($prefix, ".scale_rule"),
            scope: concat!($prefix, ".scope"),
            reserved: concat!($prefix, ".reserved"),
            static_decode_scales: concat!($prefix, ".static_decode_scales"),
            decode_scales: concat!($prefix, ".decode_scales"),
        }
    };
}

pub static OUT: OutNames = out_names!("out");
pub static OUT_QUANTIZED: OutNames = out_names!("out_quantized");
static INPUT: OutNames = out_names!("input");
static HIDDEN_QUANTIZED: OutNames = out_names!("hidden_quantized");
static SRC_QUANTIZED: OutNames = out_names!("src_quantized");
static A_QUANTIZED: OutNames = out_names!("a_quantized");

/// The bytes that block scales of `groups` take at the least, whatever the split turns out to be.
pub fn scales_bytes(
    argument: &'static str,
    groups: &Groups,
    layout: ScaleLayout,
    row_stride: usize,
    blocks: usize,
) -> Result<Extent> {
    if layout.is_tiled() {
        let rows = match groups {
            Groups::Ends { rows, .. } => *rows,
            _ => groups.scale_rows(layout.tile_rows()),
        };
        check::extent(argument, rows, blocks.next_multiple_of(4), blocks.next_multiple_of(4), 1)
    } else {
        check::extent(argument, groups.total_rows(), row_stride, blocks, 1)
    }
}

fn scales_stride(argument: &'static str, value: i64, layout: ScaleLayout, blocks: usize) -> Result<usize> {
    if layout.is_tiled() && value != 0 {
        return Err(Error::Conflict {
            argument,
            problem: format!("{value} has no meaning in a tiled layout; pass 0"),
        });
    }
    check::stride(argument, value, blocks)
}

/// An NVFP4 output of `cols` values a row.
pub fn quantized(
    q: &nvfp4_quantized,
    names: &OutNames,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantOut> {
    let (rows, blocks) = (groups.total_rows(), cols / BLOCK);
    check::reserved(names.reserved, q.reserved)?;
    let layout = check::scale_layout(names.scale_layout, q.scale_layout)?;
    let rule = check::scale_rule(names.scale_rule, q.scale_rule)?;
    let scope = check::scope(names.scope, q.scope, groups)?;
    let codes_row_stride = check::stride(names.codes_row_stride, q.codes_row_stride, cols / 2)?;
    let row_stride = scales_stride(names.scales_row_stride, q.scales_row_stride, layout, blocks)?;
    let codes_bytes = check::extent(names.codes, rows, codes_row_stride, cols / 2, 1)?;
    let codes = regions.write(names.codes, q.codes, codes_bytes, MATRIX)?;
    let bytes = scales_bytes(names.scales, groups, layout, row_stride, blocks)?;
    let scales = regions.write(names.scales, q.scales, bytes, MATRIX)?;
    let entries = check::scope_entries(scope, groups);
    let decode = match (q.static_decode_scales.is_null(), q.decode_scales.is_null()) {
        (false, false) => {
            return Err(Error::Conflict {
                argument: names.decode_scales,
                problem: "set it for dynamic scales or static_decode_scales for static ones, not both".into(),
            });
        }
        (true, true) if entries > 0 => {
            return Err(Error::Conflict {
                argument: names.decode_scales,
                problem: "NULL, and static_decode_scales too; set one of them".into(),
            });
        }
        (false, true) => {
            let given = regions.read_array(names.static_decode_scales, q.static_decode_scales, entries)?;
            DecodeScales::Static(given)
        }
        _ => DecodeScales::Dynamic(regions.write_array(names.decode_scales, q.decode_scales, entries)?),
    };
    let scales = Scales { base: scales, layout, row_stride };
    Ok(QuantOut { codes, codes_row_stride, scales, rule, scope, decode })
}

/// The input of nvfp4_dequantize: rows as nvfp4_quantize writes them.
pub fn quantized_input(
    q: &nvfp4_quantized_input,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    rows_of(q, &INPUT, groups, cols, regions)
}

/// Operand A of a layer: rows as nvfp4_quantize writes them.
pub fn quantized_rows(
    q: &nvfp4_quantized_input,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    rows_of(q, &A_QUANTIZED, groups, cols, regions)
}

/// Rows by logical row.
fn rows_of(
    q: &nvfp4_quantized_input,
    names: &OutNames,
    groups: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    let codes_row_stride = check::stride(names.codes_row_stride, q.codes_row_stride, cols / 2)?;
    let group_stride = match *groups {
        Groups::Strided { rows, .. } => rows.checked_mul(codes_row_stride),
        _ => Some(0),
    };
    let group_stride = group_stride.ok_or(Error::TooLarge { argument: names.codes })?;
    input(q, names, groups, groups, cols, group_stride, regions)
}

/// Operand A of a product; strided groups start `group_stride` bytes apart, or share one matrix where it is 0.
pub fn quantized_activations(
    q: &nvfp4_quantized_input,
    groups: &Groups,
    cols: usize,
    group_stride: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    let stored = stored_groups(groups, group_stride);
    input(q, &A_QUANTIZED, groups, &stored, cols, group_stride, regions)
}

/// NVFP4 hidden states.
pub fn quantized_hidden(
    q: &nvfp4_quantized_input,
    tokens: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    rows_of(q, &HIDDEN_QUANTIZED, tokens, cols, regions)
}

/// NVFP4 tokens of a mixture of experts.
pub fn quantized_tokens(
    q: &nvfp4_quantized_input,
    tokens: &Groups,
    cols: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    rows_of(q, &SRC_QUANTIZED, tokens, cols, regions)
}

/// The rows that are there in memory: strided groups that share one matrix are one tensor.
pub fn stored_groups(groups: &Groups, group_stride: usize) -> Groups {
    match *groups {
        Groups::Strided { rows, count } if group_stride == 0 && count > 0 => Groups::None { rows },
        other => other,
    }
}

fn input(
    q: &nvfp4_quantized_input,
    names: &OutNames,
    groups: &Groups,
    stored: &Groups,
    cols: usize,
    group_stride: usize,
    regions: &mut Regions,
) -> Result<QuantIn> {
    let blocks = cols / BLOCK;
    let layout = check::scale_layout(names.scale_layout, q.scale_layout)?;
    let scope = check::scope(names.scope, q.scope, groups)?;
    let codes_row_stride = check::stride(names.codes_row_stride, q.codes_row_stride, cols / 2)?;
    let row_stride = scales_stride(names.scales_row_stride, q.scales_row_stride, layout, blocks)?;
    let bytes = check::grouped_extent(names.codes, stored, codes_row_stride, group_stride, cols / 2, 1)?;
    let codes = regions.read(names.codes, q.codes, bytes, MATRIX)?;
    let bytes = scales_bytes(names.scales, stored, layout, row_stride, blocks)?;
    let scales = regions.read(names.scales, q.scales, bytes, MATRIX)?;
    let decode = optional_decode(names.decode_scales, q.decode_scales, scope, groups, stored, regions)?;
    let scales = Scales { base: scales, layout, row_stride };
    Ok(QuantIn { codes, codes_row_stride, codes_group_stride: group_stride, scales, scope, decode })
}

/// Decode scales of an input; NULL means 1.
pub fn optional_decode(
    argument: &'static str,
    p: *const f32,
    scope: Scope,
    groups: &Groups,
    stored: &Groups,
    regions: &mut Regions,
) -> Result<Ptr<f32>> {
    if p.is_null() {
        return Ok(Ptr::NULL);
    }
    let entries = match scope {
        Scope::Row => stored.total_rows(),
        _ => check::scope_entries(scope, groups),
    };
    regions.read_array(argument, p, entries)
}

/// A dense-by-default matrix of one group that is read.
pub fn read_rows(
    names: (&'static str, &'static str),
    p: *const core::ffi::c_void,
    dtype: Dtype,
    row_stride: i64,
    rows: usize,
    cols: usize,
    regions: &mut Regions,
) -> Result<Matrix> {
    let row_stride = check::stride(names.1, row_stride, cols)?;
    let bytes = check::extent(names.0, rows, row_stride, cols, dtype.bytes())?;
    let base = regions.read(names.0, p.cast::<u8>(), bytes, MATRIX)?;
    Ok(Matrix { base, dtype, row_stride, group_stride: 0 })
}

/// An optional matrix that is written.
pub fn write_rows(
    names: (&'static str, &'static str),
    p: *mut core::ffi::c_void,
    dtype: Dtype,
    row_stride: i64,
    rows: usize,
    cols: usize,
    regions: &mut Regions,
) -> Result<Option<Matrix>> {
    let row_stride = check::stride(names.1, row_stride, cols)?;
    if p.is_null() {
        return Ok(None);
    }
    let bytes = check::extent(names.0, rows, row_stride, cols, dtype.bytes())?;
    let base = regions.write(names.0, p.cast::<u8>(), bytes, MATRIX)?;
    Ok(Some(Matrix { base, dtype, row_stride, group_stride: 0 }))
}

/// An array of `count` floats of a dtype.
pub fn read_vector(
    argument: &'static str,
    p: *const core::ffi::c_void,
    dtype: Dtype,
    count: usize,
    regions: &mut Regions,
) -> Result<Vector> {
    let bytes = check::extent(argument, 1, count, count, dtype.bytes())?;
    Ok(Vector { base: regions.read(argument, p.cast::<u8>(), bytes, MATRIX)?, dtype })
}

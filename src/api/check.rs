//! The rules that arguments of all operations share: dimensions, strides, enumerations. Memory: regions.rs.

pub use super::regions::{Extent, Regions, extent, grouped_extent};
use super::types::*;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::format::math::SwiGlu;
use crate::plan::groups::Groups;
use crate::plan::memory::Ptr;
use crate::plan::quantize::Scope;

/// Alignment of matrices: values, codes, block scales, norm weights, biases.
pub const MATRIX: usize = 16;
/// Alignment of prepared weights and of workspaces.
pub const CACHE_LINE: usize = 64;
/// Groups a call may have.
pub const MAX_GROUPS: u32 = 65535;

/// A count that must lie in `least..=most`.
pub fn count(argument: &'static str, value: i64, least: i64, most: i64) -> Result<usize> {
    if value < least || value > most {
        let range = if most == i64::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
        return Err(Error::OutOfRange { argument, value: value.to_string(), range });
    }
    Ok(value as usize)
}

/// A positive multiple.
pub fn multiple(argument: &'static str, value: i64, of: i64) -> Result<usize> {
    count(argument, value, 1, i64::MAX)?;
    if value % of != 0 {
        return Err(Error::NotMultiple { argument, value, multiple: of });
    }
    Ok(value as usize)
}

/// K of an operand.
pub fn cols(argument: &'static str, value: i64) -> Result<usize> {
    multiple(argument, value, BLOCK as i64)
}

/// A row stride: 0 for dense.
pub fn stride(argument: &'static str, value: i64, dense: usize) -> Result<usize> {
    if value == 0 {
        return Ok(dense);
    }
    if value < dense as i64 {
        return Err(Error::StrideTooSmall { argument, value, least: dense as i64 });
    }
    Ok(value as usize)
}

/// A group stride of a matrix that is read: counts for strided groups, where 0 shares one matrix.
pub fn read_group_stride(argument: &'static str, value: i64, groups: &Groups) -> Result<usize> {
    match groups {
        Groups::Strided { .. } => count(argument, value, 0, i64::MAX),
        _ if value != 0 => Err(Error::Conflict {
            argument,
            problem: format!(
                "{value} has no meaning here; pass 0 unless the grouping is NVFP4_GROUPING_STRIDED"
            ),
        }),
        _ => Ok(0),
    }
}

/// A group stride of a matrix that is written: groups must not meet. Rows may interleave ([rows, groups, cols]).
pub fn write_group_stride(
    argument: &'static str,
    value: i64,
    groups: &Groups,
    row_stride: usize,
    cols: usize,
) -> Result<usize> {
    let stride = read_group_stride(argument, value, groups)?;
    if let Groups::Strided { count, rows } = *groups {
        let blocks_apart =
            rows == 0 || stride as u128 >= (rows as u128 - 1) * row_stride as u128 + cols as u128;
        let interleaved = stride >= cols
            && (count.max(1) as u128 - 1) * stride as u128 + cols as u128 <= row_stride as u128;
        if count > 1 && rows > 0 && !blocks_apart && !interleaved {
            return Err(Error::Conflict {
                argument,
                problem: format!(
                    "with {value} the rows of two groups overlap; space the groups or the rows apart"
                ),
            });
        }
    }
    Ok(stride)
}

pub fn float_dtype(argument: &'static str, value: nvfp4_dtype) -> Result<Dtype> {
    match value {
        NVFP4_DTYPE_BF16 => Ok(Dtype::Bf16),
        NVFP4_DTYPE_F16 => Ok(Dtype::F16),
        NVFP4_DTYPE_F32 => Ok(Dtype::F32),
        _ => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_DTYPE_BF16 (0), NVFP4_DTYPE_F16 (1), NVFP4_DTYPE_F32 (2)",
        }),
    }
}

pub fn scale_layout(argument: &'static str, value: nvfp4_scale_layout) -> Result<ScaleLayout> {
    match value {
        NVFP4_SCALE_LAYOUT_LINEAR => Ok(ScaleLayout::Linear),
        NVFP4_SCALE_LAYOUT_TILED_128X4 => Ok(ScaleLayout::Tiled128x4),
        NVFP4_SCALE_LAYOUT_TILED_8X4 => Ok(ScaleLayout::Tiled8x4),
        _ => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_SCALE_LAYOUT_LINEAR (0), _TILED_128X4 (1), _TILED_8X4 (2)",
        }),
    }
}

pub fn tiled_layout(argument: &'static str, value: nvfp4_scale_layout) -> Result<ScaleLayout> {
    match scale_layout(argument, value)? {
        ScaleLayout::Linear => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_SCALE_LAYOUT_TILED_128X4 (1), _TILED_8X4 (2)",
        }),
        layout => Ok(layout),
    }
}

pub fn scale_rule(argument: &'static str, value: nvfp4_scale_rule) -> Result<ScaleRule> {
    match value {
        NVFP4_SCALE_RULE_AMAX => Ok(ScaleRule::Amax),
        NVFP4_SCALE_RULE_FOUR_OVER_SIX => Ok(ScaleRule::FourOverSix),
        NVFP4_SCALE_RULE_MIN_MSE => Ok(ScaleRule::MinMse),
        _ => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_SCALE_RULE_AMAX (0), _FOUR_OVER_SIX (1), _MIN_MSE (2)",
        }),
    }
}

/// A scope; GROUP only where there are groups.
pub fn scope(argument: &'static str, value: nvfp4_scope, groups: &Groups) -> Result<Scope> {
    match value {
        NVFP4_SCOPE_TENSOR => Ok(Scope::Tensor),
        NVFP4_SCOPE_GROUP if matches!(groups, Groups::None { .. }) => Err(Error::Conflict {
            argument,
            problem: "NVFP4_SCOPE_GROUP needs groups; use NVFP4_SCOPE_TENSOR or describe the groups".into(),
        }),
        NVFP4_SCOPE_GROUP => Ok(Scope::Group),
        NVFP4_SCOPE_ROW => Ok(Scope::Row),
        _ => Err(Error::UnknownValue {
            argument,
            value,
            known: "NVFP4_SCOPE_TENSOR (0), _GROUP (1), _ROW (2)",
        }),
    }
}

/// Entries of an array indexed by scope.
pub fn scope_entries(scope: Scope, groups: &Groups) -> usize {
    match scope {
        Scope::Tensor => 1,
        Scope::Group => groups.count(),
        Scope::Row => groups.total_rows(),
    }
}

pub fn flag(argument: &'static str, value: u32) -> Result<bool> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Error::UnknownValue { argument, value, known: "0, 1" }),
    }
}

pub fn reserved(argument: &'static str, value: u32) -> Result<()> {
    if value != 0 {
        return Err(Error::Reserved { argument, value: value as u64 });
    }
    Ok(())
}

/// A float parameter that must be finite.
pub fn finite(argument: &'static str, value: f32) -> Result<f32> {
    if !value.is_finite() {
        return Err(Error::OutOfRange { argument, value: value.to_string(), range: "finite".into() });
    }
    Ok(value)
}

/// Told by the bits: where the host takes subnormals for zero, a comparison would too, and the compiler knows that one
/// from the bits unless they are hidden from it.
pub fn is_zero(value: f32) -> bool {
    std::hint::black_box(value.to_bits()) << 1 == 0
}

pub fn eps(value: f32) -> Result<f32> {
    if !value.is_finite() || value.is_sign_negative() || is_zero(value) {
        let range = "finite and above 0 (1e-6 and 1e-5 are common)".into();
        return Err(Error::OutOfRange { argument: "eps", value: value.to_string(), range });
    }
    Ok(value)
}

/// The parameters of SwiGLU, defaults resolved.
pub fn swiglu(limit: f32, alpha: f32, beta: f32) -> Result<SwiGlu> {
    if !(limit.is_finite() && limit >= 0.0) {
        let range = "finite and 0 or more (0: no limit)".into();
        return Err(Error::OutOfRange { argument: "limit", value: limit.to_string(), range });
    }
    let alpha = finite("alpha", alpha)?;
    Ok(SwiGlu { limit, alpha: if is_zero(alpha) { 1.0 } else { alpha }, beta: finite("beta", beta)? })
}

/// Workspace that a call needs; `needed` 0 takes anything.
pub fn workspace(
    regions: &mut Regions,
    p: *mut core::ffi::c_void,
    given: usize,
    needed: usize,
) -> Result<Ptr<u8>> {
    if given < needed {
        return Err(Error::Workspace { given, needed });
    }
    regions.write("workspace", p.cast::<u8>(), needed, CACHE_LINE)
}

/// How the rows of a call are split; `need_arrays` false lets a size query leave the index arrays out.
pub fn groups(g: &nvfp4_groups, rows: i64, need_arrays: bool, regions: &mut Regions) -> Result<Groups> {
    let rows = count("rows", rows, 0, i64::MAX)?;
    if g.count > MAX_GROUPS {
        let range = format!("0 to {MAX_GROUPS}");
        return Err(Error::OutOfRange { argument: "groups.count", value: g.count.to_string(), range });
    }
    let e = g.count as usize;
    let unused = |argument, present: bool| match present {
        true => Err(Error::Conflict {
            argument,
            problem: format!("not used by grouping {}; leave it 0", g.grouping),
        }),
        false => Ok(()),
    };
    let dense = || {
        let max = count("groups.max_tokens", g.max_tokens, 0, i64::MAX)?;
        match e.checked_mul(max) {
            Some(total) if total == rows => Ok(max),
            _ => Err(Error::Mismatch {
                argument: "rows",
                value: rows.to_string(),
                expected: format!("groups.count * groups.max_tokens = {e} * {max}"),
            }),
        }
    };
    let entries = if need_arrays { e } else { 0 };
    if g.grouping != NVFP4_GROUPING_ENDS {
        unused("groups.ends", !g.ends.is_null())?;
    }
    if g.grouping != NVFP4_GROUPING_MASKED {
        unused("groups.counts", !g.counts.is_null())?;
    }
    match g.grouping {
        NVFP4_GROUPING_NONE => {
            unused("groups.count", g.count != 0)?;
            unused("groups.max_tokens", g.max_tokens != 0)?;
            Ok(Groups::None { rows })
        }
        NVFP4_GROUPING_ENDS => {
            unused("groups.max_tokens", g.max_tokens != 0)?;
            count("rows", rows as i64, 0, i32::MAX as i64)?;
            Ok(Groups::Ends { ends: regions.read_array("groups.ends", g.ends, entries)?, count: e, rows })
        }
        NVFP4_GROUPING_MASKED => {
            let max_rows = dense()?;
            count("groups.max_tokens", max_rows as i64, 0, i32::MAX as i64)?;
            Ok(Groups::Masked {
                counts: regions.read_array("groups.counts", g.counts, entries)?,
                count: e,
                max_rows,
            })
        }
        NVFP4_GROUPING_STRIDED => Ok(Groups::Strided { count: e, rows: dense()? }),
        value => Err(Error::UnknownValue {
            argument: "groups.grouping",
            value,
            known: "NVFP4_GROUPING_NONE (0), _ENDS (1), _MASKED (2), _STRIDED (3)",
        }),
    }
}

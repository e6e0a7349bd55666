//! Prepared weights: their shape, and the problems that make them and give them back.

use super::memory::{Matrix, Ptr};
use super::quantize::Scales;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::layout::ScaleLayout;

/// The shape of E matrices [N, K].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightsShape {
    pub groups: usize,
    /// N; 2·I for gate/up pairs.
    pub rows: usize,
    /// K, a multiple of 16.
    pub cols: usize,
    /// Rows are [gate; up], stored so that a pair is at hand together.
    pub gate_up: bool,
}

impl WeightsShape {
    /// Bytes of the canonical codes of one matrix, and of its scales with their padding.
    pub fn canonical_bytes(&self, layout: ScaleLayout) -> (usize, usize) {
        let blocks = self.cols / BLOCK;
        let width = if layout.is_tiled() { blocks.next_multiple_of(4) } else { blocks };
        (self.rows * self.cols / 2, self.rows.next_multiple_of(layout.tile_rows()) * width)
    }
}

/// Prepared weights in the caller's storage. The backend that made them knows its inside.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub shape: WeightsShape,
    pub storage: Ptr<u8>,
}

#[derive(Clone, Copy, Debug)]
pub enum WeightsSource {
    /// Canonical codes [E, N, K/2], dense, with scales and one decode scale a group. `scales` of group e start at
    /// e · (bytes of one group in their layout).
    Codes { codes: Ptr<u8>, scales: Scales, decode: Ptr<f32> },
    /// As `Codes`, with one decode scale for all matrices, or one a row. Matrices whose rows differ are quantized again by
    /// a rule, or refused where there is none.
    Scoped { codes: Ptr<u8>, scales: Scales, decode: Ptr<f32>, per_row: bool, requantize: Option<ScaleRule> },
    /// Values to quantize; `transposed`: stored [E, K, N]. Decode scales: `given`, or dynamic per group when NULL.
    Values { src: Matrix, transposed: bool, rule: ScaleRule, given: Ptr<f32> },
}

#[derive(Clone, Copy, Debug)]
pub struct PrepareProblem {
    pub source: WeightsSource,
    pub weights: Weights,
}

/// Prepared weights back to the canonical form, byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct ExportProblem {
    pub weights: Weights,
    pub codes: Ptr<u8>,
    pub scales: Scales,
    pub decode: Ptr<f32>,
}

/// One decode scale a matrix from those of its rows; none where rows differ and the matrix is to be quantized again.
/// Refuses what is no decode scale and, unless `requantize`, rows that differ: the first of a matrix is named.
pub fn merge_decode_scales(
    shape: &WeightsShape,
    given: impl Fn(usize, usize) -> f32,
    requantize: bool,
) -> Result<Vec<Option<f32>>> {
    let mut merged = Vec::new();
    let bytes = shape.groups * size_of::<Option<f32>>();
    merged.try_reserve_exact(shape.groups).map_err(|_| Error::OutOfMemory { bytes })?;
    for group in 0..shape.groups {
        let first = given(group, 0);
        let mut differs = None;
        for row in 0..shape.rows {
            let g = given(group, row);
            if !(g.is_finite() && g > 0.0) {
                return Err(Error::OutOfRange {
                    argument: "decode_scales",
                    value: format!("{g} (group {group}, row {row})"),
                    range: "finite and above 0".into(),
                });
            }
            if g != first && differs.is_none() {
                differs = Some((row, g));
            }
        }
        match differs {
            Some((row, g)) if !requantize => {
                return Err(Error::Mismatch {
                    argument: "decode_scales",
                    value: format!("{g} (group {group}, row {row})"),
                    expected: format!("the {first} of the group's row 0, or requantize = 1"),
                });
            }
            _ => merged.push(differs.is_none().then_some(first)),
        }
    }
    Ok(merged)
}

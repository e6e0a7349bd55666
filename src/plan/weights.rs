//! Prepared weights: their shape, and the problems that make them and give them back.

use super::memory::{Matrix, Ptr};
use super::quantize::Scales;
use crate::format::block::ScaleRule;

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

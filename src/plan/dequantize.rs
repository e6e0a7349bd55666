//! NVFP4 rows → values.

use super::groups::{Groups, Span};
use super::memory::{Matrix, Ptr};
use super::quantize::{Scales, Scope};

/// An NVFP4 operand in memory.
#[derive(Clone, Copy, Debug)]
pub struct QuantIn {
    pub codes: Ptr<u8>,
    /// Bytes between rows.
    pub codes_row_stride: usize,
    /// Bytes between groups; strided groups only. 0 shares one matrix, its scales included, among all groups.
    pub codes_group_stride: usize,
    pub scales: Scales,
    pub scope: Scope,
    /// Decode scales by scope; NULL means 1.
    pub decode: Ptr<f32>,
}

impl QuantIn {
    /// Bytes before the codes of row `r` of a span.
    pub fn codes_row(&self, groups: &Groups, span: &Span, r: usize) -> usize {
        match groups {
            Groups::Strided { .. } => span.group * self.codes_group_stride + r * self.codes_row_stride,
            _ => (span.first_row + r) * self.codes_row_stride,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct DequantizeProblem {
    pub groups: Groups,
    pub cols: usize,
    pub input: QuantIn,
    pub dst: Matrix,
}

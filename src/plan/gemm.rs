//! The grouped matrix product: v = (acc · g_A) · g_B (+ bias), then an epilogue.

use super::dequantize::QuantIn;
use super::gemm_sm90::Plan;
use super::groups::Groups;
use super::memory::{Matrix, Ptr, Vector};
use super::quantize::{QuantOut, Scope};
use super::weights::Weights;
use crate::format::math::SwiGlu;

#[derive(Clone, Copy, Debug)]
pub enum Activations {
    /// bf16 or f16 rows as they are; `decode` scales them where it is not NULL.
    Values {
        a: Matrix,
        scope: Scope,
        decode: Ptr<f32>,
    },
    Codes(QuantIn),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    /// Weights are gate/up pairs: 2I rows → I outputs.
    SwiGlu(SwiGlu),
    Relu2,
}

#[derive(Clone, Copy, Debug)]
pub enum GemmOut {
    /// Values; `accumulate` adds the old output before the one rounding.
    Values { out: Matrix, accumulate: bool },
    /// Requantized; static scales, or dynamic per row.
    Codes(QuantOut),
}

#[derive(Clone, Copy, Debug)]
pub struct GemmProblem {
    pub groups: Groups,
    pub a: Activations,
    pub weights: Weights,
    /// [E, N] in the caller's row order.
    pub bias: Option<Vector>,
    pub activation: Activation,
    pub out: GemmOut,
    /// A row's bits must not depend on other rows, their number or their split into groups.
    pub batch_invariant: bool,
    /// The launch may start before the work in front of it has ended, as the caller has allowed.
    pub dependent_launch: bool,
    pub workspace: Ptr<u8>,
    /// How a device runs it, from where the workspace was measured: planned once a call. None: not yet planned.
    pub plan: Option<Plan>,
}

impl GemmProblem {
    /// Output columns: N, or N / 2 behind a gate.
    pub fn out_cols(&self) -> usize {
        match self.activation {
            Activation::SwiGlu(_) => self.weights.shape.rows / 2,
            _ => self.weights.shape.rows,
        }
    }
}

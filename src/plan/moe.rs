//! Mixture of experts: routing, the permutation of tokens into expert order, and the way back.

use super::dequantize::QuantIn;
use super::groups::Groups;
use super::memory::{Matrix, Ptr};
use super::quantize::{DecodedOut, QuantOut, Scales};
use crate::format::route::Score;

/// Logits → ids and weights.
#[derive(Clone, Copy, Debug)]
pub struct RouteProblem {
    pub tokens: usize,
    pub experts: usize,
    pub topk: usize,
    /// [tokens, experts].
    pub logits: Matrix,
    pub router: Router,
    /// One byte a token, 0 for those that are sent nowhere; NULL: none.
    pub mask: Ptr<u8>,
    /// [tokens, topk], dense.
    pub ids: Ptr<i32>,
    pub weights: Ptr<f32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Router {
    pub score: Score,
    /// [experts]; NULL: none.
    pub bias: Ptr<f32>,
    pub renormalise: bool,
    pub scaling: f32,
    /// 1 for none.
    pub groups: usize,
    pub top_groups: usize,
}

/// Ids → the rows of each local expert, by a stable counting sort.
#[derive(Clone, Copy, Debug)]
pub struct PermuteProblem {
    pub tokens: usize,
    pub topk: usize,
    pub experts: usize,
    /// Experts of this process: `first_expert..first_expert + local_experts`.
    pub first_expert: usize,
    pub local_experts: usize,
    /// [tokens, topk].
    pub ids: Ptr<i32>,
    /// [local_experts].
    pub ends: Ptr<i32>,
    /// [tokens · topk]: the token of each row; −1 behind the last.
    pub source_rows: Ptr<i32>,
    /// [tokens, topk]: the row of each slot; −1 for none.
    pub inverse: Ptr<i32>,
}

impl PermuteProblem {
    /// The rows in expert order as groups.
    pub fn groups(&self) -> Groups {
        Groups::Ends { ends: self.ends, count: self.local_experts, rows: self.tokens * self.topk }
    }
}

/// Tokens → rows in expert order, as they are or on the way into NVFP4.
#[derive(Clone, Copy, Debug)]
pub struct GatherProblem {
    pub permute: PermuteProblem,
    /// Values a row; a multiple of 16 where codes come out.
    pub cols: usize,
    pub what: Gather,
}

#[derive(Clone, Copy, Debug)]
pub enum Gather {
    Values {
        src: Matrix,
        dst: Matrix,
    },
    /// Decode scales come out one a row.
    Codes {
        src: QuantIn,
        codes: Ptr<u8>,
        codes_row_stride: usize,
        scales: Scales,
        decode: Ptr<f32>,
    },
    /// Static scales, or dynamic per row.
    Quantize {
        src: Matrix,
        out: QuantOut,
    },
    /// As those, decoded again.
    Decode {
        src: Matrix,
        out: DecodedOut,
    },
}

/// Rows in expert order → the values that they are as NVFP4, in the same rows of another matrix.
#[derive(Clone, Copy, Debug)]
pub struct RoundProblem {
    /// Whose rows they are.
    pub rows: PermuteProblem,
    pub cols: usize,
    pub src: Matrix,
    pub out: DecodedOut,
}

/// What stands in front of a layer's products: routing, unless the ids are given, the sort and the gather.
#[derive(Clone, Copy, Debug)]
pub struct DispatchProblem {
    pub route: Option<RouteProblem>,
    pub gather: GatherProblem,
    /// The first launch may start before the work in front of it has ended, for which it then waits.
    pub dependent_launch: bool,
}

/// Rows of the experts → tokens.
#[derive(Clone, Copy, Debug)]
pub struct CombineProblem {
    pub tokens: usize,
    pub topk: usize,
    pub cols: usize,
    /// Rows of `y`.
    pub rows: usize,
    pub y: Matrix,
    /// [tokens, topk]: rows of `y`; −1 contributes nothing.
    pub inverse: Ptr<i32>,
    pub weights: Ptr<f32>,
    /// Multiplies the sum over slots.
    pub scaling: f32,
    pub shared: Option<Matrix>,
    pub out: Matrix,
    /// Behind a product that itself stood behind whoever wrote `inverse` and `weights`: the launch may start early.
    pub in_layer: bool,
}

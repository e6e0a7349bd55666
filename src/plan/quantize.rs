//! Problems that end in NVFP4 rows: a producer of rows, and where and how its rows are quantized.

use super::groups::Groups;
use super::memory::{Matrix, Ptr, Vector};
use crate::format::block::ScaleRule;
use crate::format::layout::ScaleLayout;
use crate::format::math::SwiGlu;

/// Which values share one decode scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Tensor,
    Group,
    Row,
}

/// Where decode scales come from: indexed 0, by group or by logical row, as the scope says.
#[derive(Clone, Copy, Debug)]
pub enum DecodeScales {
    /// Read from the caller; NULL means 1.
    Static(Ptr<f32>),
    /// Found from the data and written.
    Dynamic(Ptr<f32>),
}

/// E4M3 bytes of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    pub base: Ptr<u8>,
    pub layout: ScaleLayout,
    /// Bytes between rows; linear layout only.
    pub row_stride: usize,
}

/// An NVFP4 output: codes and scales of `cols` values a row.
#[derive(Clone, Copy, Debug)]
pub struct QuantOut {
    pub codes: Ptr<u8>,
    /// Bytes between rows of codes.
    pub codes_row_stride: usize,
    pub scales: Scales,
    pub rule: ScaleRule,
    pub scope: Scope,
    pub decode: DecodeScales,
}

/// Rows that are quantized and decoded on the way: e2m1 · e4m3 as bfloat16, exact, which is what products multiply by their
/// decode scales.
#[derive(Clone, Copy, Debug)]
pub struct DecodedOut {
    /// Dense enough for 16-byte stores: base and row stride are multiples of 16 bytes.
    pub rows: Matrix,
    pub rule: ScaleRule,
    pub scope: Scope,
    pub decode: DecodeScales,
}

/// What a row is made of before it is quantized; dtype is the source's.
#[derive(Clone, Copy, Debug)]
pub enum Producer {
    /// The source row as it is.
    Plain { src: Matrix },
    /// A source stored [K, N]: row r of the call is column r. `row_stride` is between k, `group_stride` as ever.
    Transposed { src: Matrix },
    /// RMSNorm, after an optional residual add and behind optional hyper-connections.
    Norm { input: NormInput, norm: Norm },
    /// gate and up → h.
    Gated { src: Matrix, interleaved: bool, activation: GatedActivation },
}

#[derive(Clone, Copy, Debug)]
pub enum NormInput {
    /// x = src, or round(src + residual), written back to the residual.
    Rows { src: Matrix, residual: Option<Matrix> },
    /// x = round(Σ_l mix[t, l] · stream_l[t]).
    Hyper(HyperConnection),
}

#[derive(Clone, Copy, Debug)]
pub struct HyperConnection {
    pub streams: Matrix,
    /// Elements between stream l and l + 1 of a token.
    pub stream_stride: usize,
    pub count: usize,
    /// [rows, count] f32, floats between rows.
    pub mix: Ptr<f32>,
    pub mix_row_stride: usize,
    /// Where x is copied to.
    pub mixed: Option<Matrix>,
}

#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub weight: Vector,
    pub weight_offset: f32,
    pub eps: f32,
    /// Where the rounded, normalised rows are copied to.
    pub normed: Option<Matrix>,
    /// 1/RMS of every row.
    pub inv_rms: Option<Ptr<f32>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GatedActivation {
    /// 2I columns → I.
    SwiGlu(SwiGlu),
    /// I columns → I; nothing is gated.
    Relu2,
    /// 2I columns → 2I, gate first: only the interleaving is undone.
    Identity,
}

/// One quantizing call: rows of `cols` values each, into `out`; `activated` takes a copy of gated rows.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeProblem {
    pub groups: Groups,
    /// Values a row after the producer; a multiple of 16.
    pub cols: usize,
    pub producer: Producer,
    pub activated: Option<Matrix>,
    /// `None`: only the decode scales are wanted (amax_scale).
    pub out: Option<QuantOut>,
    /// Where amax_scale writes; unused when `out` is set.
    pub amax: Option<(Scope, Ptr<f32>)>,
}

/// Staging of MoE inputs beside the quantized tokens: ids widened, weights copied.
#[derive(Clone, Copy, Debug)]
pub struct StageProblem {
    pub quantize: QuantizeProblem,
    pub routes: usize,
    pub ids_in: Ptr<i32>,
    pub ids_out: Ptr<i64>,
    pub weights_in: Ptr<f32>,
    pub weights_out: Ptr<f32>,
}

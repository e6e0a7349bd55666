//! A quantizing problem in the words of the kernels: the parameters that all its passes share.

use super::super::context::DeviceFacts;
use super::super::params::{self, MatrixParams, RowsParams, address, producer};
use super::MOST_BLOCKS;
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::plan::groups::Groups;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{GatedActivation, NormInput, Producer, QuantizeProblem, Scope};

/// Everything of a problem that its passes share.
pub(in crate::backend::cuda) fn base_params(
    p: &QuantizeProblem,
    facts: &DeviceFacts,
    scope: Scope,
) -> RowsParams {
    let mut params = RowsParams {
        groups: (&p.groups).into(),
        cols: p.cols as u64,
        fault: facts.fault,
        scope: params::scope(scope),
        ..RowsParams::default()
    };
    if let Some(out) = &p.out {
        params.codes = address(out.codes);
        params.codes_row_stride = out.codes_row_stride as u64;
        params.scales = (&out.scales).into();
        params.rule = params::rule(out.rule);
    }
    let copy = |m: Option<Matrix>| m.as_ref().map_or(MatrixParams::default(), MatrixParams::from);
    let src = source(&p.producer);
    params.src = (&src).into();
    params.dtype = params::dtype(src.dtype);
    match &p.producer {
        Producer::Plain { .. } => params.producer = producer::PLAIN,
        Producer::Transposed { .. } => params.producer = producer::TRANSPOSED,
        Producer::Gated { interleaved, activation, .. } => {
            params.copy = copy(p.activated);
            params.interleaved = *interleaved as u32;
            params.producer = match activation {
                GatedActivation::SwiGlu(s) => {
                    (params.limit, params.alpha, params.beta) = (s.limit, s.alpha, s.beta);
                    producer::SWIGLU
                }
                GatedActivation::Relu2 => producer::RELU2,
                GatedActivation::Identity => producer::IDENTITY,
            };
        }
        Producer::Norm { input, norm } => {
            match input {
                NormInput::Rows { residual, .. } => {
                    params.producer = producer::NORM;
                    params.copy = copy(*residual);
                }
                NormInput::Hyper(hc) => {
                    params.producer = producer::HYPER;
                    params.copy = copy(hc.mixed);
                    params.stream_stride = hc.stream_stride as u64;
                    params.streams = hc.count as u32;
                    params.mix = address(hc.mix);
                    params.mix_row_stride = hc.mix_row_stride as u64;
                }
            }
            params.normed = copy(norm.normed);
            params.inv_rms = norm.inv_rms.map_or(0, address);
            params.weight = address(norm.weight.base);
            params.weight_dtype = params::dtype(norm.weight.dtype);
            params.weight_offset = norm.weight_offset;
            params.eps = norm.eps;
        }
    }
    params
}

pub(super) fn source(p: &Producer) -> Matrix {
    match p {
        Producer::Plain { src } | Producer::Transposed { src } | Producer::Gated { src, .. } => *src,
        Producer::Norm { input: NormInput::Rows { src, .. }, .. } => *src,
        Producer::Norm { input: NormInput::Hyper(hc), .. } => hc.streams,
    }
}

/// Whether every 16-byte access of values and 8-byte access of codes is aligned.
pub(in crate::backend::cuda) fn is_aligned(p: &QuantizeProblem) -> bool {
    let strided = matches!(p.groups, Groups::Strided { .. });
    let matrix = |m: &Matrix| {
        let bytes = m.dtype.bytes();
        m.base.get().addr().is_multiple_of(16)
            && (m.row_stride * bytes).is_multiple_of(16)
            && (!strided || (m.group_stride * bytes).is_multiple_of(16))
    };
    let all = |list: [Option<Matrix>; 2]| list.iter().flatten().all(matrix);
    let codes = p
        .out
        .is_none_or(|out| out.codes.get().addr().is_multiple_of(8) && out.codes_row_stride.is_multiple_of(8));
    let rest = match &p.producer {
        Producer::Plain { .. } => true,
        Producer::Transposed { .. } => false,
        Producer::Gated { interleaved, activation, .. } => {
            let halves = *activation == GatedActivation::Identity && *interleaved;
            all([p.activated, None]) && (!halves || (p.cols / 2).is_multiple_of(BLOCK))
        }
        Producer::Norm { input, norm } => {
            let input = match input {
                NormInput::Rows { residual, .. } => all([*residual, None]),
                NormInput::Hyper(hc) => {
                    all([hc.mixed, None]) && (hc.stream_stride * hc.streams.dtype.bytes()).is_multiple_of(16)
                }
            };
            input && all([norm.normed, None]) && norm.weight.base.get().addr().is_multiple_of(16)
        }
    };
    codes && rest && matrix(&source(&p.producer)) && p.cols / BLOCK <= MOST_BLOCKS
}

pub(in crate::backend::cuda) fn dtype_name(d: Dtype) -> &'static str {
    match d {
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::F32 => "f32",
    }
}

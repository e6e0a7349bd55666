//! The parameter structs of kernels/params_moe.cuh, field by field.

use super::params::{GroupsParams, RowsParams, ScalesParams};
use crate::format::route::Score;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RouteParams {
    pub logits: u64,
    pub logits_row_stride: u64,
    pub bias: u64,
    pub mask: u64,
    pub ids: u64,
    pub weights: u64,
    pub fault: u64,
    pub tokens: u64,
    pub dtype: u32,
    pub score: u32,
    pub experts: u32,
    pub topk: u32,
    pub groups: u32,
    pub top_groups: u32,
    pub renormalise: u32,
    pub scaling: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PermuteParams {
    pub ids: u64,
    pub ends: u64,
    pub source_rows: u64,
    pub inverse: u64,
    pub fault: u64,
    pub slots: u64,
    pub chunk: u64,
    pub chunks: u32,
    pub topk: u32,
    pub experts: u32,
    pub first_expert: u32,
    pub local_experts: u32,
    pub is_short: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GatherParams {
    pub inverse: u64,
    pub src: u64,
    pub dst: u64,
    pub tokens: u64,
    pub row_bytes: u64,
    pub src_row_stride: u64,
    pub dst_row_stride: u64,
    pub topk: u32,
    pub vector: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GatherCodesParams {
    pub groups: GroupsParams,
    pub scale_rows: u64,
    pub blocks: u64,
    pub source_rows: u64,
    pub inverse: u64,
    pub src_codes: u64,
    pub src_codes_row_stride: u64,
    pub src_decode: u64,
    pub codes: u64,
    pub codes_row_stride: u64,
    pub decode: u64,
    pub src_scales: ScalesParams,
    pub scales: ScalesParams,
    pub tokens: u64,
    pub src_scope: u32,
    pub vector: u32,
    pub words: u32,
    pub topk: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GatherRowsParams {
    pub rows: RowsParams,
    pub inverse: u64,
    pub ids: u64,
    pub tokens: u64,
    pub topk: u32,
    pub first_expert: u32,
    pub decoded: u32,
    pub reserved: u32,
}

/// `G`: of the gather.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DispatchParams<G> {
    pub route: RouteParams,
    pub permute: PermuteParams,
    pub gather: G,
    pub routed: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CombineParams {
    pub y: u64,
    pub y_row_stride: u64,
    pub inverse: u64,
    pub weights: u64,
    pub shared: u64,
    pub shared_row_stride: u64,
    pub out: u64,
    pub out_row_stride: u64,
    pub fault: u64,
    pub tokens: u64,
    pub cols: u64,
    pub rows: u64,
    pub topk: u32,
    pub y_dtype: u32,
    pub shared_dtype: u32,
    pub out_dtype: u32,
    pub scaling: f32,
    pub early: u32,
}

const _: () = {
    assert!(size_of::<RouteParams>() == 96);
    assert!(size_of::<PermuteParams>() == 80);
    assert!(size_of::<GatherParams>() == 64);
    assert!(size_of::<GatherCodesParams>() == 176);
    assert!(size_of::<GatherRowsParams>() == size_of::<RowsParams>() + 40);
    assert!(size_of::<CombineParams>() == 120);
};

pub const fn score(s: Score) -> u32 {
    match s {
        Score::Softmax => 0,
        Score::Sigmoid => 1,
        Score::SqrtSoftplus => 2,
    }
}

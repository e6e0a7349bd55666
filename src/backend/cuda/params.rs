//! The parameter structs of kernels/params.cuh, field by field, and how problems become them.

use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{Scales, Scope};

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupsParams {
    pub index: u64,
    pub rows: u64,
    pub kind: u32,
    pub count: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MatrixParams {
    pub base: u64,
    pub row_stride: u64,
    pub group_stride: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScalesParams {
    pub base: u64,
    pub row_stride: u64,
    pub layout: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowsParams {
    pub groups: GroupsParams,
    pub scale_rows: u64,
    pub cols: u64,
    pub src: MatrixParams,
    pub copy: MatrixParams,
    pub normed: MatrixParams,
    pub stream_stride: u64,
    pub mix: u64,
    pub mix_row_stride: u64,
    pub weight: u64,
    pub inv_rms: u64,
    pub codes: u64,
    pub codes_row_stride: u64,
    pub scales: ScalesParams,
    pub decode: u64,
    pub fault: u64,
    pub dtype: u32,
    pub producer: u32,
    pub rule: u32,
    pub scope: u32,
    pub mode: u32,
    pub first: u32,
    pub interleaved: u32,
    pub streams: u32,
    pub weight_dtype: u32,
    pub steps: u32,
    pub weight_offset: f32,
    pub eps: f32,
    pub limit: f32,
    pub alpha: f32,
    pub beta: f32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FinishParams {
    pub decode: u64,
    pub count: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoutesParams {
    pub ids_in: u64,
    pub ids_out: u64,
    pub weights_in: u64,
    pub weights_out: u64,
    pub count: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DequantizeParams {
    pub groups: GroupsParams,
    pub scale_rows: u64,
    pub cols: u64,
    pub codes: u64,
    pub codes_row_stride: u64,
    pub codes_group_stride: u64,
    pub scales: ScalesParams,
    pub decode: u64,
    pub dst: MatrixParams,
    pub fault: u64,
    pub scope: u32,
    pub dtype: u32,
    pub vector: u32,
    pub steps: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MoveScalesParams {
    pub groups: GroupsParams,
    pub scale_rows: u64,
    pub blocks: u64,
    pub src: ScalesParams,
    pub dst: ScalesParams,
    pub fault: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InterleaveParams {
    pub src: u64,
    pub dst: u64,
    pub rows: u64,
    pub half: u64,
    pub row_bytes: u64,
    pub granularity: u64,
    pub forward: u32,
    pub vector: u32,
}

const _: () = {
    assert!(size_of::<GroupsParams>() == 24);
    assert!(size_of::<MatrixParams>() == 24);
    assert!(size_of::<ScalesParams>() == 24);
    assert!(size_of::<RowsParams>() == 272);
    assert!(size_of::<FinishParams>() == 16);
    assert!(size_of::<RoutesParams>() == 40);
    assert!(size_of::<DequantizeParams>() == 144);
    assert!(size_of::<MoveScalesParams>() == 96);
    assert!(size_of::<InterleaveParams>() == 56);
};

// Values of params.cuh's enums.
pub mod producer {
    pub const PLAIN: u32 = 0;
    pub const TRANSPOSED: u32 = 1;
    pub const NORM: u32 = 2;
    pub const HYPER: u32 = 3;
    pub const SWIGLU: u32 = 4;
    pub const RELU2: u32 = 5;
    pub const IDENTITY: u32 = 6;
}

/// Where the decode scales of a pass come from or go to.
pub mod mode {
    pub const STATIC: u32 = 0;
    pub const FROM_AMAX: u32 = 1;
    pub const ROW: u32 = 2;
    pub const FIND_AMAX: u32 = 3;
    pub const ROW_AMAX: u32 = 4;
}

pub fn address<T>(p: Ptr<T>) -> u64 {
    p.get().addr() as u64
}

pub const fn dtype(d: Dtype) -> u32 {
    match d {
        Dtype::Bf16 => 0,
        Dtype::F16 => 1,
        Dtype::F32 => 2,
    }
}

pub const fn rule(r: ScaleRule) -> u32 {
    match r {
        ScaleRule::Amax => 0,
        ScaleRule::FourOverSix => 1,
        ScaleRule::MinMse => 2,
    }
}

pub const fn scope(s: Scope) -> u32 {
    match s {
        Scope::Tensor => 0,
        Scope::Group => 1,
        Scope::Row => 2,
    }
}

pub const fn layout(l: ScaleLayout) -> u32 {
    match l {
        ScaleLayout::Linear => 0,
        ScaleLayout::Tiled128x4 => 1,
        ScaleLayout::Tiled8x4 => 2,
    }
}

impl From<&Groups> for GroupsParams {
    fn from(groups: &Groups) -> Self {
        let count = groups.count() as u32;
        match *groups {
            Groups::None { rows } => GroupsParams { index: 0, rows: rows as u64, kind: 0, count },
            Groups::Ends { ends, rows, .. } => {
                GroupsParams { index: address(ends), rows: rows as u64, kind: 1, count }
            }
            Groups::Masked { counts, max_rows, .. } => {
                GroupsParams { index: address(counts), rows: max_rows as u64, kind: 2, count }
            }
            Groups::Strided { rows, .. } => GroupsParams { index: 0, rows: rows as u64, kind: 3, count },
        }
    }
}

impl From<&Matrix> for MatrixParams {
    fn from(m: &Matrix) -> Self {
        MatrixParams {
            base: address(m.base),
            row_stride: m.row_stride as u64,
            group_stride: m.group_stride as u64,
        }
    }
}

impl From<&Scales> for ScalesParams {
    fn from(s: &Scales) -> Self {
        ScalesParams {
            base: address(s.base),
            row_stride: s.row_stride as u64,
            layout: layout(s.layout),
            reserved: 0,
        }
    }
}

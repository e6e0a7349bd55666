//! Scale layouts, gate/up interleaving, group offsets: bytes moved, nothing computed.
#![allow(non_camel_case_types)]

use super::types::*;

/// Arguments of nvfp4_scales_size, a pure query.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_scales_size_args {
    /// sizeof(nvfp4_scales_size_args).
    pub struct_size: usize,
    /// One of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// Must be 0.
    pub reserved: u32,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// Bytes between rows in the linear layout; 0: dense.
    pub scales_row_stride: i64,
    /// The split of rows; its arrays may be NULL here.
    pub groups: nvfp4_groups,
}

/// Arguments of nvfp4_tile_scales and nvfp4_untile_scales.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_tile_scales_args {
    /// sizeof(nvfp4_tile_scales_args).
    pub struct_size: usize,
    /// [rows, blocks] linear scales by logical row, 16-byte aligned. Read by tile, written by untile.
    pub linear: *mut u8,
    /// Bytes between rows of linear; 0: blocks.
    pub linear_row_stride: i64,
    /// Tiled scales, 16-byte aligned. Written by tile, its padding as zero; read by untile.
    pub tiled: *mut u8,
    /// TILED_128X4 or TILED_8X4.
    pub scale_layout: nvfp4_scale_layout,
    /// Must be 0.
    pub reserved: u32,
    /// Rows over all groups, 0 or more.
    pub rows: i64,
    /// Scale columns a row (K/16), 1 or more.
    pub blocks: i64,
    /// The split of rows; all zero for one tensor.
    pub groups: nvfp4_groups,
}

/// Arguments of nvfp4_interleave_gate_up and nvfp4_deinterleave_gate_up.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_interleave_gate_up_args {
    /// sizeof(nvfp4_interleave_gate_up_args).
    pub struct_size: usize,
    /// [count, 2 * half_rows, row_bytes], dense, 16-byte aligned.
    pub src: *const core::ffi::c_void,
    /// The same shape, written; 16-byte aligned.
    pub dst: *mut core::ffi::c_void,
    /// Matrices, 0 or more.
    pub count: i64,
    /// I: rows of gate, and of up; a positive multiple of granularity.
    pub half_rows: i64,
    /// Bytes a row, 1 or more.
    pub row_bytes: i64,
    /// Rows of gate, then of up, that stand together; default 0 means 8.
    pub granularity: i64,
}

/// Arguments of nvfp4_group_ends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_group_ends_args {
    /// sizeof(nvfp4_group_ends_args).
    pub struct_size: usize,
    /// int32[count] in device memory, 4-byte aligned. A negative count is taken as 0 and sets NVFP4_FAULT_BAD_GROUP;
    /// so does a sum past 2^31 - 1, which stays there.
    pub counts: *const i32,
    /// int32[count] in device memory, written: inclusive cumulative ends. May be the same array as counts.
    pub ends: *mut i32,
    /// Number of groups, 0 to 65535.
    pub count: i64,
}

zeroed_default!(
    nvfp4_scales_size_args,
    nvfp4_tile_scales_args,
    nvfp4_interleave_gate_up_args,
    nvfp4_group_ends_args
);

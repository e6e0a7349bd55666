//! Scale layouts, gate/up interleaving, group offsets: bytes moved, nothing computed.
#![allow(non_camel_case_types)]

use super::check::{self, MATRIX, Regions};
use super::context::Context;
use super::operand::scales_bytes;
use super::stream::Stream;
use super::types::*;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::layout::ScaleLayout;
use crate::plan::Job;
use crate::plan::layouts::{GroupEndsProblem, InterleaveProblem, ScaleLayoutProblem};
use crate::plan::quantize::Scales;

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

const DEFAULT_GRANULARITY: i64 = 8;

/// Bytes that suffice for the block scales of any split of the rows into the groups.
pub fn scales_size(args: &nvfp4_scales_size_args) -> Result<usize> {
    check::reserved("reserved", args.reserved)?;
    let layout = check::scale_layout("scale_layout", args.scale_layout)?;
    let blocks = check::cols("cols", args.cols)? / BLOCK;
    let groups = check::groups(&args.groups, args.rows, false, &mut Regions::default())?;
    if layout.is_tiled() {
        if args.scales_row_stride != 0 {
            return Err(Error::Conflict {
                argument: "scales_row_stride",
                problem: format!("{} has no meaning in a tiled layout; pass 0", args.scales_row_stride),
            });
        }
        let rows = groups.scale_rows(layout.tile_rows());
        let width = blocks.next_multiple_of(4);
        return Ok(check::extent("scales", rows, width, width, 1)?.bytes);
    }
    let stride = check::stride("scales_row_stride", args.scales_row_stride, blocks)?;
    Ok(check::extent("scales", groups.total_rows(), stride, blocks, 1)?.bytes)
}

/// Linear scales → a tiled layout, padding written as zero.
///
/// # Safety
/// The pointers of `args` are valid for what their documentation says.
pub unsafe fn tile_scales(context: &Context, args: &nvfp4_tile_scales_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan_tiles(args, true, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::MoveScales(problem), None, None) }
}

/// A tiled layout → linear scales.
///
/// # Safety
/// As [`tile_scales`].
pub unsafe fn untile_scales(context: &Context, args: &nvfp4_tile_scales_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan_tiles(args, false, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::MoveScales(problem), None, None) }
}

pub(super) fn plan_tiles(
    args: &nvfp4_tile_scales_args,
    forward: bool,
    mut regions: Regions,
) -> Result<ScaleLayoutProblem> {
    check::reserved("reserved", args.reserved)?;
    let layout = check::tiled_layout("scale_layout", args.scale_layout)?;
    let blocks = check::count("blocks", args.blocks, 1, i64::MAX / 16)?;
    let groups = check::groups(&args.groups, args.rows, true, &mut regions)?;
    let row_stride = check::stride("linear_row_stride", args.linear_row_stride, blocks)?;
    let linear_bytes = scales_bytes("linear", &groups, ScaleLayout::Linear, row_stride, blocks)?;
    let tiled_bytes = scales_bytes("tiled", &groups, layout, 0, blocks)?;
    let (linear, tiled) = if forward {
        (
            regions.read("linear", args.linear.cast_const(), linear_bytes, MATRIX)?,
            regions.write("tiled", args.tiled, tiled_bytes, MATRIX)?,
        )
    } else {
        (
            regions.write("linear", args.linear, linear_bytes, MATRIX)?,
            regions.read("tiled", args.tiled.cast_const(), tiled_bytes, MATRIX)?,
        )
    };
    regions.check_overlap()?;
    let linear = Scales { base: linear, layout: ScaleLayout::Linear, row_stride };
    let tiled = Scales { base: tiled, layout, row_stride: 0 };
    let (src, dst) = if forward { (linear, tiled) } else { (tiled, linear) };
    Ok(ScaleLayoutProblem { groups, blocks, src, dst })
}

/// [gate; up] rows ↔ granularity gate rows, granularity up rows, alternating.
///
/// # Safety
/// As [`tile_scales`].
pub unsafe fn interleave_gate_up(
    context: &Context,
    args: &nvfp4_interleave_gate_up_args,
    stream: &Stream,
    forward: bool,
) -> Result<()> {
    stream.check(context)?;
    let problem = plan_interleave(args, forward, Regions::default())?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::Interleave(problem), None, None) }
}

pub(super) fn plan_interleave(
    args: &nvfp4_interleave_gate_up_args,
    forward: bool,
    mut regions: Regions,
) -> Result<InterleaveProblem> {
    let granularity = if args.granularity == 0 { DEFAULT_GRANULARITY } else { args.granularity };
    let granularity = check::count("granularity", granularity, 1, i64::MAX)?;
    let half = check::multiple("half_rows", args.half_rows, granularity as i64)?;
    let row_bytes = check::count("row_bytes", args.row_bytes, 1, i64::MAX)?;
    let count = check::count("count", args.count, 0, i64::MAX)?;
    let rows = half.checked_mul(2).and_then(|r| r.checked_mul(count));
    let rows = rows.ok_or(Error::TooLarge { argument: "src" })?;
    let bytes = check::extent("src", rows, row_bytes, row_bytes, 1)?;
    let src = regions.read("src", args.src.cast::<u8>(), bytes, MATRIX)?;
    let dst = regions.write("dst", args.dst.cast::<u8>(), bytes, MATRIX)?;
    regions.check_overlap()?;
    Ok(InterleaveProblem { src, dst, count, half, row_bytes, granularity, forward })
}

/// counts → inclusive cumulative ends.
///
/// # Safety
/// As [`tile_scales`].
pub unsafe fn group_ends(context: &Context, args: &nvfp4_group_ends_args, stream: &Stream) -> Result<()> {
    stream.check(context)?;
    let problem = plan_ends(args, [Regions::default(), Regions::default()])?;
    // SAFETY: the caller's promise.
    unsafe { stream.submit(Job::GroupEnds(problem), None, None) }
}

pub(super) fn plan_ends(args: &nvfp4_group_ends_args, regions: [Regions; 2]) -> Result<GroupEndsProblem> {
    let [mut regions, mut own] = regions;
    let count = check::count("count", args.count, 0, check::MAX_GROUPS as i64)?;
    let ends = regions.write_array("ends", args.ends, count)?;
    let in_place = args.counts == args.ends.cast_const();
    // One array for both is allowed: every entry is read before it is written.
    let counts = if in_place { &mut own } else { &mut regions }.read_array("counts", args.counts, count)?;
    regions.check_overlap()?;
    Ok(GroupEndsProblem { counts, ends, count })
}

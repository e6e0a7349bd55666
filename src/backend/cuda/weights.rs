//! Prepared weights on a device: canonical codes, or values, → units (kernels/weights.cu), and back.
//!
//! Storage: one f32 decode scale a group, padded to 128 bytes, then units [group][rows / 128][cols / 64] of 4608 bytes.
//! Values are quantized on the way: their largest magnitudes pass through the header, so that nothing else is needed.
//! Decode scales of rows are read back, which waits: whether a matrix has one is decided here, as on the CPU.
//! Twin: backend/cpu/weights.rs, whose panels differ.

use super::launch::{Kernel, Queue};
use super::params::{address, dtype, layout, rule};
use crate::error::{Error, Result};
use crate::format::block::ScaleRule;
use crate::format::layout::ScaleLayout;
use crate::plan::gemm_cuda::{UNIT_BYTES, UNIT_COLS, UNIT_ROWS};
use crate::plan::memory::Ptr;
use crate::plan::quantize::Scales;
use crate::plan::weights::{
    ExportProblem, PrepareProblem, Weights, WeightsShape, WeightsSource, merge_decode_scales,
};

const FILE: &str = "weights";

type Grid = (u32, u32, u32);

const fn kernel(name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file: FILE, name, registers, threads }
}

pub static KERNELS: &[Kernel] = &[
    kernel("nvfp4_weights_pack", 64, 128),
    kernel("nvfp4_weights_quantize", 255, 128),
    kernel("nvfp4_weights_amax", 80, 256),
    kernel("nvfp4_weights_finish", 32, 256),
    kernel("nvfp4_weights_unpack", 64, 128),
];
const PACK: &Kernel = &KERNELS[0];
const QUANTIZE: &Kernel = &KERNELS[1];
const AMAX: &Kernel = &KERNELS[2];
const FINISH: &Kernel = &KERNELS[3];
const UNPACK: &Kernel = &KERNELS[4];

/// `struct WeightsParams` of kernels/params_gemm.cuh, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct WeightsParams {
    storage: u64,
    codes: u64,
    scales: u64,
    decode: u64,
    values: u64,
    fault: u64,
    row_stride: i64,
    group_stride: i64,
    units_at: u64,
    groups: u32,
    rows: u32,
    cols: u32,
    gate_up: u32,
    scale_layout: u32,
    dtype: u32,
    transposed: u32,
    rule: u32,
    decode_step: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<WeightsParams>() == 112);

/// Bytes before the first unit.
pub fn header_bytes(groups: usize) -> usize {
    (groups * size_of::<f32>()).next_multiple_of(128).max(128)
}

/// Bytes of storage for weights of a shape; `None` where they pass what can be addressed.
pub fn storage_size(shape: &WeightsShape) -> Option<usize> {
    let down = shape.rows.div_ceil(UNIT_ROWS).checked_mul(shape.groups)?;
    let units = shape.cols.div_ceil(UNIT_COLS).checked_mul(down)?;
    let bytes = units.checked_mul(UNIT_BYTES)?.checked_add(header_bytes(shape.groups))?;
    Some(bytes).filter(|&bytes| bytes <= isize::MAX as usize)
}

/// Fills the storage. Signed block scales and unusable decode scales are faults, and read as NaN.
///
/// # Safety
/// Every address of the problem is valid on the device for what its documentation says.
pub unsafe fn prepare(queue: &Queue, p: &PrepareProblem) -> Result<()> {
    let shape = &p.weights.shape;
    if shape.groups == 0 {
        return Ok(());
    }
    let (grid, mut params) = launch_of(queue, &p.weights)?;
    let mut canonical = |codes: Ptr<u8>, scales: Scales, decode: Ptr<f32>, step: usize| {
        params.codes = address(codes);
        (params.scales, params.scale_layout) = (address(scales.base), layout(scales.layout));
        (params.decode, params.decode_step) = (address(decode), step as u32);
    };
    // SAFETY: the caller's promise, here and below; the struct is the kernels'.
    unsafe {
        match p.source {
            WeightsSource::Codes { codes, scales, decode } => {
                canonical(codes, scales, decode, 1);
                queue.launch(PACK, grid, PACK.threads, 0, &params)
            }
            WeightsSource::Scoped { codes, scales, decode, per_row: false, .. } => {
                canonical(codes, scales, decode, 0);
                queue.launch(PACK, grid, PACK.threads, 0, &params)
            }
            WeightsSource::Scoped { codes, scales, decode, per_row: true, requantize } => {
                canonical(codes, scales, decode, shape.rows);
                params.rule = rule(requantize.unwrap_or(ScaleRule::Amax));
                by_rows(queue, &params, grid, shape, scales.layout, requantize.is_some())
            }
            WeightsSource::Values { src, transposed, rule: by, given } => {
                params.values = address(src.base);
                (params.row_stride, params.group_stride) = (src.row_stride as i64, src.group_stride as i64);
                (params.dtype, params.transposed, params.rule) =
                    (dtype(src.dtype), transposed as u32, rule(by));
                params.decode = address(given);
                if !given.is_null() {
                    return queue.launch(QUANTIZE, grid, QUANTIZE.threads, 0, &params);
                }
                let down = if transposed { shape.cols } else { shape.rows };
                quantize(queue, &params, grid, down)
            }
        }
    }
}

/// Quantizes matrices under decode scales of their own, found on the way; `down`: rows as they are stored.
unsafe fn quantize(queue: &Queue, params: &WeightsParams, grid: Grid, down: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        queue.memset32(params.storage, 0, params.groups as usize)?;
        // The second dimension of a grid takes as many groups as there may be.
        queue.launch(AMAX, (down.min(256) as u32, params.groups, 1), AMAX.threads, 0, params)?;
        queue.launch(QUANTIZE, grid, QUANTIZE.threads, 0, params)?;
        queue.launch(FINISH, (params.groups.div_ceil(FINISH.threads), 1, 1), FINISH.threads, 0, params)
    }
}

/// Codes with a decode scale a row: matrices whose rows agree keep their bytes, the others are quantized again.
unsafe fn by_rows(
    queue: &Queue,
    params: &WeightsParams,
    grid: Grid,
    shape: &WeightsShape,
    layout: ScaleLayout,
    requantize: bool,
) -> Result<()> {
    // SAFETY: the caller's promise, here and below.
    unsafe {
        let Some(given) = queue.read_back(params.decode, shape.groups * shape.rows)? else {
            quantize(queue, params, grid, shape.rows)?;
            return queue.launch(PACK, grid, PACK.threads, 0, params);
        };
        let one = |group, row| given[group * shape.rows + row];
        let merged = merge_decode_scales(shape, one, requantize)?;
        for run in merged.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let first = run.as_ptr().offset_from(merged.as_ptr()) as usize;
            let (grid, params) = part(grid, params, shape, layout, first, run.len());
            match run[0] {
                Some(_) => queue.launch(PACK, grid, PACK.threads, 0, &params)?,
                None => quantize(queue, &params, grid, shape.rows)?,
            }
        }
    }
    Ok(())
}

/// A launch over some of the matrices of canonical weights.
fn part(
    grid: Grid,
    params: &WeightsParams,
    shape: &WeightsShape,
    layout: ScaleLayout,
    first: usize,
    count: usize,
) -> (Grid, WeightsParams) {
    let (codes, scales) = shape.canonical_bytes(layout);
    let header = first * size_of::<f32>();
    let units = first * (grid.0 as usize * grid.1 as usize) * UNIT_BYTES;
    let params = WeightsParams {
        storage: params.storage + header as u64,
        units_at: params.units_at + (units - header) as u64,
        codes: params.codes + (first * codes) as u64,
        scales: params.scales + (first * scales) as u64,
        decode: params.decode + (header * shape.rows) as u64,
        groups: count as u32,
        ..*params
    };
    ((grid.0, grid.1, count as u32), params)
}

/// Gives the canonical bytes back; tiled scales with their padding.
///
/// # Safety
/// As [`prepare`]; the weights were prepared.
pub unsafe fn export(queue: &Queue, p: &ExportProblem) -> Result<()> {
    if p.weights.shape.groups == 0 {
        return Ok(());
    }
    let (grid, mut params) = launch_of(queue, &p.weights)?;
    params.codes = address(p.codes);
    (params.scales, params.scale_layout) = (address(p.scales.base), layout(p.scales.layout));
    params.decode = address(p.decode);
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe { queue.launch(UNPACK, grid, UNPACK.threads, 0, &params) }
}

/// The grid over all units and the parameters that do not depend on the operation.
fn launch_of(queue: &Queue, weights: &Weights) -> Result<(Grid, WeightsParams)> {
    let shape = &weights.shape;
    let down = shape.rows.div_ceil(UNIT_ROWS);
    if down > u16::MAX as usize || shape.cols > i32::MAX as usize {
        return Err(Error::TooLarge { argument: if down > u16::MAX as usize { "rows" } else { "cols" } });
    }
    let params = WeightsParams {
        storage: address(weights.storage),
        fault: queue.facts.fault,
        units_at: header_bytes(shape.groups) as u64,
        groups: shape.groups as u32,
        rows: shape.rows as u32,
        cols: shape.cols as u32,
        gate_up: shape.gate_up as u32,
        ..WeightsParams::default()
    };
    let across = shape.cols.div_ceil(UNIT_COLS) as u32;
    Ok(((across, down as u32, shape.groups as u32), params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_are_those_of_the_kernels() {
        crate::backend::cuda::gemm::tests::assert_mirrored("WeightsParams", include_str!("weights.rs"));
    }

    #[test]
    fn storage_is_a_header_and_whole_units() {
        let size = |groups, rows, cols| storage_size(&WeightsShape { groups, rows, cols, gate_up: false });
        assert_eq!(size(0, 1, 16), Some(128));
        assert_eq!(size(1, 1, 16), Some(128 + 4608));
        assert_eq!(size(33, 129, 80), Some(256 + 33 * 2 * 2 * 4608));
        assert_eq!(size(65535, 1 << 40, 1 << 40), None);
    }
}

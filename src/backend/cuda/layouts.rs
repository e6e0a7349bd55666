//! Dequantization and byte shuffles → launches of dequantize.cu and layouts.cu. Twin of backend/cpu/layouts.rs.

use super::context::DeviceFacts;
use super::launch::{Kernel, Queue};
use super::params::{self, DequantizeParams, InterleaveParams, MoveScalesParams, address};
use crate::error::Result;
use crate::format::dtype::Dtype;
use crate::plan::dequantize::DequantizeProblem;
use crate::plan::groups::Groups;
use crate::plan::layouts::{InterleaveProblem, ScaleLayoutProblem};

pub static KERNELS: &[Kernel] = &[
    Kernel { file: "dequantize", name: "nvfp4_decode_bf16", registers: 64, threads: THREADS },
    Kernel { file: "dequantize", name: "nvfp4_dequantize_bf16", registers: 64, threads: THREADS },
    Kernel { file: "dequantize", name: "nvfp4_dequantize_f16", registers: 64, threads: THREADS },
    Kernel { file: "dequantize", name: "nvfp4_dequantize_f32", registers: 80, threads: THREADS },
    Kernel { file: "layouts", name: "nvfp4_move_scales", registers: 64, threads: THREADS },
    Kernel { file: "layouts", name: "nvfp4_interleave", registers: 64, threads: THREADS },
];

const THREADS: u32 = 256;

/// One launch.
pub struct Launch<P> {
    pub kernel: &'static Kernel,
    pub grid: (u32, u32),
    pub threads: u32,
    pub params: P,
}

impl<P: Copy> Launch<P> {
    /// # Safety
    /// The addresses in the parameters are valid on the device.
    unsafe fn run(&self, queue: &Queue) -> Result<()> {
        // SAFETY: the caller's promise; the struct is the kernel's.
        unsafe { queue.launch(self.kernel, (self.grid.0, self.grid.1, 1), self.threads, 0, &self.params) }
    }
}

/// `early`: the launch may start before the one in front has ended, for which it waits before it reads anything.
///
/// # Safety
/// Every address of the problem is valid on the device for what its documentation says.
pub unsafe fn dequantize(queue: &Queue, p: &DequantizeProblem, early: bool) -> Result<()> {
    let Some(launch) = plan_dequantize(p, queue.facts) else { return Ok(()) };
    let (grid, params) = ((launch.grid.0, launch.grid.1, 1), &launch.params);
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe {
        match early {
            true => queue.launch_dependent(launch.kernel, grid, launch.threads, 0, params),
            false => queue.launch(launch.kernel, grid, launch.threads, 0, params),
        }
    }
}

/// # Safety
/// As [`dequantize`].
pub unsafe fn move_scales(queue: &Queue, p: &ScaleLayoutProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_move_scales(p, queue.facts).map_or(Ok(()), |launch| unsafe { launch.run(queue) })
}

/// # Safety
/// As [`dequantize`].
pub unsafe fn interleave(queue: &Queue, p: &InterleaveProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_interleave(p).map_or(Ok(()), |launch| unsafe { launch.run(queue) })
}

/// `None`: nothing to do.
pub fn plan_dequantize(p: &DequantizeProblem, facts: &DeviceFacts) -> Option<Launch<DequantizeParams>> {
    // Units of rows and steps of columns of kernels/dequantize.cu, and CTAs an SM that leave none waiting for the last.
    const ROWS: usize = 8;
    const COLS: usize = 256;
    const EACH: usize = 8;
    let rows = padded_rows(&p.groups, p.input.scales.layout.tile_rows().max(ROWS))?;
    let (bytes, strided) = (p.dst.dtype.bytes(), matches!(p.groups, Groups::Strided { .. }));
    let vector = p.input.codes.get().addr().is_multiple_of(4)
        && p.input.codes_row_stride.is_multiple_of(4)
        && (!strided || p.input.codes_group_stride.is_multiple_of(4))
        && p.dst.base.get().addr().is_multiple_of(16)
        && (p.dst.row_stride * bytes).is_multiple_of(16)
        && (!strided || (p.dst.group_stride * bytes).is_multiple_of(16));
    let (units, columns, sms) =
        (rows.div_ceil(ROWS * THREADS as usize / 32).max(1), p.cols.div_ceil(COLS), facts.sm_count as usize);
    let mut steps = 4;
    while steps > 1 && units * columns.div_ceil(steps) < EACH * sms {
        steps /= 2;
    }
    let across = columns.div_ceil(steps);
    let params = DequantizeParams {
        groups: (&p.groups).into(),
        scale_rows: rows as u64,
        cols: p.cols as u64,
        codes: address(p.input.codes),
        codes_row_stride: p.input.codes_row_stride as u64,
        codes_group_stride: p.input.codes_group_stride as u64,
        scales: (&p.input.scales).into(),
        decode: address(p.input.decode),
        dst: (&p.dst).into(),
        fault: facts.fault,
        scope: params::scope(p.input.scope),
        dtype: params::dtype(p.dst.dtype),
        vector: vector as u32,
        steps: steps as u32,
    };
    let index = match p.dst.dtype {
        Dtype::Bf16 if vector && params.decode == 0 => 0,
        Dtype::Bf16 => 1,
        Dtype::F16 => 2,
        Dtype::F32 => 3,
    };
    let many = matches!(p.groups, Groups::Ends { count, .. } if count > 256);
    let most = if many { (EACH * sms).div_ceil(across) } else { 65535 };
    let grid = (across as u32, units.min(most).min(65535) as u32);
    Some(Launch { kernel: &KERNELS[index], grid, threads: THREADS, params })
}

/// `None`: nothing to do.
pub fn plan_move_scales(p: &ScaleLayoutProblem, facts: &DeviceFacts) -> Option<Launch<MoveScalesParams>> {
    let height = p.src.layout.tile_rows().max(p.dst.layout.tile_rows());
    let rows = padded_rows(&p.groups, height)?;
    let params = MoveScalesParams {
        groups: (&p.groups).into(),
        scale_rows: rows as u64,
        blocks: p.blocks as u64,
        src: (&p.src).into(),
        dst: (&p.dst).into(),
        fault: facts.fault,
    };
    let many = matches!(p.groups, Groups::Ends { count, .. } if count > 256);
    let most = if many { 8 * facts.sm_count as usize } else { i32::MAX as usize };
    let threads = p.blocks.div_ceil(4).next_multiple_of(32).min(THREADS as usize) as u32;
    Some(Launch { kernel: &KERNELS[4], grid: (rows.clamp(1, most) as u32, 1), threads, params })
}

/// `None`: nothing to do.
pub fn plan_interleave(p: &InterleaveProblem) -> Option<Launch<InterleaveParams>> {
    let rows = p.count * 2 * p.half;
    let aligned = [p.src.get().addr(), p.dst.get().addr(), p.row_bytes].iter().all(|v| v.is_multiple_of(16));
    let params = InterleaveParams {
        src: address(p.src),
        dst: address(p.dst),
        rows: rows as u64,
        half: p.half as u64,
        row_bytes: p.row_bytes as u64,
        granularity: p.granularity as u64,
        forward: p.forward as u32,
        vector: aligned as u32,
    };
    let grid = (rows.div_ceil(THREADS as usize / 32).min(1 << 16) as u32, 1);
    (rows > 0).then_some(Launch { kernel: &KERNELS[5], grid, threads: THREADS, params })
}

/// Rows of the padded row space, 0 where there are none but an index array that may be wrong; `None` for no rows at all.
fn padded_rows(groups: &Groups, tile_rows: usize) -> Option<usize> {
    match (groups.total_rows(), groups) {
        (0, Groups::Ends { count, .. } | Groups::Masked { count, .. }) if *count > 0 => Some(0),
        (0, _) => None,
        _ => Some(groups.scale_rows(tile_rows)),
    }
}

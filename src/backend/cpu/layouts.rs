//! Dequantization and byte shuffles: scale layouts, gate/up interleaving, group offsets.

use super::Cpu;
use super::kernels::{Aligned, CHUNK};
use super::rows::{over_rows, read_scales, report_groups, scope_index, write_row_padding, write_scales};
use crate::format::BLOCK;
use crate::plan::dequantize::DequantizeProblem;
use crate::plan::layouts::{GroupEndsProblem, InterleaveProblem, ScaleLayoutProblem};

/// # Safety
/// Every address of the problem is valid for what its documentation says.
pub unsafe fn dequantize(cpu: &Cpu, p: &DequantizeProblem) {
    report_groups(cpu, &p.groups);
    let (input, blocks) = (&p.input, p.cols / BLOCK);
    over_rows(cpu, &p.groups, input.scales.layout.tile_rows(), p.cols, |span, rows, _| {
        let (mut values, mut scales) = (Aligned::<CHUNK>::ZERO, [0u8; CHUNK / BLOCK]);
        for r in rows {
            // SAFETY: the caller's promise; the table was checked against this processor.
            unsafe {
                let g = match input.decode.some() {
                    Some(decode) => decode.get().add(scope_index(input.scope, span, r)).read(),
                    None => 1.0,
                };
                let codes = input.codes.get().add(input.codes_row(&p.groups, span, r));
                let dst = p.dst.row(&p.groups, span, r);
                for col in (0..p.cols).step_by(CHUNK) {
                    let n = CHUNK.min(p.cols - col);
                    let (values, scales) = (&mut values.0[..n], &mut scales[..n / BLOCK]);
                    read_scales(&input.scales, span, r, col / BLOCK, blocks, scales);
                    let codes = std::slice::from_raw_parts(codes.add(col / 2), n / 2);
                    (cpu.kernels.dequantize)(codes, scales, g, values);
                    let to = p.dst.base.get_mut().add((dst + col) * p.dst.dtype.bytes());
                    (cpu.kernels.narrow)(p.dst.dtype, values, to);
                }
            }
        }
    });
}

/// Moves scales between layouts; a tiled destination gets its padding.
///
/// # Safety
/// As [`dequantize`].
pub unsafe fn move_scales(cpu: &Cpu, p: &ScaleLayoutProblem) {
    report_groups(cpu, &p.groups);
    let tile_rows = p.src.layout.tile_rows().max(p.dst.layout.tile_rows());
    over_rows(cpu, &p.groups, tile_rows, p.blocks, |span, rows, last| {
        let mut bytes = [0u8; CHUNK];
        // SAFETY: the caller's promise.
        unsafe {
            for r in rows {
                for first in (0..p.blocks).step_by(CHUNK) {
                    let bytes = &mut bytes[..CHUNK.min(p.blocks - first)];
                    read_scales(&p.src, span, r, first, p.blocks, bytes);
                    write_scales(&p.dst, span, r, first, p.blocks, bytes);
                }
            }
            if last {
                write_row_padding(&p.dst, span, p.blocks);
            }
        }
    });
}

/// Moves rows between [gate; up] and the interleaved order.
///
/// # Safety
/// As [`dequantize`].
pub unsafe fn interleave(cpu: &Cpu, p: &InterleaveProblem) {
    cpu.team.run(p.count, &|matrix| {
        for row in 0..2 * p.half {
            let (up, i) = (row / p.half, row % p.half);
            let mixed = (i / p.granularity * 2 + up) * p.granularity + i % p.granularity;
            let (from, to) = if p.forward { (row, mixed) } else { (mixed, row) };
            let start = matrix * 2 * p.half;
            // SAFETY: both buffers hold `count` matrices; the caller keeps them apart.
            unsafe {
                let src = p.src.get().add((start + from) * p.row_bytes);
                let dst = p.dst.get_mut().add((start + to) * p.row_bytes);
                dst.copy_from_nonoverlapping(src, p.row_bytes);
            }
        }
    });
}

/// Inclusive cumulative sums of counts; what does not fit is clamped and reported.
///
/// # Safety
/// As [`dequantize`].
pub unsafe fn group_ends(cpu: &Cpu, p: &GroupEndsProblem) {
    let mut end = 0i64;
    for group in 0..p.count {
        // SAFETY: both arrays hold `count` entries; they may be the same.
        unsafe {
            let raw = p.counts.get().add(group).read() as i64;
            let next = (end + raw.max(0)).min(i32::MAX as i64);
            if next != end + raw {
                cpu.faults.bad_group(group);
            }
            end = next;
            p.ends.get_mut().add(group).write(end as i32);
        }
    }
}

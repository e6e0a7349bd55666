//! Canonical weights whose decode scales are not one a matrix: one for all, or one a row.
//!
//! Rows of one matrix that share a decode scale keep their bytes. Where they do not, the matrix is refused, or its values
//! are quantized again with one scale, as `nvfp4_quantize` would: decode scales are never averaged.

use super::{Canonical, Panels, buffer, decode_slots, linear};
use crate::backend::cpu::{Cpu, rows};
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope};
use crate::plan::weights::{Weights, WeightsShape, merge_decode_scales};

/// The weights as they are stored.
pub struct Scoped {
    pub codes: Ptr<u8>,
    pub scales: Scales,
    pub decode: Ptr<f32>,
    pub per_row: bool,
    /// How matrices with several decode scales are quantized again; `None`: they are refused.
    pub requantize: Option<ScaleRule>,
}

/// # Safety
/// As `prepare`.
pub unsafe fn prepare(cpu: &Cpu, weights: &Weights, source: &Scoped) -> Result<()> {
    let panels = Panels::new(&weights.shape);
    let shape = panels.shape;
    let canonical = Canonical { codes: source.codes, scales: source.scales, panels, first_group: 0 };
    let given = |group: usize, row: usize| {
        let at = if source.per_row { group * shape.rows + row } else { 0 };
        // SAFETY: the caller's promise, here and below.
        unsafe { source.decode.get().add(at).read() }
    };
    let merged = match source.per_row {
        true => merge_decode_scales(&shape, given, source.requantize.is_some())?,
        // One row stands for all.
        false => merge_decode_scales(&WeightsShape { rows: 1, ..shape }, given, false)?,
    };
    // SAFETY: as above.
    unsafe {
        canonical.check_scales(cpu)?;
        let (mut codes, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (group, &g) in merged.iter().enumerate() {
            if let Some(g) = g {
                decode_slots(weights).add(group).write(g);
                canonical.at(group).pack(cpu, weights, 1);
                continue;
            }
            if values.is_empty() {
                values = floats(shape.rows * shape.cols)?;
                codes = buffer(shape.rows * shape.cols / 2)?;
                scales = buffer(shape.rows * shape.cols / BLOCK)?;
            }
            dequantize(cpu, &canonical, group, |row| given(group, row), &mut values);
            let src = Matrix {
                base: Ptr::new(values.as_ptr().cast()),
                dtype: Dtype::F32,
                row_stride: shape.cols,
                group_stride: 0,
            };
            let out = QuantOut {
                codes: Ptr::from_mut(codes.as_mut_ptr()),
                codes_row_stride: shape.cols / 2,
                scales: linear(&mut scales, panels.blocks),
                rule: source.requantize.unwrap_or(ScaleRule::Amax),
                scope: Scope::Tensor,
                decode: DecodeScales::Dynamic(Ptr::from_mut(decode_slots(weights).add(group))),
            };
            let (groups, cols, producer) =
                (Groups::None { rows: shape.rows }, shape.cols, Producer::Plain { src });
            rows::run(
                cpu,
                &QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None },
            );
            let again = Canonical { codes: out.codes, scales: out.scales, panels, first_group: group };
            again.pack(cpu, weights, 1);
        }
    }
    Ok(())
}

fn floats(count: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { bytes: count * 4 })?;
    values.resize(count, 0.0);
    Ok(values)
}

/// The values of a matrix, each row by its own decode scale.
unsafe fn dequantize(
    cpu: &Cpu,
    canonical: &Canonical,
    group: usize,
    decode: impl Fn(usize) -> f32,
    values: &mut [f32],
) {
    let (cols, blocks) = (canonical.panels.shape.cols, canonical.panels.blocks);
    let span = canonical.span(group);
    let mut bytes = [0u8; BLOCK];
    for (row, values) in values.chunks_mut(cols).enumerate() {
        for first in (0..blocks).step_by(BLOCK) {
            let bytes = &mut bytes[..BLOCK.min(blocks - first)];
            // SAFETY: the caller's promise; the table was checked against this processor.
            unsafe {
                rows::read_scales(&canonical.scales(), &span, row, first, blocks, bytes);
                let at = ((span.first_row + row) * blocks + first) * (BLOCK / 2);
                let codes =
                    std::slice::from_raw_parts(canonical.codes.get().add(at), bytes.len() * BLOCK / 2);
                let out = &mut values[first * BLOCK..][..bytes.len() * BLOCK];
                (cpu.kernels.dequantize)(codes, bytes, decode(row), out);
            }
        }
    }
}

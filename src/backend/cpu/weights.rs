//! Canonical or unquantized weights [E, N, K] → panels that the product kernels read, and panels → canonical bytes.
//!
//! Storage, 64-byte aligned: the decode scale of every group (f32[E], padded to 64 bytes), then E · panels panels.
//! A panel holds 16 weight rows; a quad is 64 k of a panel, K padded with zeros to whole quads, 576 bytes: 4 blocks of
//! 128 code bytes, then 4 · 16 scale bytes. In a block's half c = 0, 1 (64 bytes), byte 4·row + j holds the code of
//! k = 8c + j in its low nibble and that of k = 8c + 4 + j in its high one: a 32-bit lane is one row, and either nibble
//! of all bytes is one operand of a four-way byte dot product.
//!
//! Gate/up weights give each panel 8 gate rows and the 8 up rows that belong to them. Rows that pad a panel are zero.
//! A NaN scale is stored as 0xFF: sign-extended and shifted by 7 a scale byte is then the f16 of scale / 256, NaN too.
//!
//! One task packs or unpacks one panel. Twin of the weight packing of the CUDA backend, whose panels differ.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cpu, rows};
use crate::error::{Error, Result};
use crate::format::{BLOCK, e4m3};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope};
use crate::plan::weights::{ExportProblem, PrepareProblem, Weights, WeightsShape, WeightsSource};

/// Weight rows of a panel.
pub const LANES: usize = 16;
/// Blocks of a quad.
pub const QUAD: usize = 4;
/// Bytes of a block's codes.
pub const BLOCK_BYTES: usize = LANES * BLOCK / 2;
/// Where the scales of a quad start.
pub const QUAD_SCALES: usize = QUAD * BLOCK_BYTES;
pub const QUAD_BYTES: usize = QUAD_SCALES + QUAD * LANES;
/// How a NaN scale is stored.
pub const STORED_NAN: u8 = 0xFF;

/// Where things lie in the storage of weights of one shape.
#[derive(Clone, Copy, Debug)]
pub struct Panels {
    pub shape: WeightsShape,
    /// Panels of a group.
    pub count: usize,
    /// Blocks of a row.
    pub blocks: usize,
}

impl Panels {
    pub fn new(shape: &WeightsShape) -> Panels {
        let (rows, lanes) = if shape.gate_up { (shape.rows / 2, LANES / 2) } else { (shape.rows, LANES) };
        Panels { shape: *shape, count: rows.div_ceil(lanes), blocks: shape.cols / BLOCK }
    }

    pub fn panel_bytes(&self) -> usize {
        self.blocks.div_ceil(QUAD) * QUAD_BYTES
    }

    fn header_bytes(&self) -> usize {
        (self.shape.groups * size_of::<f32>()).next_multiple_of(64).max(64)
    }

    /// Byte offset of a panel.
    pub fn offset(&self, group: usize, panel: usize) -> usize {
        self.header_bytes() + (group * self.count + panel) * self.panel_bytes()
    }

    fn size(&self) -> Option<usize> {
        let panels = self.shape.groups.checked_mul(self.count)?;
        let bytes = panels.checked_mul(self.blocks.div_ceil(QUAD).checked_mul(QUAD_BYTES)?)?;
        bytes.checked_add(self.header_bytes()).filter(|&b| b <= isize::MAX as usize)
    }

    /// The canonical row of a lane; `None` for one that pads its panel.
    pub fn row(&self, panel: usize, lane: usize) -> Option<usize> {
        if !self.shape.gate_up {
            return Some(panel * LANES + lane).filter(|&row| row < self.shape.rows);
        }
        let (half, width) = (LANES / 2, self.shape.rows / 2);
        let pair = panel * half + lane % half;
        (pair < width).then_some(lane / half * width + pair)
    }

    /// # Safety
    /// `storage` holds weights of this shape.
    pub unsafe fn decode_scale(&self, storage: *const u8, group: usize) -> f32 {
        // SAFETY: the storage starts with one decode scale a group.
        unsafe { storage.cast::<f32>().add(group).read() }
    }
}

/// Offset of a block's codes in its panel.
#[inline]
pub fn codes_at(block: usize) -> usize {
    block / QUAD * QUAD_BYTES + block % QUAD * BLOCK_BYTES
}

/// Offset of a block's 16 scales in its panel.
#[inline]
pub fn scales_at(block: usize) -> usize {
    block / QUAD * QUAD_BYTES + QUAD_SCALES + block % QUAD * LANES
}

/// Bytes of storage for weights of a shape; `None` where they pass what can be addressed.
pub fn storage_size(shape: &WeightsShape) -> Option<usize> {
    Panels::new(shape).size()
}

/// Fills the storage; refuses, before it is touched, scales and decode scales that no quantizer writes.
///
/// # Safety
/// Every address of the problem is valid for what its documentation says.
pub unsafe fn prepare(cpu: &Cpu, p: &PrepareProblem) -> Result<()> {
    let panels = Panels::new(&p.weights.shape);
    let WeightsShape { groups, rows, cols, .. } = panels.shape;
    // SAFETY: the caller's promise, here and below.
    match p.source {
        WeightsSource::Codes { codes, scales, decode } => unsafe {
            let canonical = Canonical { codes, scales, panels, first_group: 0 };
            canonical.check(cpu, decode)?;
            decode_slots(&p.weights).copy_from_nonoverlapping(decode.get(), groups);
            canonical.pack(cpu, &p.weights, groups);
        },
        WeightsSource::Scoped { codes, scales, decode, per_row, requantize } => {
            let source = scoped::Scoped { codes, scales, decode, per_row, requantize };
            // SAFETY: as above.
            unsafe { scoped::prepare(cpu, &p.weights, &source)? };
        }
        WeightsSource::Values { .. } if groups == 0 => {}
        WeightsSource::Values { src, transposed, rule, given } => {
            // Canonical bytes of one matrix at a time pass through here.
            let (mut codes, mut scales) = (buffer(rows * cols / 2)?, buffer(rows * cols / BLOCK)?);
            for group in 0..groups {
                // SAFETY: as above.
                unsafe {
                    let start = src.base.get().add(group * src.group_stride * src.dtype.bytes());
                    let src = Matrix { base: Ptr::new(start), ..src };
                    let slot = Ptr::from_mut(decode_slots(&p.weights).add(group));
                    let decode = match given.some() {
                        Some(given) => {
                            slot.get_mut().write(given.get().add(group).read());
                            DecodeScales::Static(slot)
                        }
                        None => DecodeScales::Dynamic(slot),
                    };
                    let scales = linear(&mut scales, panels.blocks);
                    let out = QuantOut {
                        codes: Ptr::from_mut(codes.as_mut_ptr()),
                        codes_row_stride: cols / 2,
                        scales,
                        rule,
                        scope: Scope::Tensor,
                        decode,
                    };
                    rows::run(
                        cpu,
                        &QuantizeProblem {
                            groups: Groups::None { rows },
                            cols,
                            producer: match transposed {
                                true => Producer::Transposed { src },
                                false => Producer::Plain { src },
                            },
                            activated: None,
                            out: Some(out),
                            amax: None,
                        },
                    );
                    let canonical = Canonical { codes: out.codes, scales, panels, first_group: group };
                    canonical.pack(cpu, &p.weights, 1);
                }
            }
        }
    }
    Ok(())
}

/// Gives the canonical bytes back; tiled scales with their padding.
///
/// # Safety
/// As [`prepare`]; the weights were prepared.
pub unsafe fn export(cpu: &Cpu, p: &ExportProblem) {
    let panels = Panels::new(&p.weights.shape);
    let WeightsShape { groups, rows, .. } = panels.shape;
    let canonical = Canonical { codes: p.codes, scales: p.scales, panels, first_group: 0 };
    // SAFETY: the caller's promise, here and below.
    unsafe { p.decode.get_mut().copy_from_nonoverlapping(decode_slots(&p.weights), groups) };
    cpu.team.run(groups * panels.count, &|task| {
        let (group, panel) = (task / panels.count, task % panels.count);
        for lane in 0..LANES {
            if let Some(row) = panels.row(panel, lane) {
                // SAFETY: one task owns a row.
                unsafe { canonical.write_row(&p.weights, group, panel, lane, row) };
            }
        }
        if panel == 0 && rows > 0 {
            // SAFETY: as above; the padding belongs to the task of panel 0.
            unsafe { rows::write_row_padding(&canonical.scales(), &canonical.span(group), panels.blocks) };
        }
    });
}

fn decode_slots(weights: &Weights) -> *mut f32 {
    weights.storage.get_mut().cast()
}

fn buffer(bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
    buffer.resize(bytes, 0);
    Ok(buffer)
}

fn linear(bytes: &mut [u8], blocks: usize) -> Scales {
    use crate::format::layout::ScaleLayout;
    Scales { base: Ptr::from_mut(bytes.as_mut_ptr()), layout: ScaleLayout::Linear, row_stride: blocks }
}

/// Matrices in the canonical form, dense; `first_group` is the group that the first of them belongs to.
struct Canonical {
    codes: Ptr<u8>,
    scales: Scales,
    panels: Panels,
    first_group: usize,
}

impl Canonical {
    fn scales(&self) -> Scales {
        Scales { row_stride: self.panels.blocks, ..self.scales }
    }

    /// A matrix as the rows of a group, each tiled on its own.
    fn span(&self, matrix: usize) -> Span {
        let rows = self.panels.shape.rows;
        let scale_rows = rows.next_multiple_of(self.scales.layout.tile_rows());
        let (first_row, first_scale_row) = (matrix * rows, matrix * scale_rows);
        Span { group: matrix, first_row, rows, first_scale_row, clamped: false }
    }

    /// The same from another group on.
    fn at(&self, group: usize) -> Canonical {
        let (shape, span) = (self.panels.shape, self.span(group));
        let codes = span.first_row * shape.cols / 2;
        let scales = match self.scales.layout.is_tiled() {
            true => span.first_scale_row * self.panels.blocks.next_multiple_of(4),
            false => span.first_row * self.panels.blocks,
        };
        let offset = |p: Ptr<u8>, bytes: usize| Ptr::from_mut(p.get_mut().wrapping_add(bytes));
        let (codes, base) = (offset(self.codes, codes), offset(self.scales.base, scales));
        Canonical { codes, scales: Scales { base, ..self.scales }, panels: self.panels, first_group: group }
    }

    /// Refuses signed block scales and unusable decode scales; names the first.
    ///
    /// # Safety
    /// The matrices and one decode scale a group are readable.
    unsafe fn check(&self, cpu: &Cpu, decode: Ptr<f32>) -> Result<()> {
        for group in 0..self.panels.shape.groups {
            // SAFETY: the caller's promise, here and below.
            let g = unsafe { decode.get().add(group).read() };
            if !(g.is_finite() && g > 0.0) {
                return Err(Error::OutOfRange {
                    argument: "decode_scales",
                    value: format!("{g} (group {group})"),
                    range: "finite and above 0".into(),
                });
            }
        }
        // SAFETY: as above.
        unsafe { self.check_scales(cpu) }
    }

    /// Refuses signed block scales; names the first.
    ///
    /// # Safety
    /// The matrices are readable.
    unsafe fn check_scales(&self, cpu: &Cpu) -> Result<()> {
        let WeightsShape { groups, rows, .. } = self.panels.shape;
        let blocks = self.panels.blocks;
        let first = AtomicU64::new(u64::MAX);
        let tasks = (groups * rows).div_ceil(64);
        cpu.team.run(tasks, &|task| {
            for row in task * 64..(groups * rows).min(task * 64 + 64) {
                let (span, r) = (self.span(row / rows), row % rows);
                for block in 0..blocks {
                    // SAFETY: as above.
                    let byte = unsafe { self.scale(&span, r, block) };
                    if byte & 0x80 != 0 {
                        first.fetch_min((row * blocks + block) as u64, Ordering::Relaxed);
                        break;
                    }
                }
            }
        });
        let first = first.into_inner();
        if first == u64::MAX {
            return Ok(());
        }
        let (row, block) = (first as usize / blocks, first as usize % blocks);
        let (group, r) = (row / rows, row % rows);
        // SAFETY: as above.
        let byte = unsafe { self.scale(&self.span(group), r, block) };
        Err(Error::OutOfRange {
            argument: "scales",
            value: format!("{byte:#04x} (group {group}, row {r}, block {block})"),
            range: "an E4M3 byte without its sign bit".into(),
        })
    }

    unsafe fn scale(&self, span: &Span, r: usize, block: usize) -> u8 {
        let mut byte = [0];
        // SAFETY: the caller's promise.
        unsafe { rows::read_scales(&self.scales(), span, r, block, self.panels.blocks, &mut byte) };
        byte[0]
    }

    /// # Safety
    /// The matrices are readable and the storage is writable.
    unsafe fn pack(&self, cpu: &Cpu, weights: &Weights, matrices: usize) {
        let panels = &self.panels;
        cpu.team.run(matrices * panels.count, &|task| {
            let (matrix, panel) = (task / panels.count, task % panels.count);
            // SAFETY: the caller's promise; one task owns a panel.
            unsafe {
                let to = weights.storage.get_mut().add(panels.offset(self.first_group + matrix, panel));
                to.write_bytes(0, panels.panel_bytes());
                for lane in 0..LANES {
                    if let Some(row) = panels.row(panel, lane) {
                        self.pack_row(matrix, row, lane, to);
                    }
                }
            }
        });
    }

    unsafe fn pack_row(&self, matrix: usize, row: usize, lane: usize, panel: *mut u8) {
        let span = self.span(matrix);
        // SAFETY: the caller's promise.
        unsafe {
            let codes = self.codes.get().add((span.first_row + row) * self.panels.blocks * (BLOCK / 2));
            for block in 0..self.panels.blocks {
                let scale = self.scale(&span, row, block);
                panel.add(scales_at(block) + lane).write(if scale == e4m3::NAN { STORED_NAN } else { scale });
                for half in 0..2 {
                    let from = codes.add(block * (BLOCK / 2) + 4 * half).cast::<u32>().read_unaligned();
                    let word = if scale == 0 { 0 } else { interleave_nibbles(u32::from_le(from)) };
                    let to = panel.add(codes_at(block) + 64 * half + 4 * lane).cast::<u32>();
                    to.write_unaligned(word.to_le());
                }
            }
        }
    }

    unsafe fn write_row(&self, weights: &Weights, group: usize, panel: usize, lane: usize, row: usize) {
        let span = self.span(group);
        // SAFETY: the caller's promise.
        unsafe {
            let panel = weights.storage.get().add(self.panels.offset(group, panel));
            let codes = self.codes.get_mut().add((span.first_row + row) * self.panels.blocks * (BLOCK / 2));
            for first in (0..self.panels.blocks).step_by(QUAD) {
                let count = QUAD.min(self.panels.blocks - first);
                let mut scales = [0u8; QUAD];
                for (block, scale) in (first..first + count).zip(&mut scales) {
                    let byte = panel.add(scales_at(block) + lane).read();
                    *scale = if byte == STORED_NAN { e4m3::NAN } else { byte };
                    for half in 0..2 {
                        let from = panel.add(codes_at(block) + 64 * half + 4 * lane).cast::<u32>();
                        let word = separate_nibbles(u32::from_le(from.read_unaligned()));
                        let to = codes.add(block * (BLOCK / 2) + 4 * half).cast::<u32>();
                        to.write_unaligned(word.to_le());
                    }
                }
                rows::write_scales(&self.scales(), &span, row, first, self.panels.blocks, &scales[..count]);
            }
        }
    }
}

/// Nibbles 0 1 2 3 4 5 6 7 → 0 4 1 5 2 6 3 7, from the lowest up.
fn interleave_nibbles(x: u32) -> u32 {
    let spread = |v: u32| {
        let v = (v | v << 8) & 0x00FF_00FF;
        (v | v << 4) & 0x0F0F_0F0F
    };
    spread(x & 0xFFFF) | spread(x >> 16) << 4
}

/// The way back.
fn separate_nibbles(x: u32) -> u32 {
    let gather = |v: u32| {
        let v = v & 0x0F0F_0F0F;
        let v = (v | v >> 4) & 0x00FF_00FF;
        (v | v >> 8) & 0xFFFF
    };
    gather(x) | gather(x >> 4) << 16
}

mod scoped;
#[cfg(test)]
mod tests;

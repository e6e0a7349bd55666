//! Where the codes and scales of a row go, and where they are read again: every scale layout, with its padding.
//! Twin of the stores in `kernels/rows.cuh`.

use super::kernels::{CHUNK, Kernels};
use super::sources::Stored;
use crate::format::BLOCK;
use crate::format::block::Encode;
use crate::plan::groups::Span;
use crate::plan::quantize::{QuantOut, Scales};

/// Stored values that are quantized at a time.
const STORED_CHUNK: usize = 4096;

/// Quantizes a whole row of values.
///
/// # Safety
/// The outputs cover the row.
pub unsafe fn write_values(
    kernels: &Kernels,
    out: &QuantOut,
    span: &Span,
    r: usize,
    encode: &Encode,
    x: &[f32],
) -> u32 {
    let mut flags = 0;
    for (i, chunk) in x.chunks(CHUNK).enumerate() {
        // SAFETY: the caller's promise.
        flags |= unsafe { write_chunk(kernels, out, span, r, i * CHUNK, x.len(), encode, chunk) };
    }
    flags
}

/// Quantizes the values of row `r` of a span from column `col` on; a chunk at the row's end pads its last tile.
///
/// # Safety
/// The outputs cover the row.
pub unsafe fn write_chunk(
    kernels: &Kernels,
    out: &QuantOut,
    span: &Span,
    r: usize,
    col: usize,
    cols: usize,
    encode: &Encode,
    chunk: &[f32],
) -> u32 {
    // SAFETY: the caller's promise; the table was checked against this processor.
    unsafe {
        write_blocks(out, span, r, col, cols, chunk.len() / BLOCK, |codes, scales| {
            (kernels.quantize)(chunk, encode, out.rule, codes, scales)
        })
    }
}

/// Quantizes a whole row of stored values.
///
/// # Safety
/// The outputs cover the row.
pub unsafe fn write_stored(
    kernels: &Kernels,
    out: &QuantOut,
    span: &Span,
    r: usize,
    cols: usize,
    encode: &Encode,
    stored: &Stored,
) -> u32 {
    let mut flags = 0;
    for col in (0..cols).step_by(STORED_CHUNK) {
        let n = STORED_CHUNK.min(cols - col);
        let src = stored.at(col);
        // SAFETY: the caller's promise; the table was checked against this processor.
        flags |= unsafe {
            write_blocks(out, span, r, col, cols, n / BLOCK, |codes, scales| {
                (kernels.quantize_from)(stored.dtype, src, encode, out.rule, codes, scales)
            })
        };
    }
    flags
}

/// Has `blocks` blocks of row `r` from column `col` on made, and puts them where they belong.
///
/// # Safety
/// The outputs cover the row.
unsafe fn write_blocks(
    out: &QuantOut,
    span: &Span,
    r: usize,
    col: usize,
    cols: usize,
    blocks: usize,
    quantize: impl FnOnce(&mut [u8], &mut [u8]) -> u32,
) -> u32 {
    let mut scales = [0u8; STORED_CHUNK / BLOCK];
    let scales = &mut scales[..blocks];
    // SAFETY: the caller's promise.
    unsafe {
        let codes = out.codes.get_mut().add((span.first_row + r) * out.codes_row_stride + col / 2);
        let flags = quantize(std::slice::from_raw_parts_mut(codes, blocks * BLOCK / 2), scales);
        write_scales(&out.scales, span, r, col / BLOCK, cols / BLOCK, scales);
        flags
    }
}

/// Writes scale bytes of row `r` from block column `first` on (a multiple of 4), and the zero columns behind the last.
///
/// # Safety
/// The scale buffer covers the row.
pub unsafe fn write_scales(
    scales: &Scales,
    span: &Span,
    r: usize,
    first: usize,
    blocks: usize,
    bytes: &[u8],
) {
    let base = scales.base.get_mut();
    // SAFETY: the caller's promise.
    unsafe {
        if !scales.layout.is_tiled() {
            let row = base.add((span.first_row + r) * scales.row_stride + first);
            row.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            return;
        }
        let row = base.add(scales.layout.tiled_offset(span.first_scale_row + r, first, blocks));
        let step = scales.layout.tile_row_bytes(4);
        let (words, rest) = bytes.as_chunks::<4>();
        for (i, &word) in words.iter().enumerate() {
            row.add(i * step).cast::<[u8; 4]>().write(word);
        }
        if !rest.is_empty() {
            let mut word = [0u8; 4];
            word[..rest.len()].copy_from_slice(rest);
            row.add(words.len() * step).cast::<[u8; 4]>().write(word);
        }
    }
}

/// Writes the zero rows between a group's last row and its tile's end.
///
/// # Safety
/// The scale buffer covers the padded rows.
pub unsafe fn write_row_padding(scales: &Scales, span: &Span, blocks: usize) {
    let padded = span.rows.next_multiple_of(scales.layout.tile_rows());
    for r in span.rows..padded {
        let at = scales.layout.tiled_offset(span.first_scale_row + r, 0, blocks);
        for tile in 0..blocks.div_ceil(4) {
            // SAFETY: the caller's promise.
            unsafe {
                scales.base.get_mut().add(at + tile * scales.layout.tile_row_bytes(4)).write_bytes(0, 4);
            }
        }
    }
}

/// Reads scale bytes of row `r` from block column `first` on (a multiple of 4).
///
/// # Safety
/// The scale buffer covers the row.
pub unsafe fn read_scales(
    scales: &Scales,
    span: &Span,
    r: usize,
    first: usize,
    blocks: usize,
    out: &mut [u8],
) {
    let base = scales.base.get();
    // SAFETY: the caller's promise.
    unsafe {
        if !scales.layout.is_tiled() {
            let row = base.add((span.first_row + r) * scales.row_stride + first);
            out.copy_from_slice(std::slice::from_raw_parts(row, out.len()));
            return;
        }
        let row = base.add(scales.layout.tiled_offset(span.first_scale_row + r, first, blocks));
        for (i, four) in out.chunks_mut(4).enumerate() {
            let word = row.add(i * scales.layout.tile_row_bytes(4)).cast::<[u8; 4]>().read();
            four.copy_from_slice(&word[..four.len()]);
        }
    }
}

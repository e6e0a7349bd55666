//! Rows → NVFP4: drives a [`Source`] of rows through the scopes and rules of the contract.
//!
//! Work is split over threads by logical rows; every output byte has one writer. A source hands out strips of rows,
//! most of them one row high. Rows of up to [`SCRATCH`] values that have to be computed are produced once and kept;
//! longer ones are produced again for the second look that dynamic scales need, and stored ones are read again.
//! Twin of `kernels/rows.cuh`.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Cpu;
use super::kernels::{Aligned, CHUNK, Kernels};
use super::sources::{GatedSource, NormSource, PlainSource, STRIP_ROWS, Source, Stored, TransposedSource};
use crate::format::BLOCK;
use crate::format::block::{self, Encode};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Ptr;
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope, StageProblem};

/// Values of a task's scratch: a row that is kept between two looks at it, or a strip of chunks.
const SCRATCH: usize = 8192;
/// Stored values that are quantized at a time.
const STORED_CHUNK: usize = 4096;
/// Values that make a task worth waking a thread for.
const TASK_VALUES: usize = 16 * 1024;

/// Carries out one quantizing (or amax) call.
///
/// # Safety
/// Every address of the problem is valid for what its documentation says.
pub unsafe fn run(cpu: &Cpu, p: &QuantizeProblem) {
    match p.producer {
        Producer::Plain { src } => drive(cpu, p, &PlainSource { groups: p.groups, src }),
        Producer::Transposed { src } => drive(cpu, p, &TransposedSource { groups: p.groups, src }),
        Producer::Norm { input, norm } => drive(cpu, p, &NormSource { cols: p.cols, input, norm }),
        Producer::Gated { src, interleaved, activation } => drive(
            cpu,
            p,
            &GatedSource {
                groups: p.groups,
                cols: p.cols,
                src,
                interleaved,
                activation,
                activated: p.activated,
            },
        ),
    }
}

/// Quantizes the tokens and copies the routes.
///
/// # Safety
/// As [`run`].
pub unsafe fn stage(cpu: &Cpu, p: &StageProblem) {
    // SAFETY: the caller's promise.
    unsafe { run(cpu, &p.quantize) };
    for i in 0..p.routes {
        // SAFETY: the arrays hold `routes` entries.
        unsafe {
            p.ids_out.get_mut().add(i).write(p.ids_in.get().add(i).read() as i64);
            p.weights_out.get_mut().add(i).write(p.weights_in.get().add(i).read());
        }
    }
}

fn drive<S: Source>(cpu: &Cpu, p: &QuantizeProblem, source: &S) {
    let pass = Pass { cpu, p, source };
    let (scope, decode) = match (&p.out, p.amax) {
        (Some(out), _) => (out.scope, out.decode),
        (None, Some((scope, decode))) => (scope, DecodeScales::Dynamic(decode)),
        (None, None) => return,
    };
    report_groups(cpu, &p.groups);
    match decode {
        DecodeScales::Dynamic(slots) if scope != Scope::Row => {
            let count = if scope == Scope::Tensor { 1 } else { p.groups.count() };
            // The array of decode scales holds amax bits until the codes are out.
            for i in 0..count {
                slot(slots, i).store(0, Ordering::Relaxed);
            }
            pass.over_strips(false, |span, rows, scratch| {
                for (r, amax) in rows.clone().zip(pass.amax(span, rows, scratch)) {
                    slot(slots, scope_index(scope, span, r)).fetch_max(amax.to_bits(), Ordering::Relaxed);
                }
            });
            if let Some(out) = &p.out {
                pass.over_strips(false, |span, rows, scratch| {
                    let encodes = encodes(&rows, |r| {
                        let amax = slot(slots, scope_index(scope, span, r)).load(Ordering::Relaxed);
                        Encode::from_amax(f32::from_bits(amax))
                    });
                    pass.write(out, span, rows, &encodes, false, scratch);
                });
            }
            for i in 0..count {
                let amax = f32::from_bits(slot(slots, i).load(Ordering::Relaxed));
                slot(slots, i).store(block::decode_scale_from_amax(amax).to_bits(), Ordering::Relaxed);
            }
        }
        DecodeScales::Dynamic(slots) => pass.over_strips(pass.keeps_rows(), |span, rows, scratch| {
            let amax = pass.amax(span, rows.clone(), scratch);
            for (r, &amax) in rows.clone().zip(&amax) {
                let index = scope_index(scope, span, r);
                // SAFETY: the array has one entry per logical row, and this row has one writer.
                unsafe { slots.get_mut().add(index).write(block::decode_scale_from_amax(amax)) };
            }
            if let Some(out) = &p.out {
                let encodes = encodes(&rows, |r| Encode::from_amax(amax[r - rows.start]));
                if pass.keeps_rows() {
                    pass.write_kept(out, span, rows.start, &encodes[0], scratch);
                } else {
                    pass.write(out, span, rows, &encodes, false, scratch);
                }
            }
        }),
        DecodeScales::Static(given) => {
            if let Some(out) = &p.out {
                pass.over_strips(false, |span, rows, scratch| {
                    let encodes = encodes(&rows, |r| {
                        // SAFETY: the array covers the scope.
                        Encode::from_static(unsafe { given.get().add(scope_index(scope, span, r)).read() })
                    });
                    pass.write(out, span, rows, &encodes, true, scratch);
                });
            }
        }
    }
}

/// What each row of a strip is encoded with.
fn encodes(rows: &Range<usize>, encode: impl Fn(usize) -> Encode) -> [Encode; STRIP_ROWS] {
    let mut encodes = [Encode::from_amax(0.0); STRIP_ROWS];
    for (r, slot) in rows.clone().zip(&mut encodes) {
        *slot = encode(r);
    }
    encodes
}

/// Names the first group whose index had to be clamped in the fault word.
pub fn report_groups(cpu: &Cpu, groups: &Groups) {
    // SAFETY: the caller of the operation vouches for the index array.
    if let Some(span) = unsafe { groups.spans(1) }.find(|s| s.clamped) {
        cpu.faults.bad_group(span.group);
    }
}

/// Index of a row's decode scale.
pub fn scope_index(scope: Scope, span: &Span, r: usize) -> usize {
    match scope {
        Scope::Tensor => 0,
        Scope::Group => span.group,
        Scope::Row => span.first_row + r,
    }
}

fn slot<'a>(slots: Ptr<f32>, i: usize) -> &'a AtomicU32 {
    // SAFETY: the caller of the operation vouches for the array, which nobody else touches during the call.
    unsafe { AtomicU32::from_ptr(slots.get_mut().add(i).cast()) }
}

/// One loop over the rows of a problem.
struct Pass<'a, S> {
    cpu: &'a Cpu,
    p: &'a QuantizeProblem,
    source: &'a S,
}

impl<S: Source> Pass<'_, S> {
    fn kernels(&self) -> &Kernels {
        self.cpu.kernels
    }

    /// Calls `each` for strips of all rows that belong to a group, and writes the zero rows that pad tiles. The scratch
    /// takes a chunk of every row of a strip, or a whole row where rows are kept.
    fn over_strips(&self, keep: bool, each: impl Fn(&Span, Range<usize>, &mut [f32]) + Sync) {
        over_rows(self.cpu, &self.p.groups, self.tile_rows(), self.p.cols, |span, rows, last| {
            // Clearing the larger scratch would be most of the work of a small call.
            let (mut small, mut large);
            let scratch: &mut [f32] = if keep || S::STRIP > 1 {
                large = Aligned::<SCRATCH>::ZERO;
                &mut large.0
            } else {
                small = Aligned::<CHUNK>::ZERO;
                &mut small.0
            };
            for start in rows.clone().step_by(S::STRIP) {
                each(span, start..rows.end.min(start + S::STRIP), scratch);
            }
            if let (true, Some(out)) = (last, &self.p.out) {
                // SAFETY: the scale buffer covers the padded rows of every group.
                unsafe { write_row_padding(&out.scales, span, self.p.cols / BLOCK) };
            }
        });
    }

    /// Values of a row that are worked on at a time.
    const CHUNK: usize = if S::STRIP == 1 { CHUNK } else { SCRATCH / S::STRIP };

    fn tile_rows(&self) -> usize {
        self.p.out.map_or(1, |out| out.scales.layout.tile_rows())
    }

    /// Whether computed rows stay in the scratch between two looks.
    fn keeps_rows(&self) -> bool {
        S::STRIP == 1 && !S::STORED && self.p.cols <= SCRATCH
    }

    /// First look at a strip: the largest finite magnitude of each row. Keeps a row where rows are kept.
    fn amax(&self, span: &Span, rows: Range<usize>, scratch: &mut [f32]) -> [f32; STRIP_ROWS] {
        let strip = self.source.begin(self.kernels(), span, rows.clone(), true);
        let mut most = [0f32; STRIP_ROWS];
        let keep = scratch.len() >= self.p.cols && self.keeps_rows();
        for col in (0..self.p.cols).step_by(Self::CHUNK) {
            let n = Self::CHUNK.min(self.p.cols - col);
            let at = if keep { col } else { 0 };
            let values = &mut scratch[at..at + rows.len() * n];
            self.source.chunk(self.kernels(), &strip, col, values, true);
            for (amax, x) in most.iter_mut().zip(values.chunks(n)) {
                // SAFETY: the table was checked against this processor.
                *amax = unsafe { (self.kernels().finite_amax)(*amax, x) };
            }
        }
        most
    }

    /// Quantizes a strip from its source. `first`: nobody has looked at it yet.
    fn write(
        &self,
        out: &QuantOut,
        span: &Span,
        rows: Range<usize>,
        encodes: &[Encode],
        first: bool,
        scratch: &mut [f32],
    ) {
        let (kernels, cols) = (self.kernels(), self.p.cols);
        let mut flags = 0;
        if let Some(stored) = self.source.stored(span, rows.start) {
            // SAFETY: the outputs cover the row.
            flags = unsafe { write_stored(kernels, out, span, rows.start, cols, &encodes[0], &stored) };
        } else {
            let strip = self.source.begin(kernels, span, rows.clone(), first);
            for col in (0..cols).step_by(Self::CHUNK) {
                let n = Self::CHUNK.min(cols - col);
                let values = &mut scratch[..rows.len() * n];
                self.source.chunk(kernels, &strip, col, values, first);
                for ((r, encode), x) in rows.clone().zip(encodes).zip(values.chunks(n)) {
                    // SAFETY: the outputs cover the rows.
                    flags |= unsafe { write_chunk(kernels, out, span, r, col, cols, encode, x) };
                }
            }
        }
        self.cpu.faults.raise(fault_bits(flags));
    }

    /// Quantizes a row that `amax` kept.
    fn write_kept(&self, out: &QuantOut, span: &Span, r: usize, encode: &Encode, row: &[f32]) {
        // SAFETY: the outputs cover the row.
        let flags = unsafe { write_values(self.kernels(), out, span, r, encode, &row[..self.p.cols]) };
        self.cpu.faults.raise(fault_bits(flags));
    }
}

/// The fault word's bits for the flags of `block::quantize`.
pub fn fault_bits(flags: u32) -> u32 {
    use super::fault;
    let mut bits = 0;
    for (flag, fault) in [
        (block::FLAG_NON_FINITE, fault::NON_FINITE),
        (block::FLAG_SATURATED, fault::SATURATED),
        (block::FLAG_BAD_DECODE_SCALE, fault::BAD_DECODE_SCALE),
    ] {
        if flags & flag != 0 {
            bits |= fault;
        }
    }
    bits
}

/// Splits the rows of all groups into tasks: `each(span, rows of the span, whether they include its last)`.
pub fn over_rows(
    cpu: &Cpu,
    groups: &Groups,
    tile_rows: usize,
    cols: usize,
    each: impl Fn(&Span, Range<usize>, bool) + Sync,
) {
    let total = groups.total_rows();
    if total == 0 {
        return;
    }
    let least = TASK_VALUES.div_ceil(cols).max(1);
    let tasks = total.div_ceil(least).min(4 * cpu.team.threads());
    cpu.team.run(tasks, &|task| {
        let (from, to) = (total * task / tasks, total * (task + 1) / tasks);
        // SAFETY: the caller of the operation vouches for the index array.
        for span in unsafe { groups.spans(tile_rows) } {
            let first = from.clamp(span.first_row, span.first_row + span.rows) - span.first_row;
            let end = to.clamp(span.first_row, span.first_row + span.rows) - span.first_row;
            if first < end {
                each(&span, first..end, end == span.rows);
            }
        }
    });
}

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
unsafe fn write_stored(
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

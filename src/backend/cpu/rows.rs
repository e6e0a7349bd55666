//! Rows → NVFP4: drives a [`Source`] of rows through the scopes and rules of the contract.
//!
//! Work is split over threads by logical rows; every output byte has one writer. Rows of up to [`ROW_CACHE`] values
//! are produced once and kept; longer ones are produced again for the second look that dynamic scales need.
//! Twin of `kernels/rows.cuh`.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Cpu;
use super::kernels::{CHUNK, Kernels};
use super::sources::{GatedSource, NormSource, PlainSource, Source, TransposedSource};
use crate::format::BLOCK;
use crate::format::block::{self, Encode};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Ptr;
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scales, Scope, StageProblem};

/// Values of a row that are kept between two looks at it.
const ROW_CACHE: usize = 8192;
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
            pass.over_rows(|span, r, scratch| {
                let amax = pass.row_amax(span, r, scratch);
                slot(slots, scope_index(scope, span, r)).fetch_max(amax.to_bits(), Ordering::Relaxed);
            });
            if let Some(out) = &p.out {
                pass.over_rows(|span, r, scratch| {
                    let amax = slot(slots, scope_index(scope, span, r)).load(Ordering::Relaxed);
                    pass.write_row(out, span, r, &Encode::from_amax(f32::from_bits(amax)), false, scratch);
                });
            }
            for i in 0..count {
                let amax = f32::from_bits(slot(slots, i).load(Ordering::Relaxed));
                slot(slots, i).store(block::decode_scale_from_amax(amax).to_bits(), Ordering::Relaxed);
            }
        }
        DecodeScales::Dynamic(slots) => pass.over_rows(|span, r, scratch| {
            let amax = pass.row_amax(span, r, scratch);
            let index = scope_index(scope, span, r);
            // SAFETY: the array has one entry per logical row, and this row has one writer.
            unsafe { slots.get_mut().add(index).write(block::decode_scale_from_amax(amax)) };
            if let Some(out) = &p.out {
                let encode = Encode::from_amax(amax);
                if p.cols <= ROW_CACHE {
                    pass.write_cached(out, span, r, &encode, scratch);
                } else {
                    pass.write_row(out, span, r, &encode, false, scratch);
                }
            }
        }),
        DecodeScales::Static(given) => {
            if let Some(out) = &p.out {
                pass.over_rows(|span, r, scratch| {
                    let g = match given.some() {
                        // SAFETY: the array covers the scope.
                        Some(given) => unsafe { given.get().add(scope_index(scope, span, r)).read() },
                        None => 1.0,
                    };
                    pass.write_row(out, span, r, &Encode::from_static(g), true, scratch);
                });
            }
        }
    }
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

/// Buffers of one task.
struct Scratch {
    row: [f32; ROW_CACHE],
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

    /// Calls `each` for every row that belongs to a group, and writes the zero rows that pad tiles.
    fn over_rows(&self, each: impl Fn(&Span, usize, &mut Scratch) + Sync) {
        over_rows(self.cpu, &self.p.groups, self.tile_rows(), self.p.cols, |span, rows, last| {
            let mut scratch = Scratch { row: [0.0; ROW_CACHE] };
            rows.for_each(|r| each(span, r, &mut scratch));
            if let (true, Some(out)) = (last, &self.p.out) {
                // SAFETY: the scale buffer covers the padded rows of every group.
                unsafe { write_row_padding(&out.scales, span, self.p.cols / BLOCK) };
            }
        });
    }

    fn tile_rows(&self) -> usize {
        self.p.out.map_or(1, |out| out.scales.layout.tile_rows())
    }

    /// First look at a row: its largest finite magnitude. Fills the cache with as much of the row as fits.
    fn row_amax(&self, span: &Span, r: usize, scratch: &mut Scratch) -> f32 {
        let row = self.source.begin(self.kernels(), span, r, true);
        let mut amax = 0.0;
        for col in (0..self.p.cols).step_by(CHUNK) {
            let n = CHUNK.min(self.p.cols - col);
            let at = if self.p.cols <= ROW_CACHE { col } else { 0 };
            let chunk = &mut scratch.row[at..at + n];
            self.source.chunk(self.kernels(), &row, col, chunk, true);
            // SAFETY: the table was checked against this processor.
            amax = unsafe { (self.kernels().finite_amax)(amax, chunk) };
        }
        amax
    }

    /// Quantizes a row from its source. `first`: nobody has looked at it yet.
    fn write_row(
        &self,
        out: &QuantOut,
        span: &Span,
        r: usize,
        encode: &Encode,
        first: bool,
        scratch: &mut Scratch,
    ) {
        let row = self.source.begin(self.kernels(), span, r, first);
        for col in (0..self.p.cols).step_by(CHUNK) {
            let chunk = &mut scratch.row[..CHUNK.min(self.p.cols - col)];
            self.source.chunk(self.kernels(), &row, col, chunk, first);
            // SAFETY: the outputs cover the row.
            let flags = unsafe { write_chunk(self.kernels(), out, span, r, col, self.p.cols, encode, chunk) };
            self.cpu.faults.raise(fault_bits(flags));
        }
    }

    /// Quantizes a row that `row_amax` left in the cache.
    fn write_cached(&self, out: &QuantOut, span: &Span, r: usize, encode: &Encode, scratch: &Scratch) {
        // SAFETY: the outputs cover the row.
        let flags =
            unsafe { write_values(self.kernels(), out, span, r, encode, &scratch.row[..self.p.cols]) };
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
    each: impl Fn(&Span, std::ops::Range<usize>, bool) + Sync,
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
    let mut scales = [0u8; CHUNK / BLOCK];
    let scales = &mut scales[..chunk.len() / BLOCK];
    // SAFETY: the caller's promise; the table was checked against this processor.
    unsafe {
        let codes = out.codes.get_mut().add((span.first_row + r) * out.codes_row_stride + col / 2);
        let codes = std::slice::from_raw_parts_mut(codes, chunk.len() / 2);
        let flags = (kernels.quantize)(chunk, encode, out.rule, codes, scales);
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
        for (i, four) in bytes.chunks(4).enumerate() {
            let mut word = [0u8; 4];
            word[..four.len()].copy_from_slice(four);
            let at = scales.layout.tiled_offset(span.first_scale_row + r, first + 4 * i, blocks);
            base.add(at).copy_from_nonoverlapping(word.as_ptr(), 4);
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
        for column in (0..blocks).step_by(4) {
            // SAFETY: the caller's promise.
            unsafe {
                let at = scales.layout.tiled_offset(span.first_scale_row + r, column, blocks);
                scales.base.get_mut().add(at).write_bytes(0, 4);
            }
        }
    }
}

/// Reads scale bytes of row `r` from block column `first` on.
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
    for (i, byte) in out.iter_mut().enumerate() {
        let at = if scales.layout.is_tiled() {
            scales.layout.tiled_offset(span.first_scale_row + r, first + i, blocks)
        } else {
            (span.first_row + r) * scales.row_stride + first + i
        };
        // SAFETY: the caller's promise.
        *byte = unsafe { scales.base.get().add(at).read() };
    }
}

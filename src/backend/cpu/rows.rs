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
pub use super::output::{read_scales, write_row_padding, write_scales, write_values};
use super::output::{write_chunk, write_stored};
use super::sources::{GatedSource, NormSource, PlainSource, STRIP_ROWS, Source, TransposedSource};
use crate::format::BLOCK;
use crate::format::block::{self, Encode};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::Ptr;
use crate::plan::quantize::{DecodeScales, Producer, QuantOut, QuantizeProblem, Scope, StageProblem};

/// Values of a task's scratch: a row that is kept between two looks at it, or a strip of chunks.
const SCRATCH: usize = 8192;
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

/// Carries out a quantizing call whose rows come from `source`.
pub(super) fn drive<S: Source>(cpu: &Cpu, p: &QuantizeProblem, source: &S) {
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
                        let g = match given.some() {
                            // SAFETY: the array covers the scope.
                            Some(given) => unsafe { given.get().add(scope_index(scope, span, r)).read() },
                            None => 1.0,
                        };
                        Encode::from_static(g)
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

//! Mixture of experts on the CPU: logits → routes, ids → expert order, tokens → rows in that order, rows → tokens.
//!
//! Routing, gathering and combining are split over threads by tokens or rows, each of which has one writer; the counting
//! sort is one walk over the slots, so that it is stable. Rows that are quantized on the way are read through the
//! index and pass the row driver, so that their bits are those of `nvfp4_quantize` on gathered rows.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::kernels::{Aligned, CHUNK, Kernels};
use super::rows::{drive, over_rows, read_scales, write_row_padding, write_scales};
use super::sources::{Source, Stored};
use super::{Cpu, fault, layouts};
use crate::format::BLOCK;
use crate::format::layout::ScaleLayout;
use crate::format::route::{self, MAX_EXPERTS, MAX_TOPK};
use crate::plan::dequantize::{DequantizeProblem, QuantIn};
use crate::plan::groups::{Groups, Span};
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::moe::{
    CombineProblem, DispatchProblem, Gather, GatherProblem, PermuteProblem, RoundProblem, RouteProblem,
};
use crate::plan::quantize::{DecodedOut, Producer, QuantOut, QuantizeProblem, Scales, Scope};

/// Values that make a task worth waking a thread for.
const TASK_VALUES: usize = 16 * 1024;

/// Calls `each` for ranges of `count` items of `values` values.
fn split(cpu: &Cpu, count: usize, values: usize, each: impl Fn(Range<usize>) + Sync) {
    let least = TASK_VALUES.div_ceil(values.max(1)).max(1);
    let tasks = count.div_ceil(least).min(4 * cpu.team.threads());
    cpu.team.run(tasks, &|task| each(count * task / tasks..count * (task + 1) / tasks));
}

/// # Safety
/// Every address of the problem is valid for what its documentation says.
pub unsafe fn route(cpu: &Cpu, p: &RouteProblem) {
    // Scoring costs about this many times what looking at a value does.
    const WORK: usize = 16;
    let not_finite = AtomicBool::new(false);
    split(cpu, p.tokens, WORK * p.experts, |tokens| {
        let (mut logits, mut ids, mut weights) = ([0f32; MAX_EXPERTS], [0; MAX_TOPK], [0f32; MAX_TOPK]);
        let logits = &mut logits[..p.experts];
        for t in tokens {
            let (ids, weights) = (&mut ids[..p.topk], &mut weights[..p.topk]);
            // SAFETY: the caller's promise, here and below; the table was checked against this processor.
            unsafe {
                if p.mask.some().is_some_and(|mask| mask.get().add(t).read() == 0) {
                    ids.fill(-1);
                    weights.fill(0.0);
                } else {
                    let at = t * p.logits.row_stride * p.logits.dtype.bytes();
                    (cpu.kernels.widen)(p.logits.dtype, p.logits.base.get().add(at), logits);
                    let bias = p.router.bias.some();
                    let router = route::Router {
                        score: p.router.score,
                        bias: bias.map(|b| std::slice::from_raw_parts(b.get(), p.experts)),
                        renormalise: p.router.renormalise,
                        scaling: p.router.scaling,
                        groups: p.router.groups,
                        top_groups: p.router.top_groups,
                    };
                    if route::route(logits, &router, ids, weights) {
                        not_finite.store(true, Ordering::Relaxed);
                    }
                }
                p.ids.get_mut().add(t * p.topk).copy_from_nonoverlapping(ids.as_ptr(), p.topk);
                p.weights.get_mut().add(t * p.topk).copy_from_nonoverlapping(weights.as_ptr(), p.topk);
            }
        }
    });
    if not_finite.into_inner() {
        cpu.faults.raise(fault::NON_FINITE);
    }
}

/// # Safety
/// As [`route`].
pub unsafe fn permute(cpu: &Cpu, p: &PermuteProblem) {
    let slots = p.tokens * p.topk;
    // SAFETY: the caller's promise; the outputs are nobody else's.
    let (ids, ends, source_rows, inverse) = unsafe {
        (
            slice(p.ids, slots),
            slice_mut(p.ends, p.local_experts),
            slice_mut(p.source_rows, slots),
            slice_mut(p.inverse, slots),
        )
    };
    let local = |id: i32| {
        let local = (id as i64 - p.first_expert as i64) as usize;
        (id >= 0 && local < p.local_experts).then_some(local)
    };
    ends.fill(0);
    for &id in ids {
        if id < -1 || id >= p.experts as i32 {
            cpu.faults.bad_group(id.max(0) as usize);
        }
        if let Some(expert) = local(id) {
            ends[expert] += 1;
        }
    }
    // Until it is an end, an entry is where the expert's next row goes.
    let mut rows = 0;
    for end in ends.iter_mut() {
        rows += std::mem::replace(end, rows);
    }
    for (slot, &id) in ids.iter().enumerate() {
        inverse[slot] = match local(id) {
            Some(expert) => {
                let row = ends[expert];
                source_rows[row as usize] = (slot / p.topk) as i32;
                ends[expert] += 1;
                row
            }
            None => -1,
        };
    }
    source_rows[rows as usize..].fill(-1);
}

/// The slice behind an address; without elements the address may be anything.
unsafe fn slice<'a, T>(p: Ptr<T>, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(p.get(), count) } }
}

unsafe fn slice_mut<'a, T>(p: Ptr<T>, count: usize) -> &'a mut [T] {
    // SAFETY: the caller's promise.
    if count == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(p.get_mut(), count) } }
}

/// # Safety
/// As [`route`]; the permutation was made by [`permute`].
unsafe fn gather(cpu: &Cpu, p: &GatherProblem) {
    let groups = p.permute.groups();
    match p.what {
        Gather::Values { src, dst } => over_rows(cpu, &groups, 1, p.cols, |span, rows, _| {
            for row in rows.map(|r| span.first_row + r) {
                let bytes = src.dtype.bytes();
                // SAFETY: the caller's promise.
                unsafe {
                    let from = p.permute.source_rows.get().add(row).read() as usize * src.row_stride * bytes;
                    let to = dst.base.get_mut().add(row * dst.row_stride * bytes);
                    to.copy_from_nonoverlapping(src.base.get().add(from), p.cols * bytes);
                }
            }
        }),
        Gather::Codes { src, codes, codes_row_stride, scales, decode } => {
            over_rows(cpu, &groups, scales.layout.tile_rows(), p.cols, |span, rows, last| {
                for r in rows {
                    // SAFETY: the caller's promise.
                    unsafe { gather_codes(p, &src, (codes, codes_row_stride), &scales, decode, span, r) };
                }
                if last {
                    // SAFETY: as above.
                    unsafe { write_row_padding(&scales, span, p.cols / BLOCK) };
                }
            });
        }
        Gather::Quantize { src, out } => {
            let source = GatheredSource { src, source_rows: Some(p.permute.source_rows) };
            quantize(cpu, &groups, p.cols, &source, out);
        }
        Gather::Decode { src, out } => {
            let source = GatheredSource { src, source_rows: Some(p.permute.source_rows) };
            decode(cpu, &groups, p.cols, &source, out);
        }
    }
}

/// # Safety
/// As [`route`].
pub unsafe fn dispatch(cpu: &Cpu, p: &DispatchProblem) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(routing) = &p.route {
            route(cpu, routing);
        }
        permute(cpu, &p.gather.permute);
        gather(cpu, &p.gather);
    }
}

unsafe fn gather_codes(
    p: &GatherProblem,
    src: &QuantIn,
    codes: (Ptr<u8>, usize),
    scales: &Scales,
    decode: Ptr<f32>,
    span: &Span,
    r: usize,
) {
    let (row, blocks) = (span.first_row + r, p.cols / BLOCK);
    let tokens = Span { group: 0, first_row: 0, rows: p.permute.tokens, first_scale_row: 0, clamped: false };
    // SAFETY: the caller's promise.
    unsafe {
        let token = p.permute.source_rows.get().add(row).read() as usize;
        let from = src.codes.get().add(token * src.codes_row_stride);
        codes.0.get_mut().add(row * codes.1).copy_from_nonoverlapping(from, p.cols / 2);
        let mut bytes = [0u8; CHUNK];
        for first in (0..blocks).step_by(CHUNK) {
            let bytes = &mut bytes[..CHUNK.min(blocks - first)];
            read_scales(&src.scales, &tokens, token, first, blocks, bytes);
            write_scales(scales, span, r, first, blocks, bytes);
        }
        let g = match (src.decode.some(), src.scope) {
            (None, _) => 1.0,
            (Some(given), Scope::Row) => given.get().add(token).read(),
            (Some(given), _) => given.get().read(),
        };
        decode.get_mut().add(row).write(g);
    }
}

/// # Safety
/// As [`route`]; the permutation was made by [`permute`].
pub unsafe fn round(cpu: &Cpu, p: &RoundProblem) {
    decode(cpu, &p.rows.groups(), p.cols, &GatheredSource { src: p.src, source_rows: None }, p.out);
}

/// Quantizes rows straight into expert order.
fn quantize(cpu: &Cpu, groups: &Groups, cols: usize, source: &GatheredSource, out: QuantOut) {
    let problem = QuantizeProblem {
        groups: *groups,
        cols,
        producer: Producer::Plain { src: source.src },
        activated: None,
        out: Some(out),
        amax: None,
    };
    drive(cpu, &problem, source);
}

/// As that, by way of codes. Products of this backend take codes: here it is the definition that others are held to.
fn decode(cpu: &Cpu, groups: &Groups, cols: usize, source: &GatheredSource, out: DecodedOut) {
    let rows = groups.total_rows();
    let mut codes = vec![0u8; rows * (cols / 2 + cols / BLOCK)];
    let codes = Ptr::from_mut(codes.as_mut_ptr());
    let base = Ptr::new(codes.get().wrapping_add(rows * cols / 2));
    let scales = Scales { base, layout: ScaleLayout::Linear, row_stride: cols / BLOCK };
    let (scope, codes_row_stride) = (out.scope, cols / 2);
    let written = QuantOut { codes, codes_row_stride, scales, rule: out.rule, scope, decode: out.decode };
    quantize(cpu, groups, cols, source, written);
    let decode = Ptr::NULL;
    let input = QuantIn { codes, codes_row_stride, codes_group_stride: 0, scales, scope, decode };
    // SAFETY: the caller's promise; the codes live to the end of this function.
    unsafe { layouts::dequantize(cpu, &DequantizeProblem { groups: *groups, cols, input, dst: out.rows }) };
}

/// Rows as they are in memory, read through an index.
struct GatheredSource {
    src: Matrix,
    /// None: the rows stand as they are wanted.
    source_rows: Option<Ptr<i32>>,
}

impl GatheredSource {
    fn row(&self, span: &Span, r: usize) -> *const u8 {
        let row = span.first_row + r;
        // SAFETY: the index has an entry a row, which the sort before has filled with a token.
        let token = self.source_rows.map_or(row, |rows| unsafe { rows.get().add(row).read() } as usize);
        self.src.base.get().wrapping_add(token * self.src.row_stride * self.src.dtype.bytes())
    }
}

impl Source for GatheredSource {
    type Strip = *const u8;
    const STORED: bool = true;

    fn begin(&self, _: &Kernels, span: &Span, rows: Range<usize>, _: bool) -> *const u8 {
        self.row(span, rows.start)
    }

    fn chunk(&self, kernels: &Kernels, row: &*const u8, col: usize, out: &mut [f32], _: bool) {
        let from = row.wrapping_add(col * self.src.dtype.bytes());
        // SAFETY: the caller of the operation vouches for the row; the table was checked against this processor.
        unsafe { (kernels.widen)(self.src.dtype, from, out) };
    }

    fn stored(&self, span: &Span, r: usize) -> Option<Stored> {
        Some(Stored { dtype: self.src.dtype, base: self.row(span, r) })
    }
}

/// # Safety
/// As [`route`].
pub unsafe fn combine(cpu: &Cpu, p: &CombineProblem) {
    let bad = AtomicBool::new(false);
    split(cpu, p.tokens, p.cols.saturating_mul(p.topk), |tokens| {
        let (mut acc, mut values) = (Aligned::<CHUNK>::ZERO, Aligned::<CHUNK>::ZERO);
        for t in tokens {
            for col in (0..p.cols).step_by(CHUNK) {
                let n = CHUNK.min(p.cols - col);
                let (acc, values) = (&mut acc.0[..n], &mut values.0[..n]);
                // SAFETY: the caller's promise; the table was checked against this processor.
                unsafe {
                    if !sum(cpu.kernels, p, t, col, acc, values) {
                        bad.store(true, Ordering::Relaxed);
                    }
                    let to = (t * p.out.row_stride + col) * p.out.dtype.bytes();
                    (cpu.kernels.narrow)(p.out.dtype, acc, p.out.base.get_mut().add(to));
                }
            }
        }
    });
    if bad.into_inner() {
        cpu.faults.bad_group(0);
    }
}

/// A token's columns from `col` on; false where a slot names a row that is not there.
unsafe fn sum(k: &Kernels, p: &CombineProblem, t: usize, col: usize, acc: &mut [f32], v: &mut [f32]) -> bool {
    let mut good = true;
    acc.fill(0.0);
    // SAFETY: the caller's promise.
    unsafe {
        for slot in t * p.topk..(t + 1) * p.topk {
            let row = p.inverse.get().add(slot).read();
            if row < 0 || row as usize >= p.rows {
                good &= row == -1;
                continue;
            }
            let from = (row as usize * p.y.row_stride + col) * p.y.dtype.bytes();
            (k.widen)(p.y.dtype, p.y.base.get().add(from), v);
            (k.mix_more)(p.weights.get().add(slot).read(), v, acc);
        }
        if p.scaling != 1.0 {
            acc.iter_mut().for_each(|a| *a *= p.scaling);
        }
        if let Some(shared) = p.shared {
            let from = (t * shared.row_stride + col) * shared.dtype.bytes();
            (k.widen)(shared.dtype, shared.base.get().add(from), v);
            (k.add)(acc, v);
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn permutations_are_stable_and_inverted(
            experts in 0usize..12,
            topk in 1usize..6,
            range in (0usize..12, 0usize..12),
            ids in prop::collection::vec(-3i32..14, 0..240),
        ) {
            let first_expert = range.0.min(experts);
            let local_experts = range.1.min(experts - first_expert);
            let tokens = ids.len() / topk;
            let slots = tokens * topk;
            let (mut ends, mut source, mut inverse) =
                (vec![-7; local_experts], vec![-7; slots], vec![-7; slots]);
            let p = PermuteProblem {
                tokens,
                topk,
                experts,
                first_expert,
                local_experts,
                ids: Ptr::new(ids.as_ptr()),
                ends: Ptr::from_mut(ends.as_mut_ptr()),
                source_rows: Ptr::from_mut(source.as_mut_ptr()),
                inverse: Ptr::from_mut(inverse.as_mut_ptr()),
            };
            let cpu = Cpu::new(1, None).unwrap();
            // SAFETY: the vectors have the lengths that the problem says.
            unsafe { permute(&cpu, &p) };

            let used = ends.last().map_or(0, |&end| end as usize);
            let mut slot_of = vec![None; slots];
            for (slot, &row) in inverse.iter().enumerate() {
                let expert = ids[slot] as i64 - first_expert as i64;
                prop_assert_eq!(row >= 0, ids[slot] >= 0 && (0..local_experts as i64).contains(&expert));
                if row < 0 {
                    prop_assert_eq!(row, -1);
                    continue;
                }
                let (row, expert) = (row as usize, expert as usize);
                let start = if expert == 0 { 0 } else { ends[expert - 1] as usize };
                prop_assert!((start..ends[expert] as usize).contains(&row));
                prop_assert_eq!(source[row], (slot / topk) as i32);
                prop_assert_eq!(slot_of[row].replace(slot), None, "two slots in row {}", row);
            }
            prop_assert!(slot_of[..used].iter().all(Option::is_some));
            prop_assert!(source[used..].iter().all(|&token| token == -1));
            let mut start = 0;
            for &end in &ends {
                let of_expert = &slot_of[start..end as usize];
                prop_assert!(of_expert.is_sorted(), "slots of an expert in order");
                start = end as usize;
            }
            let bad = ids[..slots].iter().any(|&id| id < -1 || id >= experts as i32);
            prop_assert_eq!(cpu.faults.read().0, if bad { fault::BAD_GROUP } else { 0 });
        }
    }
}

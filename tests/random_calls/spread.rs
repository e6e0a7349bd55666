//! Weights and groups for random products: rows spread over up to 40 groups in every way, from one a group to hundreds, so
//! that each form of each kernel is chosen; scales at the ends of their ranges; blocks that are no number.

use nvfp4::api::types::*;
use nvfp4::api::weights::*;

use crate::Prepared;
use crate::arena::*;
use crate::support::{Library, Memory};

/// Products of each set of weights.
pub const CALLS: usize = 8;
/// Multiplications of a product at most, and bytes of what it reads and writes: the CPU has to keep up.
const WORK: usize = 12 << 20;
const BYTES: usize = 3 << 20;

/// Canonical weights on all libraries.
pub fn weights(rng: &mut Rng, libraries: &[Library; 2], storage: &mut [Memory; 2]) -> Prepared {
    let gate_up = rng.chance(3);
    let (groups, rows, cols) = loop {
        let groups = rng.pick(&[1usize, 1, 2, 3, 8, 17, 40]);
        let rows = if gate_up { 2 } else { 1 } * rng.pick(&[1usize, 7, 8, 16, 33, 64, 96, 128, 144, 300]);
        let cols = 16 * rng.pick(&[1usize, 3, 4, 9, 16, 33, 64, 130, 144, 264, 520]);
        if groups * rows.next_multiple_of(128) * cols.next_multiple_of(64) < 5 << 20 {
            break (groups, rows, cols);
        }
    };
    let mood = rng.below(4);
    let codes: Vec<u8> = (0..groups * rows * cols / 2).map(|_| rng.next() as u8).collect();
    let scale = |rng: &mut Rng| match mood {
        0 => rng.pick(&[0, 1, 2, 8, 0x7D, 0x7E]),
        1 if rng.chance(900) => 0x7F,
        2 => rng.below(0x7F) as u8,
        _ => 0x28 + rng.below(24) as u8,
    };
    let scales: Vec<u8> = (0..groups * rows * cols / 16).map(|_| scale(rng)).collect();
    let extremes = [1e-45, f32::MIN_POSITIVE, 1e-30, 1e-4, 1.0, 2e34, f32::MAX];
    let decode = |rng: &mut Rng| if rng.chance(6) { rng.pick(&extremes) } else { decode_scale(rng).abs() };
    let decode: Vec<u8> = (0..groups)
        .map(|_| Some(decode(rng)).filter(|g| g.is_normal()).unwrap_or(1e-45))
        .flat_map(|g| g.to_le_bytes())
        .collect();
    let [codes, scales, decode] = [codes, scales, decode].map(|bytes| Memory::from(&bytes));
    let args = nvfp4_weights_prepare_args {
        groups: groups as i64,
        rows: rows as i64,
        cols: cols as i64,
        gate_up: gate_up as u32,
        codes: codes.ptr(),
        scales: scales.ptr(),
        decode_scales: decode.ptr(),
        ..Default::default()
    };
    Prepared::in_all(libraries, storage, &args)
}

/// Groups for these weights, and the number of logical rows.
pub fn groups(rng: &mut Rng, arena: &mut Arena, w: &Prepared) -> (nvfp4_groups, usize) {
    let average = rng.pick(&[1usize, 2, 4, 7, 12, 20, 33, 50, 64, 100, 128, 150, 200, 300]);
    let most = (WORK / (w.rows * w.cols)).min(BYTES / (4 * w.rows.max(w.cols)));
    let total = (average * w.groups).min(most).max(1);
    let kind = rng.pick(if w.groups == 1 { ANY } else { &ANY[1..] });
    let mut g = nvfp4_groups { grouping: kind, count: w.groups as u32, ..Default::default() };
    let each = (total / w.groups).max(1);
    let odd = rng.chance(8).then(|| rng.pick(&[-1, i32::MIN, i32::MAX, total as i32 + 1, 0]));
    let of = rng.below(w.groups as u64) as usize;
    match kind {
        NVFP4_GROUPING_NONE => return (nvfp4_groups::default(), total),
        NVFP4_GROUPING_STRIDED => {
            g.max_tokens = each as i64;
            return (g, each * w.groups);
        }
        NVFP4_GROUPING_MASKED => {
            g.max_tokens = each as i64;
            let mut counts = split(rng, total, w.groups);
            counts.iter_mut().for_each(|count| *count = (*count).min(each as i32));
            counts[of] = odd.unwrap_or(counts[of]);
            g.counts = arena.i32s(rng, &counts);
            return (g, each * w.groups);
        }
        _ => {}
    }
    let mut ends = split(rng, total, w.groups);
    for i in 1..ends.len() {
        ends[i] += ends[i - 1];
    }
    ends[of] = odd.unwrap_or(ends[of]);
    g.ends = arena.i32s(rng, &ends);
    (g, total)
}

/// Rows of each group, `total` together or fewer: even, one hot, all in one, most of them empty, or any.
fn split(rng: &mut Rng, total: usize, groups: usize) -> Vec<i32> {
    let mut rows = vec![0; groups];
    let hot = rng.below(groups as u64) as usize;
    let mut left = total;
    match rng.below(5) {
        0 => rows.fill((total / groups) as i32),
        1 => {
            rows.fill((total / 2 / groups) as i32);
            rows[hot] += (total / 2) as i32;
        }
        2 => rows[hot] = total as i32,
        3 => {
            for _ in 0..2 {
                let some = rng.below(left as u64 + 1) as usize;
                rows[rng.below(groups as u64) as usize] += some as i32;
                left -= some;
            }
        }
        _ => {
            let mut cuts: Vec<usize> = (1..groups).map(|_| rng.below(total as u64 + 1) as usize).collect();
            cuts.sort_unstable();
            cuts.push(total);
            let mut from = 0;
            for (rows, cut) in rows.iter_mut().zip(cuts) {
                *rows = (cut - from) as i32;
                from = cut;
            }
        }
    }
    rows
}

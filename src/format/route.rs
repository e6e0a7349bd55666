//! Mixture-of-experts routing and combine for one token, as docs/numerics.md fixes every sum and tie.
//! Nothing is allocated.

use super::math::{exp, fma, log1p, max, ordered_sum};

/// Experts that a router may have.
pub const MAX_EXPERTS: usize = 1024;
/// Experts that a token may be sent to.
pub const MAX_TOPK: usize = 32;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Softmax,
    Sigmoid,
    SqrtSoftplus,
}

/// What a router does besides scoring.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    pub score: Score,
    /// Added to the scores for selection only.
    pub bias: Option<&'a [f32]>,
    pub renormalise: bool,
    pub scaling: f32,
    /// Experts are split into this many groups; 1 or 0 for none.
    pub groups: usize,
    /// Groups that stay eligible.
    pub top_groups: usize,
}

/// Scores one token's logits (at most [`MAX_EXPERTS`]) and selects `ids.len()` experts (at most [`MAX_TOPK`]): the
/// largest first, ties to the lower id. A NaN ranks last. Tells whether a score is NaN or a
/// weight is not finite.
pub fn route(logits: &[f32], router: &Router, ids: &mut [i32], weights: &mut [f32]) -> bool {
    let (mut p, mut c) = ([0f32; MAX_EXPERTS], [0f32; MAX_EXPERTS]);
    let (scores, choice) = (&mut p[..logits.len()], &mut c[..logits.len()]);
    score(logits, router.score, scores);
    choice.copy_from_slice(scores);
    if let Some(bias) = router.bias {
        choice.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
    }
    if router.groups > 1 {
        limit_groups(choice, router.groups, router.top_groups);
    }
    largest(choice, ids);
    for (weight, &id) in weights.iter_mut().zip(&*ids) {
        *weight = scores[id as usize];
    }
    if router.renormalise {
        let sum = weights.iter().fold(0.0, |s, w| s + w);
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w = super::dtype::canonical(*w * router.scaling));
    scores.iter().any(|p| p.is_nan()) || weights.iter().any(|w| !w.is_finite())
}

/// Σ over slots of weight · y by fma from 0, then the shared expert's addend; the caller rounds once.
pub fn combine(weights: &[f32], y: impl Iterator<Item = f32>, shared: Option<f32>) -> f32 {
    let acc = weights.iter().zip(y).fold(0.0, |acc, (&w, y)| fma(w, y, acc));
    shared.map_or(acc, |s| acc + s)
}

fn score(logits: &[f32], score: Score, out: &mut [f32]) {
    let each = |out: &mut [f32], f: &dyn Fn(f32) -> f32| {
        out.iter_mut().zip(logits).for_each(|(p, &l)| *p = f(l));
    };
    match score {
        Score::Softmax => {
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, max);
            each(out, &|l| exp(l - top));
            let sum = ordered_sum(out);
            out.iter_mut().for_each(|p| *p /= sum);
        }
        Score::Sigmoid => each(out, &|l| 1.0 / (1.0 + exp(-l))),
        Score::SqrtSoftplus => each(out, &|l| (max(l, 0.0) + log1p(exp(-l.abs()))).sqrt()),
    }
}

/// Keeps the experts of the best groups; a group ranks by the sum of its two largest choices.
fn limit_groups(choice: &mut [f32], groups: usize, top_groups: usize) {
    let size = choice.len() / groups;
    let (mut rank, mut best) = ([0f32; MAX_EXPERTS], [0i32; MAX_EXPERTS]);
    for (rank, group) in rank.iter_mut().zip(choice.chunks(size)) {
        let mut two = [0i32; 2];
        largest(group, &mut two[..size.min(2)]);
        *rank = if size > 1 { group[two[0] as usize] + group[two[1] as usize] } else { group[0] };
    }
    let best = &mut best[..top_groups];
    largest(&rank[..groups], best);
    for (group, choice) in choice.chunks_mut(size).enumerate() {
        if !best.contains(&(group as i32)) {
            choice.fill(f32::NEG_INFINITY);
        }
    }
}

/// Indices of the `out.len()` largest values, the largest first, ties to the lower index; a NaN counts as −inf.
fn largest(values: &[f32], out: &mut [i32]) {
    let key = |i: i32| {
        let value = values[i as usize];
        if value.is_nan() { f32::NEG_INFINITY } else { value }
    };
    let mut count = 0;
    for i in 0..values.len() as i32 {
        let mut at = count;
        while at > 0 && key(i) > key(out[at - 1]) {
            at -= 1;
        }
        if at == out.len() {
            continue;
        }
        count = (count + 1).min(out.len());
        out.copy_within(at..count - 1, at + 1);
        out[at] = i;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_are_those_of_a_stable_sort(
            values in prop::collection::vec((-4i8..3).prop_map(|v| if v == -4 { f32::NAN } else { v as f32 }), 1..70),
            k in 1usize..33,
        ) {
            let k = k.min(values.len());
            let mut got = vec![0; k];
            largest(&values, &mut got);
            let mut order: Vec<i32> = (0..values.len() as i32).collect();
            let key = |i: i32| Some(values[i as usize]).filter(|v| !v.is_nan()).unwrap_or(f32::NEG_INFINITY);
            order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap());
            prop_assert_eq!(&got[..], &order[..k]);
        }
    }
}

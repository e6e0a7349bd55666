//! Mixture-of-experts routing and combine for one token, as docs/numerics.md fixes every sum and tie.
//! The C header does not offer these yet; the golden tests hold them to the contract already.

use super::math::{exp, fma, log1p, max, ordered_sum};

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

/// Scores one token's logits and selects `ids.len()` experts: the largest first, ties to the lower id.
pub fn route(logits: &[f32], router: &Router, ids: &mut [i32], weights: &mut [f32]) {
    let scores = scores(logits, router.score);
    let mut choice = scores.clone();
    if let Some(bias) = router.bias {
        choice.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
    }
    if router.groups > 1 {
        limit_groups(&mut choice, router.groups, router.top_groups);
    }
    let order = descending(&choice);
    for (slot, &id) in order.iter().take(ids.len()).enumerate() {
        ids[slot] = id as i32;
        weights[slot] = scores[id];
    }
    if router.renormalise {
        let sum = weights.iter().fold(0.0, |s, w| s + w);
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    weights.iter_mut().for_each(|w| *w *= router.scaling);
}

/// Σ over slots of weight · y by fma from 0, then the shared expert's addend; the caller rounds once.
pub fn combine(weights: &[f32], y: impl Iterator<Item = f32>, shared: Option<f32>) -> f32 {
    let acc = weights.iter().zip(y).fold(0.0, |acc, (&w, y)| fma(w, y, acc));
    shared.map_or(acc, |s| acc + s)
}

fn scores(logits: &[f32], score: Score) -> Vec<f32> {
    match score {
        Score::Softmax => {
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, max);
            let e: Vec<f32> = logits.iter().map(|&l| exp(l - top)).collect();
            let sum = ordered_sum(&e);
            e.iter().map(|v| v / sum).collect()
        }
        Score::Sigmoid => logits.iter().map(|&l| 1.0 / (1.0 + exp(-l))).collect(),
        Score::SqrtSoftplus => logits.iter().map(|&l| (max(l, 0.0) + log1p(exp(-l.abs()))).sqrt()).collect(),
    }
}

/// Keeps the experts of the best groups; a group ranks by the sum of its two largest choices.
fn limit_groups(choice: &mut [f32], groups: usize, top_groups: usize) {
    let size = choice.len() / groups;
    let rank: Vec<f32> = choice
        .chunks(size)
        .map(|group| {
            let order = descending(group);
            if size > 1 { group[order[0]] + group[order[1]] } else { group[0] }
        })
        .collect();
    for &group in &descending(&rank)[top_groups..] {
        choice[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
    }
}

fn descending(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

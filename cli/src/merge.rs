//! One decode scale for layers that engines fuse (q/k/v, gate/up), where a checkpoint has several: what has a smaller one
//! is quantized again under the largest, and what that costs is measured. Without being asked, nothing is changed.

use crate::engine::{Engine, Matrix, Rule};
use crate::model::Model;
use crate::packed::Packed;
use crate::report::{self, shown};
use crate::{Result, scales};
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, HashMap};

/// Modules of one parent that engines make one matrix of.
const FAMILIES: [&[&str]; 5] = [
    &["q_proj", "k_proj", "v_proj"],
    &["gate_proj", "up_proj"],
    &["w1", "w3"],
    &["query", "key", "value"],
    &["q_a_proj", "kv_a_proj_with_mqa"],
];

/// Values at a time: what is in memory while a weight is quantized again.
const VALUES: usize = 16 << 20;

/// Weights that a report names: a model has thousands.
const LINES: usize = 48;

#[derive(Default)]
pub struct Merge {
    /// Weights to be quantized again (or, of a fused one, whose scales become one): index → a decode scale a matrix.
    pub decode: HashMap<usize, Vec<f32>>,
    /// Weights whose input scales change.
    pub input: HashMap<usize, Vec<f32>>,
    /// What is unequal: names, and the decode scales before.
    pub unequal: Vec<Unequal>,
    pub asked: bool,
}

pub struct Unequal {
    pub weights: Vec<usize>,
    pub before: Vec<Vec<f32>>,
}

/// ‖after − before‖² and ‖before‖² of a weight.
#[derive(Clone, Copy, Default)]
pub struct Loss {
    pub error: f64,
    pub norm: f64,
}

pub fn plan(model: &Model, packed: &[Packed], asked: bool) -> Result<Merge> {
    let mut merge = Merge { asked, ..Default::default() };
    for weights in groups(packed) {
        let mut decode = Vec::new();
        let mut input = Vec::new();
        for &w in &weights {
            decode.push(scales::multipliers(model, &packed[w], packed[w].decode)?);
            let given = packed[w].input.map(|at| scales::multipliers(model, &packed[w], at));
            input.push(given.transpose()?);
        }
        let matrices = packed[weights[0]].matrices();
        if weights.iter().any(|&w| packed[w].matrices() != matrices) {
            continue; // not the same experts: nothing that an engine fuses
        }
        let largest: Vec<f32> = (0..matrices)
            .map(|m| {
                let of = |d: &Vec<f32>| {
                    let each = d.len() / matrices;
                    d[m * each..(m + 1) * each].iter().copied().fold(0.0, f32::max)
                };
                decode.iter().map(of).fold(0.0, f32::max)
            })
            .collect();
        let differs = |d: &Vec<f32>| {
            let each = d.len() / matrices;
            d.iter().enumerate().any(|(i, &g)| g != largest[i / each])
        };
        if decode.iter().any(differs) {
            for (&w, _) in weights.iter().zip(&decode).filter(|(_, d)| asked && differs(d)) {
                merge.decode.insert(w, largest.clone());
            }
            merge.unequal.push(Unequal { weights: weights.clone(), before: decode });
        }
        if asked {
            inputs(&weights, &input, &mut merge);
        }
    }
    Ok(merge)
}

/// Fused layers read one input: the largest multiplier saturates for none of them.
fn inputs(weights: &[usize], given: &[Option<Vec<f32>>], merge: &mut Merge) {
    let Some(all) = given.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
    if all.iter().any(|v| v.len() != all[0].len()) {
        return;
    }
    let largest: Vec<f32> = (0..all[0].len()).map(|i| all.iter().map(|v| v[i]).fold(0.0, f32::max)).collect();
    for (&w, v) in weights.iter().zip(all) {
        if *v != largest {
            merge.input.insert(w, largest.clone());
        }
    }
}

/// Families that are there, and weights that are fused already.
fn groups(packed: &[Packed]) -> Vec<Vec<usize>> {
    let mut families: BTreeMap<(String, usize), Vec<usize>> = BTreeMap::new();
    let mut out = Vec::new();
    for (i, p) in packed.iter().enumerate() {
        let module = p.name.strip_suffix(".weight").unwrap_or(&p.name);
        let (parent, leaf) = module.rsplit_once('.').unwrap_or(("", module));
        match FAMILIES.iter().position(|f| f.contains(&leaf)) {
            Some(family) => families.entry((parent.to_string(), family)).or_default().push(i),
            None if p.shards > 1 => out.push(vec![i]),
            None => {}
        }
    }
    out.extend(families.into_values().filter(|f| f.len() > 1 || packed[f[0]].shards > 1));
    out.sort();
    out
}

/// Quantizes a weight again, rows at a time: `done(engine, row)` finds codes and scales from logical row `row` on.
pub fn requantize(
    model: &Model,
    packed: &Packed,
    decode: &[f32],
    rule: Rule,
    engine: &mut Engine,
    mut done: impl FnMut(&Engine, usize) -> Result<()>,
) -> Result<Loss> {
    let before = scales::multipliers(model, packed, packed.decode)?;
    let (codes, block_scales) = (model.data(packed.codes), model.data(packed.scales));
    let (cols, run) = (packed.cols, packed.rows_per_scale());
    let mut loss = Loss::default();
    for (s, &g) in before.iter().enumerate() {
        let wanted = decode[s / packed.shards];
        let step = (VALUES / cols).clamp(1, run);
        for first in (0..run).step_by(step) {
            let (row, rows) = (s * run + first, step.min(run - first));
            let c = &codes[row * cols / 2..(row + rows) * cols / 2];
            let b = &block_scales[row * cols / 16..(row + rows) * cols / 16];
            let old = engine.dequantize(c, b, g, rows, cols)?.to_vec();
            if g == wanted {
                // The very bytes: quantizing them again could choose other scales for the same values.
                engine.take(c, b);
            } else {
                let bytes: Vec<u8> = old.iter().flat_map(|v| v.to_le_bytes()).collect();
                let what =
                    Matrix { dtype: Dtype::F32, rows, cols, transposed: false, decode_scale: Some(wanted) };
                engine.quantize(&bytes, &what, rule)?;
            }
            done(engine, row)?;
            let (c, b) = (engine.codes.bytes().to_vec(), engine.scales.bytes().to_vec());
            let new = engine.dequantize(&c, &b, wanted, rows, cols)?;
            loss.error += new.iter().zip(&old).map(|(n, o)| ((n - o) as f64).powi(2)).sum::<f64>();
            loss.norm += old.iter().map(|o| (*o as f64).powi(2)).sum::<f64>();
        }
    }
    Ok(loss)
}

/// What was unequal, and what became of it.
pub fn describe(packed: &[Packed], merge: &Merge, losses: &HashMap<usize, Loss>) -> String {
    if merge.unequal.is_empty() {
        return String::new();
    }
    let mut rows = vec![["  weight", "decode scale", "merged", "relative change"].map(String::from).to_vec()];
    let span = |d: &[f32]| {
        let (low, high) = d.iter().fold((f32::MAX, 0f32), |(l, h), &g| (l.min(g), h.max(g)));
        if low == high { format!("{low:.6e}") } else { format!("{low:.6e} … {high:.6e}") }
    };
    let mut total = Loss::default();
    for unequal in &merge.unequal {
        for (&w, before) in unequal.weights.iter().zip(&unequal.before) {
            let mut row = vec![format!("  {}", shown(&packed[w].name)), span(before)];
            if let Some(after) = merge.decode.get(&w) {
                row.push(span(after));
            }
            if let Some(loss) = losses.get(&w) {
                row.push(format!("{:.5}", (loss.error / loss.norm.max(f64::MIN_POSITIVE)).sqrt()));
                (total.error, total.norm) = (total.error + loss.error, total.norm + loss.norm);
            }
            rows.push(row);
        }
    }
    let more = rows.len().saturating_sub(1 + LINES);
    rows.truncate(1 + LINES);
    let groups = merge.unequal.len();
    let mut text = match merge.asked {
        false => format!(
            "{groups} groups of layers that engines fuse have unequal decode scales, kept as they are (--merge-scales):\n"
        ),
        true => format!("{groups} groups of fused layers brought to one decode scale each:\n"),
    };
    text.push_str(&report::table(&rows, &[]));
    if more > 0 {
        text.push_str(&format!("  … and {more} more\n"));
    }
    if total.norm > 0.0 {
        let relative = (total.error / total.norm).sqrt();
        text.push_str(&format!("Relative change of the weights that were quantized again: {relative:.5}\n"));
    }
    text
}

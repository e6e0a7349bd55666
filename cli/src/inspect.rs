//! `nvfp4 inspect`: a checkpoint → a table of its tensors, NVFP4 weights as the one tensor that they stand for.

use crate::model::Model;
use crate::packed::{self, Form, Packed};
use crate::report::{self, shape, shown, size};
use crate::source::Tensor;
use crate::{Result, config, quantize::pretty, scales};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint to read: a safetensors file or a directory of shards
    #[arg(value_name = "CHECKPOINT")]
    file: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A weight with what it costs and its decode scales as multipliers, where they are legal.
struct Weight {
    packed: Packed,
    bytes: usize,
    decode_scales: Result<Vec<f32>>,
}

impl Weight {
    fn values(&self) -> usize {
        self.packed.shape().iter().product()
    }

    fn form(&self) -> &'static str {
        match self.packed.form {
            Form::Modelopt => "nvfp4",
            Form::CompressedTensors => "nvfp4 (compressed-tensors)",
        }
    }

    /// One number, or how far several reach.
    fn decode_scale(&self) -> String {
        let Ok(scales) = &self.decode_scales else { return "invalid".into() };
        let (low, high) = scales.iter().fold((f32::MAX, 0f32), |(l, h), &g| (l.min(g), h.max(g)));
        if low == high { format!("{low:.6e}") } else { format!("{low:.6e} … {high:.6e}") }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let model = Model::open(&args.file)?;
    // What only looks like a weight is shown as the tensors that it is.
    let mut weights: Vec<Weight> = packed::candidates(&model).flatten().map(|p| weight(&model, p)).collect();
    weights.sort_by(|a, b| a.packed.name.cmp(&b.packed.name));
    let parts: HashSet<_> = weights
        .iter()
        .flat_map(|w| [Some(w.packed.codes), Some(w.packed.scales), Some(w.packed.decode), w.packed.input])
        .flatten()
        .collect();
    let mut others: Vec<&Tensor> =
        model.places().filter(|p| !parts.contains(p)).map(|p| model.tensor(p)).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let rule = rule(&model);
    let text = if args.json { as_json(&weights, &others, &rule) } else { as_table(&weights, &others, &rule) };
    report::print(&text);
    Ok(())
}

fn weight(model: &Model, packed: Packed) -> Weight {
    let parts = [Some(packed.codes), Some(packed.scales), Some(packed.decode), packed.input];
    let bytes = parts.into_iter().flatten().map(|p| model.tensor(p).bytes()).sum();
    let decode_scales = scales::multipliers(model, &packed, packed.decode);
    Weight { packed, bytes, decode_scales }
}

fn as_table(weights: &[Weight], others: &[&Tensor], rule: &Option<String>) -> String {
    let heads = ["name", "kind", "shape", "dtype", "bytes", "decode scale", "rule"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for w in weights {
        let rule = rule.clone().unwrap_or_else(|| "-".into());
        let cells = [w.form().into(), shape(&w.packed.shape()), "E2M1 + E4M3".into(), w.bytes.to_string()];
        rows.push([vec![shown(&w.packed.name)], cells.to_vec(), vec![w.decode_scale(), rule]].concat());
    }
    for t in others {
        let cells = ["plain".into(), shape(&t.shape), t.dtype.to_string(), t.bytes().to_string()];
        rows.push([vec![shown(&t.name)], cells.to_vec()].concat());
    }
    let mut text = report::table(&rows, &[4]);
    text.push('\n');
    let total = |name: &str, tensors, values: usize, bytes: usize| {
        let bits =
            if values == 0 { "-".into() } else { format!("{:.2}", bytes as f64 * 8.0 / values as f64) };
        let cells: [String; 5] =
            [format!("{tensors}"), values.to_string(), size(bytes as u64), bits, String::new()];
        [vec![name.to_string()], cells.to_vec()].concat()
    };
    let nvfp4 =
        (weights.iter().map(Weight::values).sum::<usize>(), weights.iter().map(|w| w.bytes).sum::<usize>());
    let plain =
        (others.iter().map(|t| t.values()).sum::<usize>(), others.iter().map(|t| t.bytes()).sum::<usize>());
    let heads = ["", "tensors", "values", "bytes", "bits per value"].map(String::from).to_vec();
    let totals = [
        heads,
        total("nvfp4", weights.len(), nvfp4.0, nvfp4.1),
        total("plain", others.len(), plain.0, plain.1),
        total("all", weights.len() + others.len(), nvfp4.0 + plain.0, nvfp4.1 + plain.1),
    ];
    text.push_str(&report::table(&totals, &[1, 2, 3, 4]));
    text
}

fn as_json(weights: &[Weight], others: &[&Tensor], rule: &Option<String>) -> String {
    let weight = |w: &Weight| {
        json!({
            "name": w.packed.name, "kind": w.form(), "shape": w.packed.shape(), "bytes": w.bytes,
            "decode_scales": w.decode_scales.as_ref().ok(), "input_scale": w.packed.input.is_some(),
        })
    };
    let plain = |t: &&Tensor| json!({ "name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape, "bytes": t.bytes() });
    pretty(&json!({
        "rule": rule,
        "nvfp4": weights.iter().map(weight).collect::<Vec<_>>(),
        "plain": others.iter().map(plain).collect::<Vec<_>>(),
    }))
}

/// The rule that the checkpoint's own words name; other producers may not say.
fn rule(model: &Model) -> Option<String> {
    let text = model.metadata(config::MODELOPT_KEY);
    let config: Value = match text {
        Some(text) => serde_json::from_str(text).ok()?,
        None => model.modelopt_config.clone()?,
    };
    Some(shown(config.get("quantization")?.get("scale_rule")?.as_str()?))
}

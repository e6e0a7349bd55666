//! `nvfp4 inspect`: a safetensors file → a table of its tensors, NVFP4 weights as the one tensor that they stand for.

use crate::report::{self, shown, size};
use crate::source::{Source, Tensor};
use crate::{Result, report::shape};
use safetensors::tensor::Dtype;
use std::collections::HashSet;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint to read
    #[arg(value_name = "FILE.safetensors")]
    file: PathBuf,
}

/// The three tensors that are one weight [N, K].
struct Quantized<'a> {
    codes: &'a Tensor,
    scales: &'a Tensor,
    decode_scale: &'a Tensor,
}

/// By name, type and shape: nothing else in a file says what is NVFP4.
fn quantized<'a>(source: &'a Source, codes: &'a Tensor) -> Option<Quantized<'a>> {
    let &[rows, half] = codes.shape.as_slice() else { return None };
    let scales = source.find(&format!("{}_scale", codes.name))?;
    let decode_scale = source.find(&format!("{}_scale_2", codes.name))?;
    let fits = codes.dtype == Dtype::U8
        && rows > 0 // then half is below the file's size, and twice it is a number
        && scales.dtype == Dtype::F8_E4M3
        && half % 8 == 0
        && scales.shape == [rows, half / 8]
        && decode_scale.dtype == Dtype::F32
        && decode_scale.values() == 1;
    fits.then_some(Quantized { codes, scales, decode_scale })
}

pub fn run(args: &Args) -> Result<()> {
    let source = Source::open(&args.file)?;
    let rule = rule(&source);
    let mut weights: Vec<Quantized> = source.tensors.iter().filter_map(|t| quantized(&source, t)).collect();
    weights.sort_by(|a, b| a.codes.name.cmp(&b.codes.name));
    let parts: HashSet<&str> = weights
        .iter()
        .flat_map(|q| [&q.codes.name, &q.scales.name, &q.decode_scale.name].map(String::as_str))
        .collect();
    let mut others: Vec<&Tensor> =
        source.tensors.iter().filter(|t| !parts.contains(t.name.as_str())).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));

    let heads = ["name", "kind", "shape", "dtype", "bytes", "decode scale", "rule"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let (mut nvfp4_values, mut nvfp4_bytes) = (0, 0);
    for q in &weights {
        let (n, k) = (q.codes.shape[0], q.codes.shape[1] * 2);
        let bytes = q.codes.bytes() + q.scales.bytes() + q.decode_scale.bytes();
        let scale = source.data(q.decode_scale).first_chunk().map_or(f32::NAN, |b| f32::from_le_bytes(*b));
        nvfp4_values += n * k;
        nvfp4_bytes += bytes;
        let kinds = ["nvfp4".into(), shape(&[n, k]), "E2M1 + E4M3".into(), bytes.to_string()];
        rows.push(
            [vec![shown(&q.codes.name)], kinds.to_vec(), vec![format!("{scale:.6e}"), rule.clone()]].concat(),
        );
    }
    for t in &others {
        let cells = ["plain".into(), shape(&t.shape), t.dtype.to_string(), t.bytes().to_string()];
        rows.push([vec![shown(&t.name)], cells.to_vec()].concat());
    }
    let other_values: usize = others.iter().map(|t| t.values()).sum();
    let other_bytes: usize = others.iter().map(|t| t.bytes()).sum();
    let mut text = report::table(&rows, &[4]);
    text.push('\n');
    let total = |name: &str, tensors, values: usize, bytes: usize| {
        let bits =
            if values == 0 { "-".into() } else { format!("{:.2}", bytes as f64 * 8.0 / values as f64) };
        let cells: [String; 5] =
            [format!("{tensors}"), values.to_string(), size(bytes as u64), bits, String::new()];
        [vec![name.to_string()], cells.to_vec()].concat()
    };
    let heads = ["", "tensors", "values", "bytes", "bits per value"].map(String::from).to_vec();
    let all = (weights.len() + others.len(), nvfp4_values + other_values, nvfp4_bytes + other_bytes);
    let totals = [
        heads,
        total("nvfp4", weights.len(), nvfp4_values, nvfp4_bytes),
        total("plain", others.len(), other_values, other_bytes),
        total("all", all.0, all.1, all.2),
    ];
    text.push_str(&report::table(&totals, &[1, 2, 3, 4]));
    report::print(&text);
    Ok(())
}

/// The rule that the file's metadata names; other producers may not say.
fn rule(source: &Source) -> String {
    let read = || -> Option<String> {
        let config: serde_json::Value = serde_json::from_str(source.metadata.get("hf_quant_config")?).ok()?;
        Some(shown(config.get("quantization")?.get("scale_rule")?.as_str()?))
    };
    read().unwrap_or_else(|| "-".into())
}

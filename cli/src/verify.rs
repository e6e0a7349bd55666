//! `nvfp4 verify`: an NVFP4 checkpoint against the original → the error of every weight, and whether everything else is
//! the original's, byte for byte. As a table, as JSON, as a plot.

use crate::engine::Engine;
use crate::model::{Model, Place};
use crate::packed::{Packed, find_all};
use crate::plot;
use crate::quantize::pretty;
use crate::report::{self, shape, shown};
use crate::select::{Experts, Matrices};
use crate::{Result, scales};
use safetensors::tensor::Dtype;
use serde_json::json;
use std::collections::HashSet;
use std::path::PathBuf;

/// Values at a time.
const VALUES: usize = 4 << 20;

#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint that was quantized: a safetensors file or a directory of shards
    #[arg(value_name = "ORIGINAL")]
    original: PathBuf,
    /// What became of it, of either form
    #[arg(value_name = "QUANTIZED")]
    quantized: PathBuf,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Draw the error of every weight
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Fail where a weight's relative error is above this
    #[arg(long, value_name = "ERROR")]
    bar: Option<f64>,
    /// How the original stores tensors that hold all experts of a layer
    #[arg(long, value_enum, default_value = "auto")]
    experts: Experts,
    /// CPU threads; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u32,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// Sums over the values of one weight.
#[derive(Clone, Copy, Default)]
struct Sums {
    error: f64,
    norm: f64,
    largest: f64,
}

impl Sums {
    /// ‖quantized − original‖ / ‖original‖; of nothing but zeros, 0 where they came back as zeros.
    fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.norm).sqrt() }
    }

    fn decibels(&self) -> f64 {
        -20.0 * self.relative().log10()
    }
}

/// What `verify` found of one weight.
pub struct Verified {
    pub name: String,
    shape: Vec<usize>,
    sums: Sums,
}

impl Verified {
    pub fn relative(&self) -> f64 {
        self.sums.relative()
    }
}

pub fn run(args: &Args) -> Result<()> {
    let original = Model::open(&args.original)?;
    let quantized = Model::open(&args.quantized)?;
    let packed = find_all(&quantized)?;
    if packed.is_empty() {
        return Err(format!("{}: holds no NVFP4 weight", args.quantized.display()));
    }
    let experts = args.experts.resolve(original.model_type());
    let mut engine = Engine::create(args.threads)?;
    let mut all = Vec::new();
    for p in &packed {
        scales::check(&quantized, p)?;
        let sums = sums(&original, &quantized, p, experts, &mut engine)
            .map_err(|e| format!("{}: tensor {} {e}", args.original.display(), shown(&p.name)))?;
        all.push(Verified { name: p.name.clone(), shape: p.shape(), sums });
    }
    let changed = changed(&original, &quantized, &packed);
    let total = all.iter().fold(Sums::default(), |t, v| Sums {
        error: t.error + v.sums.error,
        norm: t.norm + v.sums.norm,
        largest: t.largest.max(v.sums.largest),
    });
    if let Some(path) = &args.json {
        save(path, &as_json(args, &all, &total, &changed))?;
    }
    if let Some(path) = &args.plot {
        save(path, &plot::errors(&all)?)?;
    }
    if !args.quiet {
        report::print(&as_table(&all, &total, &changed));
    }
    if let Some(first) = changed.first() {
        return Err(format!(
            "{}: {} of the other tensors differ: {first}",
            args.quantized.display(),
            changed.len()
        ));
    }
    match all.iter().find(|v| args.bar.is_some_and(|bar| v.relative().is_nan() || v.relative() > bar)) {
        Some(v) => Err(format!(
            "{}: tensor {} has a relative error of {:.5}, above {}",
            args.quantized.display(),
            shown(&v.name),
            v.relative(),
            args.bar.unwrap_or_default()
        )),
        None => Ok(()),
    }
}

fn sums(
    original: &Model,
    quantized: &Model,
    p: &Packed,
    experts: Experts,
    engine: &mut Engine,
) -> Result<Sums> {
    let place = original.find(&p.name).ok_or("is not in the original")?;
    let tensor = original.tensor(place);
    // Whatever the flag says of experts, a shape that fits only one way is that way.
    let fits = |e| {
        Matrices::of(&tensor.shape, e).filter(|m| (m.experts, m.rows, m.cols) == (p.experts, p.rows, p.cols))
    };
    let matrices = fits(experts).or_else(|| fits(Experts::Nk)).or_else(|| fits(Experts::Kn));
    let Some(matrices) = matrices else {
        return Err(format!("has shape {}; its codes stand for {}", shape(&tensor.shape), shape(&p.shape())));
    };
    if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Err(format!("is {} in the original", tensor.dtype));
    }
    let (codes, block_scales) = (quantized.data(p.codes), quantized.data(p.scales));
    let decode = scales::multipliers(quantized, p, p.decode)?;
    let (cols, run) = (p.cols, p.rows_per_scale());
    let mut sums = Sums::default();
    for (s, &g) in decode.iter().enumerate() {
        let step = (VALUES / cols).clamp(1, run);
        for first in (0..run).step_by(step) {
            let (row, rows) = (s * run + first, step.min(run - first));
            let c = &codes[row * cols / 2..(row + rows) * cols / 2];
            let b = &block_scales[row * cols / 16..(row + rows) * cols / 16];
            let found = engine.dequantize(c, b, g, rows, cols)?;
            for r in 0..rows {
                let exact = Row {
                    data: original.data(place),
                    dtype: tensor.dtype,
                    matrices: &matrices,
                    row: row + r,
                };
                for (k, &q) in found[r * cols..(r + 1) * cols].iter().enumerate() {
                    let x = exact.value(k) as f64;
                    let error = (q as f64 - x).abs();
                    sums.error += error * error;
                    sums.norm += x * x;
                    sums.largest = sums.largest.max(error);
                }
            }
        }
    }
    Ok(sums)
}

/// One logical row of the original.
struct Row<'a> {
    data: &'a [u8],
    dtype: Dtype,
    matrices: &'a Matrices,
    row: usize,
}

impl Row<'_> {
    fn value(&self, k: usize) -> f32 {
        let Matrices { rows, cols, transposed, .. } = *self.matrices;
        let (matrix, row) = (self.row / rows, self.row % rows);
        let at = matrix * rows * cols + if transposed { k * rows + row } else { row * cols + k };
        let bytes = self.dtype.bitsize() / 8;
        let b = &self.data[at * bytes..(at + 1) * bytes];
        match self.dtype {
            Dtype::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        }
    }
}

/// Tensors that are not NVFP4's and are missing, additional or other than the original's.
fn changed(original: &Model, quantized: &Model, packed: &[Packed]) -> Vec<String> {
    let weights: HashSet<&str> = packed.iter().map(|p| p.name.as_str()).collect();
    let parts: HashSet<Place> = packed
        .iter()
        .flat_map(|p| [Some(p.codes), Some(p.scales), Some(p.decode), p.input])
        .flatten()
        .collect();
    let mut out = Vec::new();
    for place in original.places().filter(|p| !weights.contains(original.tensor(*p).name.as_str())) {
        let tensor = original.tensor(place);
        let name = shown(&tensor.name);
        match quantized.find(&tensor.name) {
            None => out.push(format!("{name} is missing")),
            Some(at) => {
                let other = quantized.tensor(at);
                if (other.dtype, &other.shape) != (tensor.dtype, &tensor.shape) {
                    out.push(format!(
                        "{name} is {} {:?}, not {} {:?}",
                        other.dtype, other.shape, tensor.dtype, tensor.shape
                    ));
                } else if quantized.data(at) != original.data(place) {
                    out.push(format!("{name} has other bytes"));
                }
            }
        }
    }
    let added = quantized.places().filter(|p| !parts.contains(p)).map(|p| &quantized.tensor(p).name);
    out.extend(
        added.filter(|n| original.find(n).is_none()).map(|n| format!("{} is not in the original", shown(n))),
    );
    out
}

fn as_table(all: &[Verified], total: &Sums, changed: &[String]) -> String {
    let heads = ["name", "shape", "relative error", "SNR dB", "largest error"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for v in all {
        let s = &v.sums;
        let figures =
            [format!("{:.5}", s.relative()), format!("{:.2}", s.decibels()), format!("{:.4e}", s.largest)];
        rows.push([vec![shown(&v.name), shape(&v.shape)], figures.to_vec()].concat());
    }
    let mut text = report::table(&rows, &[2, 3, 4]);
    text.push_str(&format!("\nAll {} weights: relative error {:.5}; ", all.len(), total.relative()));
    text.push_str(&match changed.len() {
        0 => "every other tensor is the original's, byte for byte\n".to_string(),
        n => format!("{n} other tensors differ\n"),
    });
    text
}

fn as_json(args: &Args, all: &[Verified], total: &Sums, changed: &[String]) -> String {
    let figures = |s: &Sums| json!({ "relative_error": s.relative(), "largest_error": s.largest });
    let one = |v: &Verified| {
        let mut entry = json!({ "name": v.name, "shape": v.shape });
        entry["relative_error"] = v.sums.relative().into();
        entry["largest_error"] = v.sums.largest.into();
        entry
    };
    pretty(&json!({
        "original": args.original.display().to_string(),
        "quantized": args.quantized.display().to_string(),
        "total": figures(total),
        "changed": changed,
        "weights": all.iter().map(one).collect::<Vec<_>>(),
    }))
}

fn save(path: &std::path::Path, text: &str) -> Result<()> {
    let out = crate::output::Output::create(path)?;
    out.write_at(text.as_bytes(), 0)?;
    out.finish()
}

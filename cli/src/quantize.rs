//! `nvfp4 quantize`: a safetensors file → the same file with its linear weights as NVFP4, in ModelOpt's names.
//!
//! `X.weight` [N, K] becomes `X.weight` U8 [N, K/2] (codes, even k in the low nibble), `X.weight_scale` F8_E4M3
//! [N, K/16] (row-major) and `X.weight_scale_2` F32 (the decode scale: value = code · scale · scale_2). Everything else is
//! copied. One tensor at a time is in memory.

use crate::engine::{Engine, Rule};
use crate::output::{self, Output};
use crate::plan::{Fate, Plan, plan};
use crate::report::{self, size};
use crate::select::{DEFAULT_EXCLUDES, Patterns, reason_to_keep};
use crate::source::Source;
use crate::{Result, report::shown};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::path::PathBuf;
use std::time::Instant;

/// Bytes copied between two steps of the progress bar.
const CHUNK: usize = 16 << 20;

#[derive(clap::Args)]
#[command(after_help = format!(
    "PATTERN has the wildcards * and ? and names a tensor or its module (without .weight).\n\
     Kept by default: {}.", DEFAULT_EXCLUDES.join(" ")))]
pub struct Args {
    /// Checkpoint to read
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// Checkpoint to write; an existing file is replaced once the new one is complete
    #[arg(value_name = "OUT.safetensors")]
    output: PathBuf,
    /// How block scales are chosen
    #[arg(long, value_enum, default_value = "amax")]
    rule: Rule,
    /// Keep the weights that match, whatever else says; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Quantize only weights that match, and no default keeps one of them; may be repeated
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// CPU threads; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u32,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let source = Source::open(&args.input)?;
    output::check_target(&args.input, &args.output)?;
    let patterns = Patterns { include: &args.include, exclude: &args.exclude };
    let reasons: Vec<Option<String>> = source.tensors.iter().map(|t| reason_to_keep(t, &patterns)).collect();
    let keep: Vec<bool> = reasons.iter().map(Option::is_some).collect();
    let plan =
        plan(&source, &keep, args.rule.name()).map_err(|e| format!("{}: {e}", args.input.display()))?;
    write(args, &source, &plan)?;
    if !args.quiet {
        report::print(&summary(args, &source, &reasons, &plan, began));
    }
    Ok(())
}

fn write(args: &Args, source: &Source, plan: &Plan) -> Result<()> {
    let mut engine = Engine::create(args.threads)?;
    let out = Output::create(&args.output)?;
    out.resize(plan.file_bytes)?;
    out.write_at(&plan.header, 0)?;
    let bar = progress(source, args.quiet);
    for (tensor, fate) in source.tensors.iter().zip(&plan.fates) {
        bar.set_message(shown(&tensor.name));
        let data = source.data(tensor);
        match *fate {
            Fate::Copied { piece } => {
                let mut at = plan.pieces[piece].offset;
                for chunk in data.chunks(CHUNK) {
                    out.write_at(chunk, at)?;
                    at += chunk.len() as u64;
                    bar.inc(chunk.len() as u64);
                }
            }
            Fate::Quantized { codes, scales, decode_scale } => {
                engine.quantize(data, tensor.dtype, tensor.shape[0], tensor.shape[1], args.rule).map_err(
                    |e| {
                        let (file, name) = (args.input.display(), shown(&tensor.name));
                        format!("{file}: tensor {name}: {e}; --exclude keeps a tensor as it is")
                    },
                )?;
                out.write_at(engine.codes.bytes(), plan.pieces[codes].offset)?;
                out.write_at(engine.scales.bytes(), plan.pieces[scales].offset)?;
                out.write_at(&engine.decode_scale.to_le_bytes(), plan.pieces[decode_scale].offset)?;
                bar.inc(data.len() as u64);
            }
        }
    }
    drop(bar);
    out.finish()
}

/// On stderr, and only where that is a terminal.
fn progress(source: &Source, quiet: bool) -> ProgressBar {
    let total = source.tensors.iter().map(|t| t.bytes() as u64).sum();
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style =
        ProgressStyle::with_template("{bar:30} {decimal_bytes}/{decimal_total_bytes} {eta:>4}  {wide_msg}");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_finish(ProgressFinish::AndClear) // an error's message gets a line of its own
}

fn summary(args: &Args, source: &Source, reasons: &[Option<String>], plan: &Plan, began: Instant) -> String {
    let mut text = String::new();
    let kept: Vec<_> =
        source.tensors.iter().zip(reasons).filter_map(|(t, r)| Some((t, r.as_ref()?))).collect();
    if !kept.is_empty() {
        text.push_str("Kept as they are:\n");
        let lines =
            report::count(kept.iter().map(|(t, why)| {
                (report::folded(&shown(&t.name)), t.dtype.to_string(), t.shape.clone(), *why)
            }));
        let rows: Vec<Vec<String>> = lines
            .into_iter()
            .map(|((name, dtype, shape, why), n)| {
                let times = if n > 1 { format!("× {n}") } else { String::new() };
                vec![format!("  {name}"), times, dtype, report::shape(&shape), why.clone()]
            })
            .collect();
        text.push_str(&report::table(&rows, &[]));
    }
    let done = reasons.len() - kept.len();
    if done == 0 {
        text.push_str("No tensor was quantized: the output is a copy.\n");
    }
    let weights: usize =
        source.tensors.iter().zip(reasons).filter(|(_, r)| r.is_none()).map(|(t, _)| t.values()).sum();
    text.push_str(&format!(
        "{}: {done} tensors ({:.1} million weights) as NVFP4, rule {}, {} kept; {} → {} in {:.1} s\n",
        args.output.display(),
        weights as f64 / 1e6,
        args.rule.name(),
        kept.len(),
        size(source.file_bytes() as u64),
        size(plan.file_bytes),
        began.elapsed().as_secs_f64(),
    ));
    text
}

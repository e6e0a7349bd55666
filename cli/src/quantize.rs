//! `nvfp4 quantize`: a checkpoint → the same checkpoint with its linear weights as NVFP4, in ModelOpt's names.
//!
//! `X.weight` [N, K] becomes `X.weight` U8 [N, K/2] (codes, even k in the low nibble), `X.weight_scale` F8_E4M3
//! [N, K/16] (row-major) and `X.weight_scale_2` F32 (the decode scale: value = code · scale · scale_2). Experts in one
//! tensor become [E, N, ...] with a decode scale each, whichever way they were stored. Everything else is copied. One
//! matrix at a time is in memory. A sample of activations adds `X.input_scale`, the decode scale of what X multiplies.

use crate::config;
use crate::engine::{Engine, Matrix, Rule};
use crate::layout::{Layout, Piece, check_names};
use crate::model::{Model, Place};
use crate::packed::{Form, names};
use crate::report::{self, size};
use crate::sample::Sample;
use crate::select::{DEFAULT_EXCLUDES, Experts, Matrices, Patterns, reason_to_keep};
use crate::writer::{Job, RESUME_ABOVE, Sink, Target, about};
use crate::{Result, report::shown};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
#[command(after_help = format!(
    "PATTERN has the wildcards * and ? and names a tensor or its module (without .weight).\n\
     Kept by default: {}.\n\
     IN and OUT are safetensors files, or directories as Hugging Face lays them out.", DEFAULT_EXCLUDES.join(" ")))]
pub struct Args {
    /// Checkpoint to read
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Checkpoint to write; an existing file is replaced once the new one is complete, a directory must be empty
    #[arg(value_name = "OUT")]
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
    /// How tensors that hold all experts of a layer are stored
    #[arg(long, value_enum, default_value = "auto")]
    experts: Experts,
    /// Safetensors file of activations: from `M.input` [..., K] comes M's input_scale, a static scale for 4-bit activations
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
    /// CPU threads; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u32,
    /// Begin anew where an interrupted run of another command left a part of OUT
    #[arg(long)]
    restart: bool,
    /// Files from this size on can be taken up again where an interrupted run left them; smaller ones leave nothing behind
    #[arg(long, value_name = "MIB", default_value_t = RESUME_ABOVE)]
    resume_above: u64,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// What becomes of one tensor; indices of pieces.
enum Fate {
    Copied { piece: usize },
    Quantized { matrices: Matrices, codes: usize, scales: usize, decode_scales: usize, input: Option<usize> },
}

struct Plan {
    layouts: Vec<Layout>,
    /// Of each layout: the tensors that it is made from.
    fates: Vec<Vec<(Place, Fate)>>,
    config: Value,
    sample: Option<Sample>,
    /// Weights whose input the sample tells.
    calibrated: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let model = Model::open(&args.input)?;
    let target = Target::choose(&model, &args.output)?;
    let patterns = Patterns { include: &args.include, exclude: &args.exclude };
    let experts = args.experts.resolve(model.model_type());
    let reasons: Vec<Option<String>> =
        model.places().map(|p| reason_to_keep(model.tensor(p), &patterns, experts)).collect();
    let plan = plan(args, &model, &target, &reasons, experts)
        .map_err(|e| format!("{}: {e}", args.input.display()))?;
    let resumed = write(args, &model, &target, &plan, experts)?;
    if !args.quiet {
        report::print(&summary(args, &model, &reasons, &plan, resumed, began));
    }
    Ok(())
}

fn plan(
    args: &Args,
    model: &Model,
    target: &Target,
    reasons: &[Option<String>],
    experts: Experts,
) -> Result<Plan> {
    let is_float = |d: Dtype| matches!(d, Dtype::BF16 | Dtype::F16 | Dtype::F32);
    let kept = model.places().zip(reasons).filter(|(_, r)| r.is_some()).map(|(p, _)| model.tensor(p));
    let modules = kept
        .filter(|t| t.shape.len() == 2 && is_float(t.dtype))
        .filter_map(|t| t.name.strip_suffix(".weight"));
    // A head that is the embedding has no tensor of its own, and engines ask for it by name.
    let tied = model.ties_embeddings().then_some("lm_head");
    let kept: Vec<String> = modules.chain(tied).map(String::from).collect();
    let config = config::modelopt(&kept, false, Some(args.rule.name()));

    let sample = args.sample.as_deref().map(Sample::open).transpose()?;
    let mut calibrated = 0;
    let files = target.files(model);
    let mut pieces: Vec<Vec<Piece>> = files.iter().map(|_| Vec::new()).collect();
    let mut fates: Vec<Vec<(Place, Fate)>> = files.iter().map(|_| Vec::new()).collect();
    for (place, reason) in model.places().zip(reasons) {
        let file = place.0.min(files.len() - 1);
        let (tensor, pieces) = (model.tensor(place), &mut pieces[file]);
        let first = pieces.len();
        let matrices = if reason.is_some() { None } else { Matrices::of(&tensor.shape, experts) };
        let Some(matrices) = matrices else {
            pieces.push(Piece::new(tensor.name.clone(), tensor.dtype, tensor.shape.clone()));
            fates[file].push((place, Fate::Copied { piece: first }));
            continue;
        };
        let Matrices { rows, cols, .. } = matrices;
        let shape = |last: usize| matrices.experts.into_iter().chain([rows, last]).collect();
        let names = names(Form::Modelopt, &tensor.name);
        pieces.push(Piece::new(names.codes, Dtype::U8, shape(cols / 2)));
        pieces.push(Piece::new(names.scales, Dtype::F8_E4M3, shape(cols / 16)));
        pieces.push(Piece::new(names.decode, Dtype::F32, matrices.experts.into_iter().collect()));
        let told = sample.as_ref().map(|s| s.find(&tensor.name, cols)).transpose()?.flatten();
        let input = told.map(|_| first + 3);
        if input.is_some() {
            pieces.push(Piece::new(names.input, Dtype::F32, Vec::new()));
            calibrated += 1;
        }
        let (codes, scales, decode_scales) = (first, first + 1, first + 2);
        fates[file].push((place, Fate::Quantized { matrices, codes, scales, decode_scales, input }));
    }
    check_names(pieces.iter().flatten().map(|p| p.name.as_str()))?;
    let layouts = files.iter().zip(pieces).enumerate().map(|(i, (file, pieces))| {
        let source = &model.shards[i].source.metadata;
        let mut metadata: Map<String, Value> =
            source.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        metadata.insert(config::MARK.into(), "NVFP4".into());
        metadata.insert(config::MODELOPT_KEY.into(), config.to_string().into());
        Layout::new(file, pieces, metadata)
    });
    Ok(Plan { layouts: layouts.collect::<Result<_>>()?, fates, config, sample, calibrated })
}

fn write(
    args: &Args,
    model: &Model,
    target: &Target,
    plan: &Plan,
    experts: Experts,
) -> Result<Option<String>> {
    let mut engine = Engine::create(args.threads)?;
    let mut texts = Vec::new();
    if let Target::Directory(_) = target {
        texts.push((config::MODELOPT_FILE.into(), pretty(&plan.config)));
        if let Some(before) = &model.config {
            let quantization = config::modelopt_in_config(&plan.config, plan.calibrated > 0);
            let config = config::with_quantization(before, quantization);
            texts.push(("config.json".into(), pretty(&Value::Object(config))));
        }
    }
    let options = json!({
        "command": "quantize", "rule": args.rule.name(), "include": args.include, "exclude": args.exclude,
        "experts": format!("{experts:?}"), "sample": args.sample.as_deref().map(about),
    });
    let layouts = plan.layouts.as_slice();
    let (resume_above, quiet, restart) = (args.resume_above, args.quiet, args.restart);
    let job = Job { model, target, layouts, texts, options, restart, resume_above, quiet };
    job.run(|file, sink| {
        let bytes = |(place, _): &(Place, Fate)| model.tensor(*place).bytes() as u64;
        sink.each(&plan.fates[file], bytes, |(place, fate)| {
            let tensor = model.tensor(*place);
            sink.bar.set_message(shown(&tensor.name));
            match fate {
                Fate::Copied { piece } => sink.copy(*piece, model.data(*place)),
                Fate::Quantized { matrices, codes, scales, decode_scales, input } => {
                    if let (Some(piece), Some(sample)) = (input, &plan.sample) {
                        let told = sample.find(&tensor.name, matrices.cols)?;
                        let scale = told.map(|told| sample.decode_scale(told, &mut engine)).transpose()?;
                        sink.write(*piece, 0, &scale.unwrap_or(1.0).to_le_bytes())?;
                    }
                    let pieces = [*codes, *scales, *decode_scales];
                    quantize(model, *place, matrices, args.rule, pieces, &mut engine, sink).map_err(|e| {
                        let (file, name) = (args.input.display(), shown(&tensor.name));
                        format!("{file}: tensor {name}: {e}; --exclude keeps a tensor as it is")
                    })
                }
            }
        })
    })
}

fn quantize(
    model: &Model,
    place: Place,
    matrices: &Matrices,
    rule: Rule,
    [codes, scales, decode_scales]: [usize; 3],
    engine: &mut Engine,
    sink: &Sink,
) -> Result<()> {
    let &Matrices { experts, rows, cols, transposed } = matrices;
    let (data, dtype) = (model.data(place), model.tensor(place).dtype);
    let what = Matrix { dtype, rows, cols, transposed, decode_scale: None };
    for (e, values) in data.chunks(data.len() / experts.unwrap_or(1)).enumerate() {
        engine.quantize(values, &what, rule).map_err(|problem| match experts {
            Some(_) => format!("expert {e}: {problem}"),
            None => problem,
        })?;
        sink.write(codes, e * rows * cols / 2, engine.codes.bytes())?;
        sink.write(scales, e * rows * cols / 16, engine.scales.bytes())?;
        sink.write(decode_scales, e * 4, &engine.decode_scale.to_le_bytes())?;
        sink.bar.inc(values.len() as u64);
    }
    Ok(())
}

pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn summary(
    args: &Args,
    model: &Model,
    reasons: &[Option<String>],
    plan: &Plan,
    resumed: Option<String>,
    began: Instant,
) -> String {
    let mut text = String::new();
    let tensors = || model.places().map(|p| model.tensor(p)).zip(reasons);
    let kept: Vec<_> = tensors().filter_map(|(t, r)| Some((t, r.as_ref()?))).collect();
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
    let weights: usize = tensors().filter(|(_, r)| r.is_none()).map(|(t, _)| t.values()).sum();
    text.push_str(&resumed.unwrap_or_default());
    if let Some(sample) = &plan.sample {
        let (given, used) = (sample.tensors(), plan.calibrated);
        text.push_str(&format!("{used} of {done} have an input scale, from a sample of {given} tensors.\n"));
    }
    text.push_str(&format!(
        "{}: {done} tensors ({:.1} million weights) as NVFP4, rule {}, {} kept; {} → {} in {:.1} s\n",
        args.output.display(),
        weights as f64 / 1e6,
        args.rule.name(),
        kept.len(),
        size(model.bytes()),
        size(plan.layouts.iter().map(|l| l.file_bytes).sum()),
        began.elapsed().as_secs_f64(),
    ));
    text
}

//! `nvfp4 convert`: an NVFP4 checkpoint → the same one in the other form. Codes and block scales keep their bytes; the
//! scales above them become multipliers or divisors, so that converting back gives the bytes that were read.

use crate::config::{self, Found};
use crate::engine::{Engine, Rule};
use crate::layout::{Layout, Piece, check_names};
use crate::merge::{self, Loss, Merge};
use crate::model::{Model, Place};
use crate::packed::{Form, Names, Packed, find_all, names};
use crate::quantize::pretty;
use crate::report::{self, shown, size};
use crate::writer::{Job, RESUME_ABOVE, Target};
use crate::{Result, scales};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
#[command(after_help = "IN and OUT are safetensors files, or directories as Hugging Face lays them out.\n\
    Every scale is checked: NaN, infinite, zero and negative ones are refused by name and index.")]
pub struct Args {
    /// Checkpoint to read, of either form
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Checkpoint to write; an existing file is replaced once the new one is complete, a directory must be empty
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Form to write
    #[arg(long, value_enum)]
    to: Form,
    /// Give layers that engines fuse (q/k/v, gate/up) and fused shards one decode scale, by quantizing again what has
    /// a smaller one; the loss is reported. Without it every shard keeps its own
    #[arg(long)]
    merge_scales: bool,
    /// How block scales are chosen where --merge-scales quantizes again
    #[arg(long, value_enum, default_value = "amax")]
    rule: Rule,
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

/// Where the bytes of a piece come from.
pub enum Content {
    Copy(Place),
    Bytes(Vec<u8>),
    /// Codes, or else scales, of a weight that is quantized again: its index.
    Codes(usize),
    Scales(usize),
}

/// A checkpoint read, checked, and laid out in another form; nothing is written yet.
pub struct Plan {
    pub packed: Vec<Packed>,
    pub merge: Merge,
    pub layouts: Vec<Layout>,
    /// One for each piece of each layout.
    pub contents: Vec<Vec<Content>>,
    pub texts: Vec<(String, String)>,
}

pub fn run(args: &Args) -> Result<()> {
    let began = Instant::now();
    let model = Model::open(&args.input)?;
    let target = Target::choose(&model, &args.output)?;
    let files = target.files(&model);
    let plan = plan(&model, &files, matches!(target, Target::Directory(_)), args.to, args.merge_scales)?;
    let mut engine = Engine::create(args.threads)?;
    let mut losses: HashMap<usize, Loss> = HashMap::new();
    let options = json!({
        "command": "convert", "to": format!("{:?}", args.to), "merge_scales": args.merge_scales, "rule": args.rule.name(),
    });
    let (layouts, texts) = (plan.layouts.as_slice(), plan.texts.clone());
    let job = Job {
        model: &model,
        target: &target,
        layouts,
        texts,
        options,
        restart: args.restart,
        resume_above: args.resume_above,
        quiet: args.quiet,
    };
    let resumed = job.run(|file, sink| {
        let contents: Vec<(usize, &Content)> = plan.contents[file].iter().enumerate().collect();
        let bytes = |(piece, _): &(usize, &Content)| layouts[file].pieces[*piece].bytes as u64;
        sink.each(&contents, bytes, |&(piece, content)| {
            sink.bar.set_message(shown(&layouts[file].pieces[piece].name));
            match content {
                Content::Copy(place) => sink.copy(piece, model.data(*place)),
                Content::Bytes(bytes) => sink.write(piece, 0, bytes),
                Content::Codes(w) | Content::Scales(w) => {
                    let (packed, decode) = (&plan.packed[*w], &plan.merge.decode[w]);
                    let codes = matches!(content, Content::Codes(_));
                    let step = if codes { packed.cols / 2 } else { packed.cols / 16 };
                    let done = |engine: &Engine, row| {
                        let bytes = if codes { &engine.codes } else { &engine.scales };
                        sink.write(piece, row * step, bytes.bytes())
                    };
                    let loss = merge::requantize(&model, packed, decode, args.rule, &mut engine, done)?;
                    losses.insert(*w, loss);
                    Ok(())
                }
            }
        })
    })?;
    if !args.quiet {
        report::print(&summary(args, &model, &plan, &losses, resumed, began));
    }
    Ok(())
}

/// What one tensor of a weight is for.
#[derive(Clone, Copy)]
enum Role {
    Codes,
    Scales,
    Decode,
    Input,
}

pub fn plan(model: &Model, files: &[String], directory: bool, to: Form, merge_scales: bool) -> Result<Plan> {
    let named = |problem: String| format!("{}: {problem}", model.path.display());
    let found = config::read(model)?;
    let packed = find_all(model)?;
    if packed.is_empty() {
        return Err(named("holds no NVFP4 weight of ModelOpt's or compressed-tensors' form".into()));
    }
    packed.iter().try_for_each(|p| scales::check(model, p))?;
    if to == Form::CompressedTensors {
        refuse_what_cannot_be_said(model, &found).map_err(named)?;
    }
    let merge = merge::plan(model, &packed, merge_scales)?;
    let roles: HashMap<Place, (usize, Role)> = packed
        .iter()
        .enumerate()
        .flat_map(|(i, p)| {
            let of = [(p.codes, Role::Codes), (p.scales, Role::Scales), (p.decode, Role::Decode)];
            of.into_iter().chain(p.input.map(|at| (at, Role::Input))).map(move |(at, role)| (at, (i, role)))
        })
        .collect();

    let mut pieces: Vec<Vec<Piece>> = files.iter().map(|_| Vec::new()).collect();
    let mut contents: Vec<Vec<Content>> = files.iter().map(|_| Vec::new()).collect();
    let mut notes: Vec<Map<String, Value>> = files.iter().map(|_| Map::new()).collect();
    for place in model.places() {
        let file = place.0.min(files.len() - 1);
        let tensor = model.tensor(place);
        let (piece, content) = match roles.get(&place) {
            None => {
                (Piece::new(tensor.name.clone(), tensor.dtype, tensor.shape.clone()), Content::Copy(place))
            }
            Some(&(w, role)) => {
                let (piece, content, note) = part(model, &packed[w], w, role, place, to, &merge)?;
                if let Some(note) = note {
                    notes[file].insert(piece.name.clone(), note);
                }
                (piece, content)
            }
        };
        pieces[file].push(piece);
        contents[file].push(content);
    }
    check_names(pieces.iter().flatten().map(|p| p.name.as_str())).map_err(named)?;

    let words = Words::new(model, &packed, &found, to, directory);
    let mut layouts = Vec::new();
    for (i, (file, pieces)) in files.iter().zip(pieces).enumerate() {
        let metadata = words.metadata(&model.shards[i].source.metadata, std::mem::take(&mut notes[i]));
        layouts.push(Layout::new(file, pieces, metadata).map_err(named)?);
    }
    let texts = if directory { words.texts(model) } else { Vec::new() };
    Ok(Plan { packed, merge, layouts, contents, texts })
}

/// One tensor of a weight in the other form, and the note that its reciprocal may need.
fn part(
    model: &Model,
    packed: &Packed,
    weight: usize,
    role: Role,
    place: Place,
    to: Form,
    merge: &Merge,
) -> Result<(Piece, Content, Option<Value>)> {
    let tensor = model.tensor(place);
    let Names { codes, scales, decode, input } = names(to, &packed.name);
    let name = match role {
        Role::Codes => codes,
        Role::Scales => scales,
        Role::Decode => decode,
        Role::Input => input,
    };
    let piece = Piece::new(name, tensor.dtype, tensor.shape.clone());
    let merged = match role {
        Role::Codes | Role::Scales if !merge.decode.contains_key(&weight) => {
            return Ok((piece, Content::Copy(place), None));
        }
        Role::Codes => return Ok((piece, Content::Codes(weight), None)),
        Role::Scales => return Ok((piece, Content::Scales(weight), None)),
        Role::Decode => merge.decode.get(&weight),
        Role::Input => merge.input.get(&weight),
    };
    if let Some(values) = merged {
        // Fused shards that now share one scale are one matrix.
        let shape = if values.len() == tensor.values() {
            tensor.shape.clone()
        } else {
            packed.experts.into_iter().collect()
        };
        let (bytes, note) = scales::written(values, to)?;
        return Ok((Piece::new(piece.name, Dtype::F32, shape), Content::Bytes(bytes), note));
    }
    if packed.form == to {
        // Its note, where it has one, still holds.
        let note = scales::note(model, place);
        return Ok((piece, Content::Copy(place), note));
    }
    let (bytes, note) = scales::translated(model, packed, place)?;
    Ok((piece, Content::Bytes(bytes), note))
}

/// compressed-tensors has no place for other formats beside NVFP4 in one ModelOpt checkpoint, nor for AWQ's factors.
fn refuse_what_cannot_be_said(model: &Model, found: &Found) -> Result<()> {
    let algorithm = found.modelopt.as_ref().and_then(|m| m["quantization"]["quant_algo"].as_str());
    if algorithm.is_some_and(|a| a != "NVFP4") {
        let algorithm = shown(algorithm.unwrap_or_default());
        return Err(format!(
            "quant_algo is {algorithm}; only NVFP4 alone can be written as compressed-tensors"
        ));
    }
    let factors = model.places().map(|p| &model.tensor(p).name).find(|n| n.ends_with("pre_quant_scale"));
    factors.map_or(Ok(()), |name| {
        Err(format!("tensor {} has no counterpart in compressed-tensors", shown(name)))
    })
}

/// What the output says about itself.
struct Words {
    to: Form,
    directory: bool,
    /// ModelOpt's configuration: that of the source, or one made from what is known.
    modelopt: Value,
    was_modelopt: bool,
    input_scales: bool,
    ignored: Vec<String>,
    kv_cache_fp8: bool,
}

impl Words {
    fn new(model: &Model, packed: &[Packed], found: &Found, to: Form, directory: bool) -> Words {
        let codes: std::collections::HashSet<Place> = packed.iter().map(|p| p.codes).collect();
        let is_float = |d: Dtype| matches!(d, Dtype::BF16 | Dtype::F16 | Dtype::F32);
        let kept = model
            .places()
            .filter(|p| !codes.contains(p))
            .map(|p| model.tensor(p))
            .filter(|t| t.shape.len() == 2 && is_float(t.dtype))
            .filter_map(|t| t.name.strip_suffix(".weight").map(String::from));
        let kept: Vec<String> = kept.collect();
        let listed = |form| config::ignored(kept.clone(), &found.ignored, form);
        let modelopt = match &found.modelopt {
            Some(value) => value.clone(),
            None => config::modelopt(&listed(Form::Modelopt), found.kv_cache_fp8, None),
        };
        Words {
            to,
            directory,
            modelopt,
            was_modelopt: found.modelopt.is_some(),
            input_scales: packed.iter().any(|p| p.input.is_some()),
            ignored: listed(to),
            kv_cache_fp8: found.kv_cache_fp8,
        }
    }

    fn compressed(&self) -> Value {
        config::compressed(&self.ignored, self.kv_cache_fp8, self.input_scales)
    }

    fn metadata(
        &self,
        source: &std::collections::BTreeMap<String, String>,
        notes: Map<String, Value>,
    ) -> Map<String, Value> {
        let mut all: Map<String, Value> =
            source.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        for key in [scales::EXACT, config::COMPRESSED_KEY, config::MODELOPT_KEY] {
            all.remove(key);
        }
        all.insert(config::MARK.into(), "NVFP4".into());
        // ModelOpt's words go along in either form, so that converting back finds them.
        if self.to == Form::Modelopt || self.was_modelopt {
            all.insert(config::MODELOPT_KEY.into(), self.modelopt.to_string().into());
        }
        if self.to == Form::CompressedTensors && !self.directory {
            all.insert(config::COMPRESSED_KEY.into(), self.compressed().to_string().into());
        }
        if !notes.is_empty() {
            all.insert(scales::EXACT.into(), Value::Object(notes).to_string().into());
        }
        all
    }

    fn texts(&self, model: &Model) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        let before = model.config.clone().unwrap_or_default();
        let method = before.get(config::COMPRESSED_KEY).and_then(|q| q["quant_method"].as_str());
        let same = match self.to {
            Form::Modelopt => method.is_some_and(|m| m.starts_with("modelopt")),
            Form::CompressedTensors => method == Some("compressed-tensors"),
        };
        let quantization = match self.to {
            Form::Modelopt => {
                texts.push((config::MODELOPT_FILE.to_string(), pretty(&self.modelopt)));
                config::modelopt_in_config(&self.modelopt, self.input_scales)
            }
            Form::CompressedTensors => self.compressed(),
        };
        let after = if same { before } else { config::with_quantization(&before, quantization) };
        texts.push(("config.json".into(), pretty(&Value::Object(after))));
        texts
    }
}

fn summary(
    args: &Args,
    model: &Model,
    plan: &Plan,
    losses: &HashMap<usize, Loss>,
    resumed: Option<String>,
    began: Instant,
) -> String {
    let mut text = merge::describe(&plan.packed, &plan.merge, losses);
    text.push_str(&resumed.unwrap_or_default());
    let notes = plan.layouts.iter().any(|l| String::from_utf8_lossy(&l.header).contains(scales::EXACT));
    if notes {
        text.push_str(
            "Some scales are not the reciprocal of their reciprocal: their bits are noted in the metadata.\n",
        );
    }
    let form = match args.to {
        Form::Modelopt => "ModelOpt",
        Form::CompressedTensors => "compressed-tensors",
    };
    text.push_str(&format!(
        "{}: {} NVFP4 weights in the form of {form}; {} → {} in {:.1} s\n",
        args.output.display(),
        plan.packed.len(),
        size(model.bytes()),
        size(plan.layouts.iter().map(|l| l.file_bytes).sum()),
        began.elapsed().as_secs_f64(),
    ));
    text
}

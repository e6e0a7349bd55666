//! A checkpoint → its tensors, wherever they are: one safetensors file, or a Hugging Face directory of shards with
//! `model.safetensors.index.json`, `config.json` and the files of a tokenizer.

use crate::report::shown;
use crate::source::{Source, Tensor};
use crate::{Result, config, scales};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The one file of an unsharded directory.
pub const SINGLE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";

/// Larger JSON files are no configuration; an index of a million tensors has 100 MB.
const LARGEST_JSON: u64 = 256 << 20;

pub struct Shard {
    /// Its name in the directory; of a single file, its own.
    pub file: String,
    pub source: Source,
}

/// Which tensor of which shard.
pub type Place = (usize, usize);

pub struct Model {
    pub path: PathBuf,
    pub is_directory: bool,
    pub shards: Vec<Shard>,
    places: HashMap<String, Place>,
    /// Of each shard, what its metadata notes of reciprocals (scales.rs).
    pub notes: Vec<Map<String, Value>>,
    /// `config.json` of a directory.
    pub config: Option<Map<String, Value>>,
    /// `hf_quant_config.json` of a directory.
    pub modelopt_config: Option<Value>,
    /// Files of a directory that go along unread.
    pub others: Vec<String>,
}

impl Model {
    pub fn open(path: &Path) -> Result<Model> {
        if !path.is_dir() {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let shards = vec![Shard { file, source: Source::open(path)? }];
            return Model::assemble(path, false, shards);
        }
        let files = shard_files(path)?;
        let mut shards = Vec::new();
        for file in files {
            let source = Source::open(&path.join(&file))?;
            shards.push(Shard { file, source });
        }
        let mut model = Model::assemble(path, true, shards)?;
        if let Some(map) = index_map(path)? {
            for (name, file) in &map {
                let at = model.find(name).map(|(shard, _)| model.shards[shard].file.as_str());
                if at != Some(file.as_str()) {
                    let (index, name) = (path.join(INDEX), shown(name));
                    return Err(format!("{}: {} holds no tensor {name}", index.display(), shown(file)));
                }
            }
        }
        model.config = match json(&path.join("config.json"))? {
            Some(Value::Object(map)) => Some(map),
            Some(_) => return Err(format!("{}: is not a JSON object", path.join("config.json").display())),
            None => None,
        };
        model.modelopt_config = json(&path.join(config::MODELOPT_FILE))?;
        model.others = others(path, &model.shards)?;
        Ok(model)
    }

    /// A checkpoint of shards that are in memory.
    pub fn assemble(path: &Path, is_directory: bool, shards: Vec<Shard>) -> Result<Model> {
        let mut places: HashMap<String, Place> = HashMap::new();
        for (s, shard) in shards.iter().enumerate() {
            for (t, tensor) in shard.source.tensors.iter().enumerate() {
                if let Some((other, _)) = places.insert(tensor.name.clone(), (s, t)) {
                    let (name, other) = (shown(&tensor.name), &shards[other].file);
                    return Err(format!(
                        "{}: tensor {name} is in both {other} and {}",
                        path.display(),
                        shard.file
                    ));
                }
            }
        }
        let note = |shard: &Shard| {
            let text = shard.source.metadata.get(scales::EXACT);
            text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
        };
        let notes = shards.iter().map(note).collect();
        let (config, modelopt_config, others) = Default::default();
        Ok(Model { notes, path: path.into(), is_directory, shards, places, config, modelopt_config, others })
    }

    pub fn find(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    pub fn tensor(&self, (shard, tensor): Place) -> &Tensor {
        &self.shards[shard].source.tensors[tensor]
    }

    pub fn data(&self, (shard, tensor): Place) -> &[u8] {
        let source = &self.shards[shard].source;
        source.data(&source.tensors[tensor])
    }

    /// Every tensor, shard by shard in the order of its bytes.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let counts = self.shards.iter().map(|s| s.source.tensors.len());
        counts.enumerate().flat_map(|(s, n)| (0..n).map(move |t| (s, t)))
    }

    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.source.file_bytes() as u64).sum()
    }

    /// A text that a file says about itself, from the first shard that does.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards.iter().find_map(|s| s.source.metadata.get(key)).map(String::as_str)
    }

    /// Whether config.json says that the output head is the embedding, and no tensor says otherwise.
    pub fn ties_embeddings(&self) -> bool {
        let said = self.config.as_ref().and_then(|c| c.get("tie_word_embeddings"));
        said == Some(&Value::Bool(true)) && self.find("lm_head.weight").is_none()
    }

    /// What model_type config.json names.
    pub fn model_type(&self) -> Option<&str> {
        self.config.as_ref()?.get("model_type")?.as_str()
    }
}

/// A JSON file, or none where it does not exist.
pub fn json(path: &Path) -> Result<Option<Value>> {
    let named = |problem: String| format!("{}: {problem}", path.display());
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(named(format!("cannot be opened: {e}"))),
        Ok(about) if !about.is_file() => return Err(named("is not a regular file".into())),
        Ok(about) if about.len() > LARGEST_JSON => return Err(named("is too large for a JSON file".into())),
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(|e| named(format!("cannot be read: {e}")))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| named(format!("is not valid JSON: {e}")))
}

/// Tensor → file, from the index of a directory.
fn index_map(folder: &Path) -> Result<Option<Vec<(String, String)>>> {
    let path = folder.join(INDEX);
    match json(&path)? {
        None => Ok(None),
        Some(value) => parse_index(&value).map(Some).map_err(|e| format!("{}: {e}", path.display())),
    }
}

/// The weight map of an index. File names are names: nothing in an index leads out of its directory.
pub fn parse_index(index: &Value) -> Result<Vec<(String, String)>> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or("has no object weight_map")?;
    let mut out = Vec::new();
    for (name, file) in map {
        let file = file.as_str().ok_or_else(|| format!("weight_map: {} names no file", shown(name)))?;
        if !file.ends_with(".safetensors") || file.contains(['/', '\\', '\0']) {
            return Err(format!("weight_map: {} is not the name of a safetensors file", shown(file)));
        }
        out.push((name.clone(), file.to_string()));
    }
    Ok(out)
}

fn shard_files(folder: &Path) -> Result<Vec<String>> {
    if let Some(map) = index_map(folder)? {
        let files: BTreeSet<String> = map.into_iter().map(|(_, file)| file).collect();
        return Ok(files.into_iter().collect());
    }
    if folder.join(SINGLE).exists() {
        return Ok(vec![SINGLE.into()]);
    }
    Err(format!("{}: holds neither {INDEX} nor {SINGLE}", folder.display()))
}

fn others(folder: &Path, shards: &[Shard]) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| format!("{}: cannot be read: {e}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let ours = [INDEX, "config.json", config::MODELOPT_FILE].contains(&name.as_str())
            || name.starts_with('.')
            || name.ends_with(".safetensors")
            || shards.iter().any(|s| s.file == name);
        if !ours && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

//! What the two formats say about themselves: ModelOpt in `hf_quant_config.json` (or `config.json`), compressed-tensors in
//! `config.json`; a file of its own says it in its header's metadata.

use crate::Result;
use crate::model::Model;
use crate::packed::Form;
use crate::report::shown;
use serde_json::{Map, Value, json};

pub const MODELOPT_FILE: &str = "hf_quant_config.json";
/// Metadata keys: ModelOpt's configuration, that of compressed-tensors, and the word that `nvfp4 quantize` leaves.
pub const MODELOPT_KEY: &str = "hf_quant_config";
pub const COMPRESSED_KEY: &str = "quantization_config";
pub const MARK: &str = "quantization";

/// What was found of a checkpoint's own words.
#[derive(Default, Debug)]
pub struct Found {
    /// ModelOpt's configuration as it stood, to be handed on.
    pub modelopt: Option<Value>,
    /// Modules that stay as they are, as the file lists them; may hold wildcards or, from compressed-tensors, `re:`.
    pub ignored: Vec<String>,
    /// The key/value cache is FP8.
    pub kv_cache_fp8: bool,
}

/// Reads and checks; a checkpoint that says nothing is fine, one that says another format is not.
pub fn read(model: &Model) -> Result<Found> {
    let mut found = Found::default();
    let mut texts: Vec<(String, Value)> = Vec::new();
    if let Some(value) = &model.modelopt_config {
        texts.push((MODELOPT_FILE.into(), value.clone()));
    }
    let in_config = model.config.as_ref().and_then(|c| c.get(COMPRESSED_KEY));
    if let Some(value) = in_config {
        texts.push((format!("config.json: {COMPRESSED_KEY}"), value.clone()));
    }
    for key in [MODELOPT_KEY, COMPRESSED_KEY] {
        if let Some(text) = model.metadata(key) {
            let value = serde_json::from_str(text)
                .map_err(|e| format!("{}: metadata {key} is not valid JSON: {e}", model.path.display()))?;
            texts.push((format!("metadata {key}"), value));
        }
    }
    for (source, value) in texts {
        check(&value, &mut found).map_err(|e| format!("{}: {source}: {e}", model.path.display()))?;
        if value.get("quantization").is_some() && found.modelopt.is_none() {
            found.modelopt = Some(value);
        }
    }
    Ok(found)
}

/// One configuration of any origin.
pub fn check(value: &Value, found: &mut Found) -> Result<()> {
    if !value.is_object() {
        return Err("is not a JSON object".into());
    }
    let body = match value.get("quantization") {
        Some(inner) if inner.is_object() => inner,
        Some(_) => return Err("quantization is not a JSON object".into()),
        None => value,
    };
    let text = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(format!("{key} is {}, not a text", brief(other))),
    };
    if let Some(method) = text("quant_method")?
        && !["modelopt", "modelopt_fp4", "compressed-tensors"].contains(&method)
    {
        return Err(format!("quant_method is {}; modelopt and compressed-tensors are read", shown(method)));
    }
    if let Some(algorithm) = text("quant_algo")?
        && !algorithm.to_uppercase().contains("NVFP4")
        && algorithm != "MIXED_PRECISION"
    {
        return Err(format!("quant_algo is {}, not NVFP4", shown(algorithm)));
    }
    if let Some(format) = text("format")?
        && !["nvfp4-pack-quantized", "mixed-precision"].contains(&format)
    {
        return Err(format!("format is {}, not nvfp4-pack-quantized", shown(format)));
    }
    group_size(body)?;
    if let Some(groups) = body.get("config_groups") {
        let groups = groups.as_object().ok_or("config_groups is not a JSON object")?;
        for (name, group) in groups {
            weights(group).map_err(|e| format!("config_groups.{}: {e}", shown(name)))?;
        }
    }
    for key in ["exclude_modules", "ignore"] {
        match body.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for module in list {
                    let module = module.as_str().ok_or_else(|| format!("{key} holds {}", brief(module)))?;
                    found.ignored.push(module.to_string());
                }
            }
            Some(other) => return Err(format!("{key} is {}, not a list", brief(other))),
        }
    }
    found.kv_cache_fp8 |= text("kv_cache_quant_algo")? == Some("FP8")
        || body.get("kv_cache_scheme").is_some_and(|s| {
            s.get("num_bits").and_then(Value::as_u64) == Some(8) && s.get("type") == Some(&"float".into())
        });
    Ok(())
}

fn group_size(body: &Value) -> Result<()> {
    match body.get("group_size") {
        None | Some(Value::Null) => Ok(()),
        Some(size) if size.as_u64() == Some(16) => Ok(()),
        Some(other) => Err(format!("group_size is {}; NVFP4 has 16", brief(other))),
    }
}

/// A group whose weights are 4-bit floats must be NVFP4's; groups of other formats are not ours to judge.
fn weights(group: &Value) -> Result<()> {
    let Some(weights) = group.get("weights").filter(|w| !w.is_null()) else { return Ok(()) };
    let is = |key: &str, value: Value| weights.get(key) == Some(&value);
    if !weights.is_object() {
        return Err(format!("weights is {}", brief(weights)));
    }
    if !is("num_bits", 4.into()) || !is("type", "float".into()) {
        return Ok(());
    }
    if is("symmetric", false.into()) {
        return Err("weights are not symmetric; NVFP4 has no zero points".into());
    }
    group_size(weights)
}

fn brief(value: &Value) -> String {
    let text = shown(&value.to_string());
    if text.chars().count() > 40 { text.chars().take(37).chain("...".chars()).collect() } else { text }
}

/// ModelOpt's `hf_quant_config.json`.
pub fn modelopt(ignored: &[String], kv_cache_fp8: bool, rule: Option<&str>) -> Value {
    let mut quantization = json!({
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": if kv_cache_fp8 { Value::from("FP8") } else { Value::Null },
        "group_size": 16,
        "exclude_modules": ignored,
    });
    if let Some(rule) = rule {
        quantization["scale_rule"] = rule.into();
    }
    json!({ "producer": { "name": "nvfp4", "version": env!("CARGO_PKG_VERSION") }, "quantization": quantization })
}

/// `quantization_config` of a ModelOpt checkpoint's config.json, from its hf_quant_config.json.
pub fn modelopt_in_config(config: &Value, input_scales: bool) -> Value {
    let quantization = &config["quantization"];
    let tensor = json!({ "dynamic": false, "num_bits": 4, "type": "float", "group_size": 16 });
    let activations = if input_scales { tensor.clone() } else { Value::Null };
    json!({
        "config_groups": { "group_0": { "input_activations": activations, "weights": tensor, "targets": ["Linear"] } },
        "ignore": quantization["exclude_modules"],
        "quant_algo": quantization["quant_algo"],
        "producer": config["producer"],
        "quant_method": "modelopt",
    })
}

/// `quantization_config` of compressed-tensors; activations are quantized where their scales were calibrated.
pub fn compressed(ignored: &[String], kv_cache_fp8: bool, input_scales: bool) -> Value {
    let tensor = |dynamic: Value| {
        json!({
            "actorder": null, "block_structure": null, "dynamic": dynamic, "group_size": 16, "num_bits": 4,
            "observer": "static_minmax", "observer_kwargs": {}, "strategy": "tensor_group", "symmetric": true,
            "type": "float",
        })
    };
    let activations = if input_scales { tensor("local".into()) } else { Value::Null };
    let cache =
        json!({ "num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": true, "dynamic": false });
    json!({
        "config_groups": { "group_0": {
            "format": "nvfp4-pack-quantized", "input_activations": activations, "output_activations": null,
            "targets": ["Linear"], "weights": tensor(false.into()),
        } },
        "format": "nvfp4-pack-quantized",
        "global_compression_ratio": null,
        "ignore": ignored,
        "kv_cache_scheme": if kv_cache_fp8 { cache } else { Value::Null },
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    })
}

/// The modules that stay, from the tensors themselves, and what the source lists besides (a tied head is in no file).
pub fn ignored(kept: Vec<String>, listed: &[String], to: Form) -> Vec<String> {
    let mut all = kept;
    for module in listed {
        let wildcard = module.contains('*');
        let translated = match (to, module.starts_with("re:"), wildcard) {
            // A regular expression says no more than the tensors do.
            (Form::Modelopt, true, _) => continue,
            (Form::CompressedTensors, false, true) => {
                let parts: Vec<String> = module.split('*').map(|p| p.replace('.', r"\.")).collect();
                format!("re:{}", parts.join(".*"))
            }
            _ => module.clone(),
        };
        if !all.contains(&translated) {
            all.push(translated);
        }
    }
    all
}

/// config.json with another quantization_config.
pub fn with_quantization(config: &Map<String, Value>, quantization: Value) -> Map<String, Value> {
    let mut config = config.clone();
    config.insert(COMPRESSED_KEY.into(), quantization);
    config
}

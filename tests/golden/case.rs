//! The golden case format: cases.json names the cases, their parameters and arrays; <case>/<array>.bin holds the bytes.

use std::collections::HashMap;
use std::path::Path;

use nvfp4::api::types::*;
use serde_json::Value;

use crate::support::Memory;

pub struct Array {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Array {
    pub fn dtype(&self) -> nvfp4_dtype {
        match self.dtype.as_str() {
            "bfloat16" => NVFP4_DTYPE_BF16,
            "float16" => NVFP4_DTYPE_F16,
            _ => NVFP4_DTYPE_F32,
        }
    }
    pub fn memory(&self) -> Memory {
        Memory::from(&self.bytes)
    }
    pub fn f32s(&self) -> Vec<f32> {
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    pub fn f64s(&self) -> Vec<f64> {
        self.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    }
    pub fn i32s(&self) -> Vec<i32> {
        self.bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

pub struct Case {
    pub name: String,
    pub op: String,
    params: Value,
    arrays: HashMap<String, Array>,
}

impl Case {
    pub fn array(&self, name: &str) -> &Array {
        self.find(name).unwrap_or_else(|| panic!("{} has no array {name}", self.name))
    }
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }
    /// A numeric parameter; text such as "nan" and "inf" counts as a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        let value = self.params.get(name)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    }
    pub fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name)?.as_str()
    }
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.params.get(name)?.as_bool()
    }
    pub fn scope(&self) -> nvfp4_scope {
        match self.text("scope") {
            Some("row") => NVFP4_SCOPE_ROW,
            Some("group") => NVFP4_SCOPE_GROUP,
            _ => NVFP4_SCOPE_TENSOR,
        }
    }
    pub fn rule(&self) -> nvfp4_scale_rule {
        match self.text("rule") {
            Some("four_over_six") => NVFP4_SCALE_RULE_FOUR_OVER_SIX,
            Some("min_mse") => NVFP4_SCALE_RULE_MIN_MSE,
            _ => NVFP4_SCALE_RULE_AMAX,
        }
    }
}

/// What the operations write.
const OUTPUTS: [&str; 7] = ["packed", "scales_128x4", "activated", "normed", "dst", "out", "out_f64"];

impl Case {
    /// The same case with one wrong bit in the first output that it has; none where there is nothing to be wrong.
    pub fn spoiled(&self) -> Option<Case> {
        let name = OUTPUTS.iter().find(|&&name| self.find(name).is_some_and(|a| !a.bytes.is_empty()))?;
        let mut arrays = HashMap::new();
        for (key, array) in &self.arrays {
            let (dtype, shape, mut bytes) = (array.dtype.clone(), array.shape.clone(), array.bytes.clone());
            if key == name {
                // The sign or the top of an exponent in a float64.
                let at = if dtype == "float64" { 7 } else { bytes.len() / 2 };
                bytes[at] ^= 0x40;
            }
            arrays.insert(key.clone(), Array { dtype, shape, bytes });
        }
        Some(Case { name: self.name.clone(), op: self.op.clone(), params: self.params.clone(), arrays })
    }
}

/// All cases of a directory.
pub fn read(dir: &Path) -> Result<Vec<Case>, String> {
    let path = dir.join("cases.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let list = json["cases"].as_array().ok_or(format!("{}: no list of cases", path.display()))?;
    list.iter().map(|entry| read_case(dir, entry)).collect()
}

fn read_case(dir: &Path, entry: &Value) -> Result<Case, String> {
    let text = |key: &str| entry[key].as_str().map(String::from).ok_or(format!("a case has no {key}"));
    let (name, op) = (text("name")?, text("op")?);
    let mut arrays = HashMap::new();
    for (key, meta) in entry["arrays"].as_object().ok_or(format!("{name} has no arrays"))? {
        let path = dir.join(&name).join(format!("{key}.bin"));
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let shape = meta["shape"].as_array().into_iter().flatten();
        let shape = shape.filter_map(|n| n.as_u64()).map(|n| n as usize).collect();
        let dtype = meta["dtype"].as_str().unwrap_or_default().to_string();
        arrays.insert(key.clone(), Array { dtype, shape, bytes });
    }
    Ok(Case { name, op, params: entry["params"].clone(), arrays })
}

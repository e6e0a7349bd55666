//! Chosen tensors → the header of the output and the place of every piece in it, before a value is read.
//!
//! Pieces are ordered by how many times two divides their length, most first (up to 64 bytes), and the data begins at a
//! multiple of 64. So each piece lies on a multiple of its own granularity without a hole, which the format forbids:
//! codes of usual widths are 64-byte aligned in a memory map, ready for a kernel. The order depends on the tensors
//! alone: the same input gives the same bytes.

use crate::source::{Source, Tensor};
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

const ALIGNMENT: usize = 64;

/// One entry of the output's header.
pub struct Piece {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    /// From the start of the file.
    pub offset: u64,
}

/// What becomes of one tensor; indices of pieces.
#[derive(Clone, Copy)]
pub enum Fate {
    Copied { piece: usize },
    Quantized { codes: usize, scales: usize, decode_scale: usize },
}

pub struct Plan {
    pub header: Vec<u8>,
    pub pieces: Vec<Piece>,
    /// One for each tensor of the source.
    pub fates: Vec<Fate>,
    pub file_bytes: u64,
}

/// `keep[i]`: tensor i is copied as it is.
pub fn plan(source: &Source, keep: &[bool], rule: &str) -> Result<Plan, String> {
    let mut pieces = Vec::new();
    let mut fates = Vec::new();
    for (tensor, &keep) in source.tensors.iter().zip(keep) {
        let first = pieces.len();
        if keep {
            pieces.push(piece(tensor.name.clone(), tensor.dtype, tensor.shape.clone()));
            fates.push(Fate::Copied { piece: first });
        } else {
            let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
            pieces.push(piece(tensor.name.clone(), Dtype::U8, vec![rows, cols / 2]));
            pieces.push(piece(format!("{}_scale", tensor.name), Dtype::F8_E4M3, vec![rows, cols / 16]));
            pieces.push(piece(format!("{}_scale_2", tensor.name), Dtype::F32, vec![]));
            fates.push(Fate::Quantized { codes: first, scales: first + 1, decode_scale: first + 2 });
        }
    }
    let mut names: Vec<&str> = pieces.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        return Err(format!(
            "it already holds a tensor {}; was it quantized before?",
            crate::report::shown(twice[0])
        ));
    }

    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(granularity(pieces[i].bytes)), i));
    let mut end = 0u64;
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), metadata(source, keep, rule));
    for &i in &order {
        let piece = &mut pieces[i];
        piece.offset = end;
        end += piece.bytes as u64;
        entries.insert(
            piece.name.clone(),
            json!({ "dtype": piece.dtype, "shape": piece.shape, "data_offsets": [piece.offset, end] }),
        );
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize((8 + text.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    if text.len() > 100_000_000 {
        return Err(format!(
            "its header would take {} bytes, more than the format allows (100000000)",
            text.len()
        ));
    }
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    let start = header.len() as u64;
    pieces.iter_mut().for_each(|p| p.offset += start);
    Ok(Plan { header, pieces, fates, file_bytes: start + end })
}

fn piece(name: String, dtype: Dtype, shape: Vec<usize>) -> Piece {
    let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    Piece { name, dtype, shape, bytes, offset: 0 }
}

fn granularity(bytes: usize) -> usize {
    if bytes == 0 { ALIGNMENT } else { 1 << bytes.trailing_zeros().min(ALIGNMENT.ilog2()) }
}

/// What the input said about itself, and what ModelOpt keeps in hf_quant_config.json, as a text in the file itself.
fn metadata(source: &Source, keep: &[bool], rule: &str) -> Value {
    let is_float = |t: &Tensor| matches!(t.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32);
    let kept = source.tensors.iter().zip(keep).filter(|(t, k)| **k && t.shape.len() == 2 && is_float(t));
    let excluded: Vec<&str> = kept.filter_map(|(t, _)| t.name.strip_suffix(".weight")).collect();
    let config = json!({
        "producer": { "name": "nvfp4", "version": env!("CARGO_PKG_VERSION") },
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": null,
            "group_size": 16,
            "scale_rule": rule,
            "exclude_modules": excluded,
        },
    });
    let mut all: Map<String, Value> =
        source.metadata.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
    all.insert("quantization".into(), "NVFP4".into());
    all.insert("hf_quant_config".into(), config.to_string().into());
    Value::Object(all)
}

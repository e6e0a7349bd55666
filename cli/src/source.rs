//! A safetensors file → its tensors as views of a memory map, or one sentence that says what is wrong with it.
//!
//! Every byte of the header is distrusted: lengths, offsets, shapes and types are checked before a tensor is touched.
//! The map is read-only; a file that another program cuts short meanwhile ends this process with a bus error, after
//! which no output exists either (see output.rs).

use crate::{Result, report};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

/// The bytes before the header: its length, little endian.
const LENGTH_BYTES: usize = 8;

/// One tensor of the file, without its bytes.
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where its bytes are in the map.
    span: std::ops::Range<usize>,
}

impl Tensor {
    pub fn bytes(&self) -> usize {
        self.span.len()
    }

    pub fn values(&self) -> usize {
        self.shape.iter().product() // checked for overflow when the header was read
    }
}

/// The bytes of a file, mapped or already in memory.
enum Data {
    Map(Mmap),
    Bytes(Vec<u8>),
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Data::Map(map) => map,
            Data::Bytes(bytes) => bytes,
        }
    }
}

pub struct Source {
    map: Data,
    /// In the order of their bytes.
    pub tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    pub metadata: BTreeMap<String, String>,
}

impl Source {
    pub fn open(path: &Path) -> Result<Source> {
        let named = |problem: String| format!("{}: {problem}", path.display());
        let unopened = |e| named(format!("cannot be opened: {e}"));
        // Asked before the file is opened: opening a pipe waits for its other end.
        let about = std::fs::metadata(path).map_err(unopened)?;
        if !about.is_file() {
            return Err(named("is not a regular file".into()));
        }
        let file = File::open(path).map_err(unopened)?;
        if about.len() == 0 {
            return Err(named("is empty".into()));
        }
        // SAFETY: the map is read-only and private to this object; the module's head says what a truncation does.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| named(format!("cannot be mapped: {e}")))?;
        Source::read(Data::Map(map)).map_err(named)
    }

    /// A file that is in memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Source> {
        Source::read(Data::Bytes(bytes))
    }

    fn read(map: Data) -> Result<Source> {
        let (header, index) =
            SafeTensors::read_metadata(&map).map_err(|e| report::shown(&explain(&map, e)))?;
        let start = LENGTH_BYTES + header;
        let tensors = tensors(&index, start);
        let metadata = index.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Source { map, tensors, by_name, metadata })
    }

    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.map[tensor.span.clone()]
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    pub fn file_bytes(&self) -> usize {
        self.map.len()
    }
}

fn tensors(index: &Metadata, start: usize) -> Vec<Tensor> {
    let mut all: Vec<Tensor> = index
        .tensors()
        .into_iter()
        .map(|(name, info)| Tensor {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            span: start + info.data_offsets.0..start + info.data_offsets.1,
        })
        .collect();
    // Tensors without values share an offset: the name makes the order, and so the output, one and the same.
    all.sort_by(|a, b| (a.span.start, a.span.end, &a.name).cmp(&(b.span.start, b.span.end, &b.name)));
    all
}

/// The crate's error with the numbers that a person needs to find the fault.
fn explain(file: &[u8], error: SafeTensorError) -> String {
    let claimed = file.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let len = file.len();
    let why = match error {
        SafeTensorError::HeaderTooSmall => {
            format!("the file has {len} bytes and its header length alone takes 8")
        }
        SafeTensorError::HeaderTooLarge => {
            format!("the header claims {claimed} bytes, more than the format allows (100000000)")
        }
        SafeTensorError::InvalidHeaderLength => {
            format!("the header claims {claimed} bytes and only {} follow", len.saturating_sub(LENGTH_BYTES))
        }
        SafeTensorError::InvalidHeader(e) => format!("the header is not UTF-8 text: {e}"),
        SafeTensorError::InvalidHeaderDeserialization(e) | SafeTensorError::JsonError(e) => {
            format!("the header is not that of a safetensors file: {e}")
        }
        SafeTensorError::InvalidOffset(name) => format!(
            "tensor {} does not start where the one before it ends: offsets overlap, leave a gap, or run backwards",
            report::shown(&name)
        ),
        SafeTensorError::MetadataIncompleteBuffer => {
            let end = header_json(file).map_or(0, |h| h.values().filter_map(end_offset).max().unwrap_or(0));
            let held = len - LENGTH_BYTES - claimed as usize;
            format!("the tensors take {end} bytes and {held} follow the header")
        }
        SafeTensorError::TensorInvalidInfo => mismatch(file).unwrap_or_else(|| error.to_string()),
        other => other.to_string(),
    };
    format!("is not a valid safetensors file (corrupt or truncated): {why}")
}

fn header_json(file: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let length = u64::from_le_bytes(*file.first_chunk()?) as usize;
    serde_json::from_slice(file.get(LENGTH_BYTES..)?.get(..length)?).ok()
}

fn offset(info: &Value, which: usize) -> Option<u64> {
    info.get("data_offsets")?.get(which)?.as_u64()
}

fn end_offset(info: &Value) -> Option<u64> {
    offset(info, 1)
}

/// Which tensor's shape and type do not make up its bytes.
fn mismatch(file: &[u8]) -> Option<String> {
    header_json(file)?.iter().find_map(|(name, info)| {
        let dtype: Dtype = serde_json::from_value(info.get("dtype")?.clone()).ok()?;
        let shape: Vec<u64> = serde_json::from_value(info.get("shape")?.clone()).ok()?;
        let bits = shape.iter().try_fold(dtype.bitsize() as u64, |a, &b| a.checked_mul(b))?;
        let held = offset(info, 1)?.checked_sub(offset(info, 0)?)?;
        (bits / 8 != held).then(|| {
            format!(
                "tensor {} of type {dtype} and shape {shape:?} takes {} bytes, but its offsets hold {held}",
                report::shown(name),
                bits / 8
            )
        })
    })
}

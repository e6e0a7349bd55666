//! Tensors to be written → the header of a file and the place of every piece in it, before a value is read.
//!
//! Pieces are ordered by how many times two divides their length, most first (up to 64 bytes), and the data begins at a
//! multiple of 64. So each piece lies on a multiple of its own granularity without a hole, which the format forbids:
//! codes of usual widths are 64-byte aligned in a memory map, ready for a kernel. The order depends on the tensors
//! alone: the same input gives the same bytes.

use crate::Result;
use crate::report::shown;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

const ALIGNMENT: usize = 64;
/// What the format allows.
const LARGEST_HEADER: usize = 100_000_000;

/// One entry of a header.
#[derive(Clone)]
pub struct Piece {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: usize,
    /// From the start of the file.
    pub offset: u64,
}

impl Piece {
    pub fn new(name: String, dtype: Dtype, shape: Vec<usize>) -> Piece {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Piece { name, dtype, shape, bytes, offset: 0 }
    }
}

/// One file to be written.
pub struct Layout {
    /// Its name in a directory.
    pub file: String,
    pub header: Vec<u8>,
    /// In the order that they were given.
    pub pieces: Vec<Piece>,
    pub file_bytes: u64,
}

impl Layout {
    pub fn new(file: &str, mut pieces: Vec<Piece>, metadata: Map<String, Value>) -> Result<Layout> {
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(granularity(pieces[i].bytes)), i));
        let mut end = 0u64;
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), Value::Object(metadata));
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
        if text.len() > LARGEST_HEADER {
            let length = text.len();
            return Err(format!(
                "{}: its header would take {length} bytes, more than the format allows ({LARGEST_HEADER})",
                shown(file)
            ));
        }
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend(text);
        let start = header.len() as u64;
        pieces.iter_mut().for_each(|p| p.offset += start);
        Ok(Layout { file: file.into(), header, pieces, file_bytes: start + end })
    }
}

/// Two outputs of one name would be one tensor too few.
pub fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => {
            Err(format!("it already holds a tensor {}; was it quantized before?", shown(twice[0])))
        }
        None => Ok(()),
    }
}

fn granularity(bytes: usize) -> usize {
    if bytes == 0 { ALIGNMENT } else { 1 << bytes.trailing_zeros().min(ALIGNMENT.ilog2()) }
}

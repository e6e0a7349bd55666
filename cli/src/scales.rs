//! The scales of NVFP4 weights: what may not be in a file, and multipliers from divisors without losing a bit.
//!
//! fl(1/x) has no exact inverse for about a third of all x. Where translating back would not give the value that was
//! read, its bits go along in the header's metadata under [`EXACT`], and are believed only if their reciprocal is the
//! value that stands in the file.

use crate::Result;
use crate::model::{Model, Place};
use crate::packed::{Form, Packed};
use crate::report::shown;
use serde_json::Value;

/// Metadata: {tensor: ["3f800000", …]}, the bits of the values that a tensor of reciprocals was made from.
pub const EXACT: &str = "nvfp4_exact_reciprocals";

/// Refuses what no kernel may read: NaN, signs, and scales above that are not finite and above 0.
pub fn check(model: &Model, packed: &Packed) -> Result<()> {
    let named = |place: Place, problem: String| {
        format!("{}: tensor {}{problem}", model.path.display(), shown(&model.tensor(place).name))
    };
    let scales = model.data(packed.scales);
    if let Some((at, &byte)) = scales.iter().enumerate().find(|&(_, &s)| s >= 0x7F) {
        let what = if byte & 0x7F == 0x7F { "NaN" } else { "negative" };
        let index = unravel(at, &model.tensor(packed.scales).shape);
        return Err(named(packed.scales, format!("{index} is {what} (0x{byte:02x})")));
    }
    multipliers(model, packed, packed.decode)?;
    packed.input.map_or(Ok(()), |input| multipliers(model, packed, input).map(drop))
}

/// The values of an F32 tensor as decode scales, whichever way the file stores them.
pub fn multipliers(model: &Model, packed: &Packed, place: Place) -> Result<Vec<f32>> {
    let stored = floats(model.data(place));
    let tensor = model.tensor(place);
    let exact = exact(model, place);
    let value = |(i, &x): (usize, &f32)| {
        let index = unravel(i, &tensor.shape);
        let refused = |why: &str| {
            Err(format!("{}: tensor {}{index} is {why}", model.path.display(), shown(&tensor.name)))
        };
        if !(x.is_finite() && x > 0.0) {
            return refused(&format!("{x}; it must be finite and above 0"));
        }
        if packed.form == Form::Modelopt {
            return Ok(x);
        }
        let inverse = exact.get(i).copied().filter(|e| reciprocal(*e) == x).unwrap_or(reciprocal(x));
        if inverse.is_finite() && inverse > 0.0 {
            Ok(inverse)
        } else {
            refused(&format!("{x}, whose reciprocal is {inverse}"))
        }
    };
    stored.iter().enumerate().map(value).collect()
}

/// An F32 tensor for the other form: its bytes, and for the metadata the bits that they do not hold.
pub fn translated(model: &Model, packed: &Packed, place: Place) -> Result<(Vec<u8>, Option<Value>)> {
    let stored = floats(model.data(place));
    let exact = exact(model, place);
    multipliers(model, packed, place)?;
    let written: Vec<f32> = stored
        .iter()
        .enumerate()
        .map(|(i, &x)| exact.get(i).copied().filter(|e| reciprocal(*e) == x).unwrap_or(reciprocal(x)))
        .collect();
    if let Some(at) = written.iter().position(|w| !(w.is_finite() && *w > 0.0)) {
        let (tensor, x) = (model.tensor(place), stored[at]);
        let index = unravel(at, &tensor.shape);
        return Err(format!(
            "{}: tensor {}{index} is {x}, whose reciprocal is {}",
            model.path.display(),
            shown(&tensor.name),
            written[at]
        ));
    }
    let bytes = written.iter().flat_map(|w| w.to_le_bytes()).collect();
    Ok((bytes, needed_note(&stored, &written)))
}

/// Decode scales as a form stores them, and the note that they need.
pub fn written(values: &[f32], form: Form) -> Result<(Vec<u8>, Option<Value>)> {
    let stored: Vec<f32> = match form {
        Form::Modelopt => values.to_vec(),
        Form::CompressedTensors => values.iter().map(|v| reciprocal(*v)).collect(),
    };
    if let Some(at) = stored.iter().position(|s| !s.is_finite()) {
        return Err(format!("decode scale {} has no finite reciprocal", values[at]));
    }
    let bytes = stored.iter().flat_map(|v| v.to_le_bytes()).collect();
    let note = if form == Form::Modelopt { None } else { needed_note(values, &stored) };
    Ok((bytes, note))
}

/// The bits of what reciprocals were made from, where they cannot be found again.
fn needed_note(source: &[f32], reciprocals: &[f32]) -> Option<Value> {
    let lossless = reciprocals.iter().zip(source).all(|(r, s)| reciprocal(*r) == *s);
    (!lossless).then(|| bits(source))
}

fn bits(values: &[f32]) -> Value {
    values.iter().map(|s| Value::from(format!("{:08x}", s.to_bits()))).collect()
}

/// The note of a tensor that is copied.
pub fn note(model: &Model, place: Place) -> Option<Value> {
    let noted = exact(model, place);
    (!noted.is_empty()).then(|| bits(&noted))
}

pub fn reciprocal(x: f32) -> f32 {
    1.0 / x
}

/// The noted bits of a tensor's source; empty where none are noted or they are no such note.
fn exact(model: &Model, place: Place) -> Vec<f32> {
    let tensor = model.tensor(place);
    let values = model.notes[place.0].get(&tensor.name).and_then(Value::as_array);
    let bits = |v: &Value| u32::from_str_radix(v.as_str()?, 16).ok().map(f32::from_bits);
    let found: Option<Vec<f32>> = values.and_then(|v| v.iter().map(bits).collect());
    found.filter(|f| f.len() == tensor.values()).unwrap_or_default()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// " at [3, 7]"; nothing for a scalar.
fn unravel(mut at: usize, shape: &[usize]) -> String {
    let mut index = Vec::new();
    for &size in shape.iter().rev() {
        index.push(at % size.max(1));
        at /= size.max(1);
    }
    index.reverse();
    if index.is_empty() { String::new() } else { format!(" at {index:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_words() {
        assert_eq!(unravel(0, &[]), "");
        assert_eq!(unravel(7, &[2, 4]), " at [1, 3]");
        assert_eq!(unravel(23, &[2, 3, 4]), " at [1, 2, 3]");
    }

    /// Why the notes are needed, and that they are not always.
    #[test]
    fn reciprocals_are_not_their_own_inverse() {
        let lost = (0..1000)
            .filter(|i| reciprocal(reciprocal(1.0 + *i as f32 / 1024.0)) != 1.0 + *i as f32 / 1024.0);
        let lost = lost.count();
        assert!((10..900).contains(&lost), "{lost}");
        assert_eq!(reciprocal(reciprocal(0.25)), 0.25);
    }
}

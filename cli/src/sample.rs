//! A sample of activations → the decode scale of each quantized weight's input.
//!
//! The sample is a safetensors file; `M.input` [..., K] holds what module M was given (`M.P.input` where experts are in
//! one tensor `M.P`), as a forward hook sees it. One decode scale a weight, the largest finite magnitude / 2688, as ModelOpt's `input_scale`.

use crate::Result;
use crate::engine::Engine;
use crate::report::shown;
use crate::source::{Source, Tensor};
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};

pub struct Sample {
    path: PathBuf,
    source: Source,
}

impl Sample {
    pub fn open(path: &Path) -> Result<Sample> {
        Ok(Sample { path: path.into(), source: Source::open(path)? })
    }

    /// What the weight of this name was multiplied with, if the sample tells; refused where K is another.
    pub fn find(&self, weight: &str, cols: usize) -> Result<Option<&Tensor>> {
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        let Some(tensor) = self.source.find(&format!("{module}.input")) else { return Ok(None) };
        let problem = match tensor.shape.last() {
            _ if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) => {
                format!("is {}; pass BF16, F16 or F32 values", tensor.dtype)
            }
            Some(&last) if last == cols && tensor.values() > 0 => return Ok(Some(tensor)),
            _ => format!("has the shape {:?}; the weight takes [..., {cols}]", tensor.shape),
        };
        Err(self.named(tensor, &problem))
    }

    /// The decode scale of a tensor of this sample.
    pub fn decode_scale(&self, tensor: &Tensor, engine: &mut Engine) -> Result<f32> {
        let cols = tensor.shape.last().copied().unwrap_or(0);
        let (rows, data) = (tensor.values() / cols.max(1), self.source.data(tensor));
        if data.iter().all(|byte| byte & 0x7F == 0) {
            return Err(self.named(tensor, "holds zeros alone, which tell no scale"));
        }
        let found = engine.amax_scale(data, tensor.dtype, rows, cols);
        found.map_err(|problem| self.named(tensor, &problem))
    }

    /// How many tensors the sample holds.
    pub fn tensors(&self) -> usize {
        self.source.tensors.len()
    }

    fn named(&self, tensor: &Tensor, problem: &str) -> String {
        format!("{}: tensor {} {problem}", self.path.display(), shown(&tensor.name))
    }
}

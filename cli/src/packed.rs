//! The NVFP4 weights of a checkpoint: which tensors belong together, in ModelOpt's names or those of compressed-tensors.
//!
//! | of module M, parameter `weight` | ModelOpt (and `nvfp4 quantize`) | compressed-tensors |
//! |---|---|---|
//! | codes U8 [N, K/2] | `M.weight` | `M.weight_packed` |
//! | block scales F8_E4M3 [N, K/16] | `M.weight_scale` | `M.weight_scale` |
//! | F32 above them | `M.weight_scale_2`, a multiplier | `M.weight_global_scale`, a divisor |
//! | F32 of the activations | `M.input_scale`, a multiplier | `M.input_global_scale`, a divisor |
//!
//! Experts in one tensor have a parameter of another name P ("gate_up_proj") and [E, N, ...]: ModelOpt's names are then
//! `M.P`, `M.P_weight_scale`, `M.P_weight_scale_2`, `M.P_input_scale`; ours for compressed-tensors `M.P_packed`,
//! `M.P_scale`, `M.P_global_scale`, `M.P_input_global_scale`.

use crate::Result;
use crate::model::{Model, Place};
use crate::report::shown;
use safetensors::tensor::Dtype;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// ModelOpt's names and multipliers, which `nvfp4 quantize` writes
    #[value(alias = "canonical")]
    Modelopt,
    /// nvfp4-pack-quantized: the names and divisors of compressed-tensors
    CompressedTensors,
}

/// The four tensor names of one weight.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub codes: String,
    pub scales: String,
    pub decode: String,
    pub input: String,
}

/// The names of a weight whose tensor would be called `name` if it were not quantized.
pub fn names(form: Form, name: &str) -> Names {
    let (module, parameter) = name.rsplit_once('.').map_or(("", name), |(m, p)| (m, p));
    let dot = if module.is_empty() { "" } else { "." };
    let plain = parameter == "weight";
    let join = |suffix: &str| format!("{module}{dot}{parameter}{suffix}");
    let own = if plain { String::new() } else { format!("{parameter}_") };
    match form {
        Form::Modelopt => {
            let kind = if plain { "" } else { "_weight" };
            Names {
                codes: name.to_string(),
                scales: join(&format!("{kind}_scale")),
                decode: join(&format!("{kind}_scale_2")),
                input: format!("{module}{dot}{own}input_scale"),
            }
        }
        Form::CompressedTensors => Names {
            codes: join("_packed"),
            scales: join("_scale"),
            decode: join("_global_scale"),
            input: format!("{module}{dot}{own}input_global_scale"),
        },
    }
}

/// One NVFP4 weight: [N, K], or E of them.
#[derive(Debug)]
pub struct Packed {
    pub form: Form,
    /// What the tensor is called where it is not quantized, and in ModelOpt's form.
    pub name: String,
    pub codes: Place,
    pub scales: Place,
    pub decode: Place,
    pub input: Option<Place>,
    /// None for [N, K].
    pub experts: Option<usize>,
    pub rows: usize,
    pub cols: usize,
    /// Equal runs of rows of one matrix that have a decode scale of their own: fused shards. Mostly 1.
    pub shards: usize,
}

impl Packed {
    pub fn matrices(&self) -> usize {
        self.experts.unwrap_or(1)
    }

    /// The shape of the weight that this stands for.
    pub fn shape(&self) -> Vec<usize> {
        self.experts.into_iter().chain([self.rows, self.cols]).collect()
    }

    /// Rows that share a decode scale, over all experts in the order of the decode scales.
    pub fn rows_per_scale(&self) -> usize {
        self.rows / self.shards
    }
}

/// Every NVFP4 weight, in the order of the codes. A set of tensors that claims to be one and is not is an error.
pub fn find_all(model: &Model) -> Result<Vec<Packed>> {
    candidates(model).map(|c| c.map_err(|e| format!("{}: {e}", model.path.display()))).collect()
}

/// The same, one by one: for those that go on after an error.
pub fn candidates(model: &Model) -> impl Iterator<Item = Result<Packed>> {
    model.places().filter_map(|place| candidate(model, place))
}

/// Only codes are U8 with a scale beside them; what of the set is there decides whose form it is.
fn candidate(model: &Model, place: Place) -> Option<Result<Packed>> {
    let tensor = model.tensor(place);
    if tensor.dtype != Dtype::U8 {
        return None;
    }
    let (form, name) = match tensor.name.strip_suffix("_packed") {
        Some(name) => (Form::CompressedTensors, name),
        None => (Form::Modelopt, tensor.name.as_str()),
    };
    let names = names(form, name);
    let (scales, decode) = (model.find(&names.scales), model.find(&names.decode));
    match (form, scales, decode) {
        (_, Some(scales), Some(decode)) => Some(assemble(model, form, name, place, scales, decode, &names)),
        // Other 4-bit formats have one of the two; only a name that is NVFP4's alone makes a claim.
        (Form::Modelopt, None, None) | (Form::Modelopt, Some(_), None) => None,
        (Form::CompressedTensors, None, None) => None,
        (_, None, Some(_)) => Some(Err(missing(&tensor.name, &names.scales))),
        (Form::CompressedTensors, Some(_), None) => Some(Err(missing(&tensor.name, &names.decode))),
    }
}

fn missing(codes: &str, name: &str) -> String {
    format!("tensor {} has no tensor {} beside it", shown(codes), shown(name))
}

fn assemble(
    model: &Model,
    form: Form,
    name: &str,
    codes: Place,
    scales: Place,
    decode: Place,
    names: &Names,
) -> Result<Packed> {
    let (c, s, d) = (model.tensor(codes), model.tensor(scales), model.tensor(decode));
    let wrong = |tensor: &crate::source::Tensor, needed: String| {
        let (name, dtype, shape) = (shown(&tensor.name), tensor.dtype, &tensor.shape);
        Err(format!("tensor {name} is {dtype} {shape:?}; {needed}"))
    };
    let (experts, rows, half) = match c.shape[..] {
        [rows, half] => (None, rows, half),
        [experts, rows, half] => (Some(experts), rows, half),
        _ => return wrong(c, "codes are [N, K/2] or [E, N, K/2]".into()),
    };
    if half % 8 != 0 || c.values() == 0 {
        return wrong(c, "K must be a positive multiple of 16, two codes a byte".into());
    }
    let cols = half * 2;
    let expected: Vec<usize> = experts.into_iter().chain([rows, cols / 16]).collect();
    if s.dtype != Dtype::F8_E4M3 || s.shape != expected {
        return wrong(s, format!("the codes need F8_E4M3 {expected:?}"));
    }
    let (matrices, count) = (experts.unwrap_or(1), d.values());
    let shards = count / matrices;
    if d.dtype != Dtype::F32 || shards == 0 || shards * matrices != count || rows % shards != 0 {
        let each = if experts.is_some() { " for each expert" } else { "" };
        return wrong(
            d,
            format!("it needs F32, one{each}, or one for each of equal runs of the {rows} rows"),
        );
    }
    let input = model.find(&names.input);
    if let Some(i) = input.map(|i| model.tensor(i))
        && (i.dtype != Dtype::F32 || i.values() == 0)
    {
        return wrong(i, "it must be F32 and not empty".into());
    }
    Ok(Packed { form, name: name.into(), codes, scales, decode, input, experts, rows, cols, shards })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_forms() {
        for (form, name, expected) in [
            (Form::Modelopt, "a.weight", ["a.weight", "a.weight_scale", "a.weight_scale_2", "a.input_scale"]),
            (
                Form::CompressedTensors,
                "a.weight",
                ["a.weight_packed", "a.weight_scale", "a.weight_global_scale", "a.input_global_scale"],
            ),
            (
                Form::Modelopt,
                "e.down_proj",
                [
                    "e.down_proj",
                    "e.down_proj_weight_scale",
                    "e.down_proj_weight_scale_2",
                    "e.down_proj_input_scale",
                ],
            ),
            (
                Form::CompressedTensors,
                "e.down_proj",
                [
                    "e.down_proj_packed",
                    "e.down_proj_scale",
                    "e.down_proj_global_scale",
                    "e.down_proj_input_global_scale",
                ],
            ),
            (Form::Modelopt, "weight", ["weight", "weight_scale", "weight_scale_2", "input_scale"]),
        ] {
            let n = names(form, name);
            assert_eq!(
                [n.codes, n.scales, n.decode, n.input].map(|s| s.to_string()),
                expected.map(String::from)
            );
        }
    }
}

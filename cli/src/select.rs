//! Tensors → which of them become NVFP4, and for each other one the reason why it stays as it is.

use crate::source::Tensor;
use safetensors::tensor::Dtype;

/// What stays in its precision unless `--include` names it: lookups are no products, and norms, routers and output
/// heads cost little and hurt much.
pub const DEFAULT_EXCLUDES: [&str; 12] = [
    "*embeddings*",
    "*embed_tokens*",
    "*embed.weight",
    "*wte*",
    "*wpe*",
    "*LayerNorm*",
    "*norm*",
    "*router*",
    "*.gate.weight",
    "*shared_expert_gate*",
    "*lm_head*",
    "head.weight",
];

/// How tensors of all experts of a layer ([E, ...], three dimensions) are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Experts {
    /// As config.json's model_type says, where it is known; otherwise they are kept
    Auto,
    /// They are not quantized
    Keep,
    /// [E, N, K]: each expert as a linear layer's weight
    Nk,
    /// [E, K, N]: each expert transposed, as x @ w takes it
    Kn,
}

/// Models whose experts are stored [E, K, N].
const TRANSPOSED: [&str; 4] = ["gpt_oss", "llama4", "llama4_text", "qwen3_vl_moe"];

impl Experts {
    pub fn resolve(self, model_type: Option<&str>) -> Experts {
        match self {
            Experts::Auto if model_type.is_some_and(|t| TRANSPOSED.contains(&t)) => Experts::Kn,
            Experts::Auto => Experts::Keep,
            other => other,
        }
    }
}

/// [E, N, K] of a tensor to be quantized, E = 1 for a matrix; and whether each is stored [K, N].
pub struct Matrices {
    pub experts: Option<usize>,
    pub rows: usize,
    pub cols: usize,
    pub transposed: bool,
}

impl Matrices {
    pub fn of(shape: &[usize], experts: Experts) -> Option<Matrices> {
        let transposed = experts == Experts::Kn;
        match *shape {
            [rows, cols] => Some(Matrices { experts: None, rows, cols, transposed: false }),
            [e, cols, rows] if transposed => Some(Matrices { experts: Some(e), rows, cols, transposed }),
            [e, rows, cols] if experts == Experts::Nk => {
                Some(Matrices { experts: Some(e), rows, cols, transposed })
            }
            _ => None,
        }
    }
}

pub struct Patterns<'a> {
    pub include: &'a [String],
    pub exclude: &'a [String],
}

/// `None`: quantize it. Otherwise why not.
pub fn reason_to_keep(tensor: &Tensor, patterns: &Patterns, experts: Experts) -> Option<String> {
    let fused = tensor.shape.len() == 3 && tensor.name.contains("expert") && experts != Experts::Keep;
    if tensor.shape.len() > 2 && !fused {
        let why = if tensor.name.contains("expert") { "; --experts says how experts are stored" } else { "" };
        return Some(format!("{} dimensions{why}", tensor.shape.len()));
    }
    if !(fused || tensor.name.ends_with(".weight") && tensor.shape.len() == 2) {
        return Some("not a weight matrix".into());
    }
    if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Some(format!("{} values; BF16, F16 and F32 can be quantized", tensor.dtype));
    }
    if tensor.values() == 0 {
        return Some("empty".into());
    }
    let cols = Matrices::of(&tensor.shape, experts).map_or(0, |m| m.cols);
    if !cols.is_multiple_of(16) {
        return Some(format!("K = {cols} is not a multiple of 16"));
    }
    if let Some(pattern) = patterns.exclude.iter().find(|p| names(p, &tensor.name)) {
        return Some(format!("--exclude {pattern}"));
    }
    if patterns.include.is_empty() {
        return kept_by_default(&tensor.name).map(|pattern| format!("default exclude {pattern}"));
    }
    let wanted = patterns.include.iter().any(|p| names(p, &tensor.name));
    (!wanted).then(|| "no --include names it".into())
}

fn kept_by_default(name: &str) -> Option<&'static str> {
    DEFAULT_EXCLUDES.into_iter().find(|pattern| names(pattern, name))
}

/// A pattern names a tensor, or the module that the tensor is the weight of.
fn names(pattern: &str, name: &str) -> bool {
    matches(pattern.as_bytes(), name.as_bytes())
        || name.strip_suffix(".weight").is_some_and(|module| matches(pattern.as_bytes(), module.as_bytes()))
}

/// Shell wildcards: `*` any bytes, `?` one. Linear in practice: only the last star is ever taken back.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*norm*", "model.norm.weight", true),
            ("*norm*", "model.Norm.weight", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "aaab", true),
            ("*a*b*", "bbb", false),
            ("lm_head", "lm_head.weight", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(names("lm_head", "lm_head.weight"), "a module's name stands for its weight");
    }

    /// Embeddings, routers and heads of models as their checkpoints call them; and what is beside them.
    #[test]
    fn defaults_know_models() {
        for name in [
            "model.embed_tokens.weight",
            "embed.weight",
            "backbone.embeddings.weight",
            "lm_head.weight",
            "head.weight",
            "model.layers.3.mlp.gate.weight",
            "layers.3.ffn.gate.weight",
            "backbone.layers.3.mixer.gate.weight",
            "model.layers.3.block_sparse_moe.gate.weight",
            "model.layers.3.mlp.router.weight",
            "model.layers.3.mlp.shared_expert_gate.weight",
        ] {
            assert!(kept_by_default(name).is_some(), "{name} would be quantized");
        }
        for name in [
            "model.layers.3.mlp.gate_proj.weight",
            "layers.3.ffn.experts.7.w1.weight",
            "layers.3.ffn.shared_experts.w2.weight",
            "layers.3.attn.wo_a.weight",
            "backbone.layers.3.mixer.experts.7.up_proj.weight",
            "model.layers.3.block_sparse_moe.experts.7.w3.weight",
            "model.layers.3.self_attn.indexer_head.weight",
        ] {
            assert!(kept_by_default(name).is_none(), "{name} would be kept");
        }
    }
}

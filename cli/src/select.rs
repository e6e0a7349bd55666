//! Tensors → which of them become NVFP4, and for each other one the reason why it stays as it is.

use crate::source::Tensor;
use safetensors::tensor::Dtype;

/// What stays in its precision unless `--include` names it: lookups are no products, and norms, routers and output
/// heads cost little and hurt much.
pub const DEFAULT_EXCLUDES: [&str; 10] = [
    "*embeddings*",
    "*embed_tokens*",
    "*wte*",
    "*wpe*",
    "*LayerNorm*",
    "*norm*",
    "*router*",
    "*mlp.gate.weight",
    "*block_sparse_moe.gate.weight",
    "*lm_head*",
];

pub struct Patterns<'a> {
    pub include: &'a [String],
    pub exclude: &'a [String],
}

/// `None`: quantize it. Otherwise why not.
pub fn reason_to_keep(tensor: &Tensor, patterns: &Patterns) -> Option<String> {
    if tensor.shape.len() > 2 {
        return Some(format!("{} dimensions", tensor.shape.len()));
    }
    if !tensor.name.ends_with(".weight") || tensor.shape.len() != 2 {
        return Some("not a weight matrix".into());
    }
    if !matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
        return Some(format!("{} values; BF16, F16 and F32 can be quantized", tensor.dtype));
    }
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    if rows == 0 || cols == 0 {
        return Some("empty".into());
    }
    if cols % 16 != 0 {
        return Some(format!("K = {cols} is not a multiple of 16"));
    }
    if let Some(pattern) = patterns.exclude.iter().find(|p| names(p, &tensor.name)) {
        return Some(format!("--exclude {pattern}"));
    }
    if patterns.include.is_empty() {
        let pattern = DEFAULT_EXCLUDES.iter().find(|p| names(p, &tensor.name))?;
        return Some(format!("default exclude {pattern}"));
    }
    let wanted = patterns.include.iter().any(|p| names(p, &tensor.name));
    (!wanted).then(|| "no --include names it".into())
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
}

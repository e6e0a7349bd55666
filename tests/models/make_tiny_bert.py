"""Makes tiny-bert/: a BERT of two layers with random weights, always the same bytes. For tests without a network.

    python tests/models/make_tiny_bert.py [folder]

Its weights are random, but shaped like trained ones: a few columns are far larger than the others, tails are heavier
than normal, norms are near one. Layer 0 is F32, layer 1 BF16, the embeddings F16, so that a reader meets all three.
"""
import json
import pathlib
import re
import sys

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SENTENCES = HERE.parents[1] / "examples" / "demo" / "sentences.txt"
HIDDEN, WIDE, LAYERS, HEADS, POSITIONS = 64, 256, 2, 4, 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(ml_dtypes.bfloat16): "BF16"}


def vocabulary():
    """Special tokens, every letter, then the words of the demo's sentences."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    text = "".join(line for line in SENTENCES.read_text().splitlines(True) if not line.startswith("#"))
    words = sorted(set(re.findall(r"[a-z]{2,}", text.lower())))
    return SPECIAL + list(letters) + [f"##{c}" for c in letters] + list(".,;?'%°") + words


def tokenizer(vocab):
    token = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    special = lambda name: {"id": name, "ids": [vocab.index(name)], "tokens": [name]}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, name in enumerate(SPECIAL)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [token("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, token("[SEP]")],
                           "pair": [], "special_tokens": {name: special(name) for name in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {name: i for i, name in enumerate(vocab)}},
    }


def tensors(rows):
    rng = np.random.default_rng(20240229)

    def matrix(n, k, dtype):
        w = rng.standard_normal((n, k)) * 0.8 / np.sqrt(k)
        w *= np.exp(0.3 * rng.standard_normal((n, k)))  # heavier tails
        w[:, rng.choice(k, 3, replace=False)] *= 4  # outlier columns
        return w.astype(dtype)

    def vector(mean, spread, n):
        return (mean + spread * rng.standard_normal(n)).astype(np.float32)

    all = {}

    def norm(name):
        all[f"{name}.weight"], all[f"{name}.bias"] = vector(1, 0.1, HIDDEN), vector(0, 0.05, HIDDEN)

    for name, n in (("word", rows), ("position", POSITIONS), ("token_type", 2)):
        scale = 1 if name == "word" else 0.2
        all[f"embeddings.{name}_embeddings.weight"] = (scale * rng.standard_normal((n, HIDDEN))).astype(np.float16)
    norm("embeddings.LayerNorm")
    for i, dtype in enumerate((np.float32, ml_dtypes.bfloat16)):
        layer = f"encoder.layer.{i}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                     "intermediate.dense", "output.dense"):
            n = WIDE if part == "intermediate.dense" else HIDDEN
            k = WIDE if part == "output.dense" else HIDDEN
            all[f"{layer}.{part}.weight"] = matrix(n, k, dtype)
            all[f"{layer}.{part}.bias"] = vector(0, 0.05, n)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    return all


def safetensors(all):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in all.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(t.tobytes() for t in all.values())


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocab = vocabulary()
    config = {"model_type": "bert", "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "layer_norm_eps": 1e-12, "vocab_size": len(vocab),
              "max_position_embeddings": POSITIONS, "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(vocab), ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(tensors(len(vocab))))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tiny-bert")

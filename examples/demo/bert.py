"""A BERT encoder in numpy float32 whose linear layers are somebody else's: sentences in, unit vectors out.

The tokens of all sentences stand one after another in one matrix [tokens, hidden], so that a linear layer is one
product and nothing is padded; only attention looks at the sentences one by one.
"""
import numpy as np


def erf(x):
    """Abramowitz and Stegun 7.1.26; error below 1.5e-7. Past 6 it is 1 in float32."""
    x = np.clip(x, -6, 6)
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429)))))
    return np.sign(x) * (1 - poly * np.exp(-x * x))


def gelu(x):
    return x * np.float32(0.5) * (1 + erf(x * np.float32(0.70710678)))


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(eps)) * weight + bias


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Bert:
    def __init__(self, checkpoint, config):
        self.weights, self.config = checkpoint, config

    def linear_names(self):
        """The six products of every layer, in the order of the forward pass."""
        parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                 "intermediate.dense", "output.dense")
        return [f"encoder.layer.{i}.{part}" for i in range(self.config["num_hidden_layers"]) for part in parts]

    def norm(self, x, name):
        w = self.weights
        return layer_norm(x, w.floats(f"{name}.weight"), w.floats(f"{name}.bias"), self.config["layer_norm_eps"])

    def embed(self, sentences, linear):
        """sentences: lists of token ids; linear(name, x [tokens, K]) -> x W^T + b as float32 [tokens, N]."""
        ends = np.cumsum([len(ids) for ids in sentences])
        spans = [slice(end - len(ids), end) for ids, end in zip(sentences, ends)]
        x = self.encode(np.concatenate(sentences), spans, linear)
        pooled = np.stack([x[span].mean(axis=0) for span in spans])
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def encode(self, ids, spans, linear):
        w = self.weights
        positions = np.concatenate([np.arange(s.stop - s.start) for s in spans])
        x = w.floats("embeddings.word_embeddings.weight")[ids]
        x = x + w.floats("embeddings.position_embeddings.weight")[positions]
        x = self.norm(x + w.floats("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for i in range(self.config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}"
            q, k, v = (linear(f"{layer}.attention.self.{part}", x) for part in ("query", "key", "value"))
            mixed = np.concatenate([self.attend(q[s], k[s], v[s]) for s in spans])
            x = self.norm(x + linear(f"{layer}.attention.output.dense", mixed), f"{layer}.attention.output.LayerNorm")
            wide = gelu(linear(f"{layer}.intermediate.dense", x))
            x = self.norm(x + linear(f"{layer}.output.dense", wide), f"{layer}.output.LayerNorm")
        return x

    def attend(self, q, k, v):
        heads = self.config["num_attention_heads"]
        q, k, v = (m.reshape(len(m), heads, -1).transpose(1, 0, 2) for m in (q, k, v))
        weights = softmax(q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2])))
        return (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)

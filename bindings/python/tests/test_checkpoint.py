"""Checkpoints: what the reader finds in files written byte by byte here, and what it refuses."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest

import nvfp4
from nvfp4.checkpoint import Checkpoint


def save(path, tensors, pad=0):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def packed(name, q, decode):
    middle = "" if name.endswith(".weight") else "_weight"
    return {
        name: ("U8", q.codes),
        f"{name}{middle}_scale": ("F8_E4M3", q.scales),
        f"{name}{middle}_scale_2": ("F32", decode),
    }


@pytest.mark.parametrize("pad", [0, 1, 7])
def test_weights_come_back_and_are_prepared(cpu, rng, tmp_path, pad) -> None:
    w = rng.standard_normal((48, 64)).astype(np.float32)
    q = nvfp4.quantize(cpu, w)
    tensors = packed("a.weight", q, q.decode_scales.reshape(())) | {"a.input_scale": ("F32", np.array(0.5, np.float32))}
    bias = rng.standard_normal(48).astype(np.float32)
    checkpoint = Checkpoint(save(tmp_path / "m.safetensors", tensors | {"a.bias": ("F32", bias)}, pad))
    assert checkpoint.weights() == ["a.weight"] and len(checkpoint) == 5 and checkpoint.metadata == {"format": "pt"}
    found = checkpoint.weight("a.weight")
    assert (found.codes == q.codes).all() and (found.scales == q.scales).all() and found.decode_scales == q.decode_scales
    assert checkpoint.input_scale("a.weight") == 0.5 and (checkpoint["a.bias"] == bias).all()
    weights = nvfp4.Weights.prepare(cpu, codes=found.codes, scales=found.scales, decode_scales=found.decode_scales)
    assert (weights.export().codes[0] == q.codes).all()


def test_directory_of_shards_and_experts(cpu, rng, tmp_path) -> None:
    q = nvfp4.quantize(cpu, rng.standard_normal((2, 16, 32)).astype(np.float32), groups=nvfp4.Groups.strided(2, 16), scope=nvfp4.Scope.GROUP)
    tensors = packed("e.gate_up_proj", q, q.decode_scales)
    names = list(tensors)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save(tmp_path / file, {name: tensors[name] for name in names if files[name] == file})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    found = Checkpoint(tmp_path).weight("e.gate_up_proj")
    assert found.scope == nvfp4.Scope.GROUP and (found.codes == q.codes).all() and (found.decode_scales == q.decode_scales).all()


def test_what_is_refused(tmp_path) -> None:
    plain = save(tmp_path / "p.safetensors", {"a.weight": ("F32", np.ones((2, 16), np.float32))})
    with pytest.raises(nvfp4.InvalidArgumentError, match="there is no tensor a.weight_scale"):
        Checkpoint(plain).weight("a.weight")
    for name, content, part in [
        ("short", b"123", "8 of length"), ("long", struct.pack("<Q", 99) + b"{}", "claims a header of 99"),
        ("text", struct.pack("<Q", 2) + b"[]", "no header"), ("none", struct.pack("<Q", 7) + b'{"a":1}', "no header"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(nvfp4.InvalidArgumentError, match=part):
            Checkpoint(tmp_path / name)
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}).encode()
    (tmp_path / "far").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(nvfp4.InvalidArgumentError, match="does not fit"):
        Checkpoint(tmp_path / "far")["a"]
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../p.safetensors"}}')
    with pytest.raises(nvfp4.InvalidArgumentError, match="outside"):
        Checkpoint(tmp_path)


WORDS = [b"null", b"-1", b"1e999", b"18446744073709551616", b"0.5", b"[]", b"{}", b'""', b'"F32"', b'"U8"', b"[[[[", b"true", b'"\\u0000"']


def mutated(text: bytes, rng) -> bytes:
    out = bytearray(text)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(max(len(out), 1)))
        kind = int(rng.integers(5))
        if kind == 0 and out:
            out[at] = int(rng.integers(256))
        elif kind == 1:
            del out[at : at + int(rng.integers(40))]
        elif kind == 2:
            out[at:at] = WORDS[int(rng.integers(len(WORDS)))]
        elif kind == 3:
            out[at:at] = out[at : at + int(rng.integers(60))]
        elif (colon := out.find(b":", at)) >= 0:
            end = min((e for e in (out.find(c, colon) for c in (b",", b"}")) if e >= 0), default=len(out))
            out[colon + 1 : end] = WORDS[int(rng.integers(len(WORDS)))]
    return bytes(out)


def test_mutated_headers_and_indices(rng, tmp_path) -> None:
    """Read, or refused in words; nothing else."""
    q = {"a.weight": ("U8", np.zeros((2, 8), np.uint8)), "a.weight_scale": ("F8_E4M3", np.zeros((2, 1), np.uint8)),
         "a.weight_scale_2": ("F32", np.ones((), np.float32)), "b": ("F16", np.ones((3, 2), np.float16))}
    whole = save(tmp_path / "m.safetensors", q).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": {"a.weight": "s.safetensors", "b": "s.safetensors"}}).encode()
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "s.safetensors").write_bytes(whole)
    counts = {True: 0, False: 0}
    for i in range(3000):
        try:
            if i % 4:
                header = mutated(whole[8 : 8 + length], rng)
                (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :])
                checkpoint = Checkpoint(tmp_path / "x")
            else:
                (folder / "model.safetensors.index.json").write_bytes(mutated(index, rng))
                checkpoint = Checkpoint(folder)
            for name in checkpoint.weights():
                checkpoint.weight(name)
            for name in checkpoint:
                checkpoint[name]
            counts[True] += 1
        except (nvfp4.InvalidArgumentError, OSError) as error:
            assert str(error)
            counts[False] += 1
    assert counts[False] > 1500 and counts[True] > 30, counts


def test_the_package_does_not_need_numpy_for_it() -> None:
    import subprocess

    code = "import sys; sys.modules['numpy'] = None; sys.modules['torch'] = None; import nvfp4"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0

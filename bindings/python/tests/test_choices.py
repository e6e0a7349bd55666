"""prepare_for, tune and the file of choices; on the CPU there is nothing to load and nothing to choose."""

from __future__ import annotations

import numpy as np
import pytest

import nvfp4


@pytest.fixture
def cpu():
    with nvfp4.Context(threads=1) as context:
        yield context


def test_a_call_is_prepared_and_not_made(cpu) -> None:
    x = np.ones((4, 64), np.float32)
    codes = np.full((4, 32), 0xA5, np.uint8)
    nvfp4.prepare_for(nvfp4.quantize, cpu, x, codes=codes)
    assert (codes == 0xA5).all()
    nvfp4.quantize(cpu, x, codes=codes)
    assert not (codes == 0xA5).any()
    q = nvfp4.quantize(cpu, x)
    nvfp4.prepare_for(nvfp4.dequantize, cpu, q)


def test_layers_are_prepared_and_tuned(cpu) -> None:
    rng = np.random.default_rng(3)
    x, logits = rng.standard_normal((3, 32)).astype(np.float16), np.zeros((3, 2), np.float32)
    linear = nvfp4.Linear.from_values(cpu, rng.standard_normal((16, 32)).astype(np.float32), quantize=True)
    moe = nvfp4.MoE.from_values(cpu, np.ones((2, 64, 32), np.float32), np.ones((2, 16, 32), np.float32), 1)
    grouped = nvfp4.GroupedLinear.from_values(cpu, np.ones((2, 16, 32), np.float32))
    out = np.full((3, 16), 7, np.float16)
    for layer, *args in ((linear, x), (moe, x, logits)):
        nvfp4.prepare_for(layer, *args, out=out)
        assert nvfp4.tune(layer, *args, out=out).candidates == 0
    nvfp4.prepare_for(grouped, np.ones((3, 2, 32), np.float16))
    nvfp4.prepare_for(nvfp4.moe_route, cpu, logits, 1)
    nvfp4.prepare_for(nvfp4.moe_permute, cpu, np.zeros((3, 1), np.int32), 2, x)
    assert (out == 7).all()
    with pytest.raises(nvfp4.InvalidArgumentError, match="args.operation"):
        nvfp4.tune(nvfp4.moe_route, cpu, logits, 1)


def test_what_the_call_would_refuse_is_refused(cpu) -> None:
    x = np.ones((4, 64), np.float32)
    with pytest.raises(nvfp4.InvalidArgumentError, match="scale_rule"):
        nvfp4.prepare_for(nvfp4.quantize, cpu, x, scale_rule=9)
    # And the next call is made again.
    assert nvfp4.quantize(cpu, x).codes.shape == (4, 32)
    with pytest.raises(nvfp4.InvalidArgumentError, match="made no call"):
        nvfp4.prepare_for(nvfp4.version)


def test_tuning_has_nothing_to_choose_on_the_cpu(cpu, tmp_path) -> None:
    values = np.ones((1, 32, 64), np.float32)
    weights = nvfp4.Weights.prepare(cpu, values)
    a = np.ones((2, 64), np.float16)
    out = np.full((2, 32), 7, np.float32)
    tuned = nvfp4.tune(nvfp4.gemm, cpu, a, weights, out=out, repeats=3)
    assert tuned.candidates == 0 and tuned.kernel == ""
    assert (out == 7).all()
    assert cpu.load_tuning(tmp_path / "missing") == 0
    assert cpu.load_tuning(None) == 0
    with pytest.raises(nvfp4.UnsupportedError, match="CPU"):
        cpu.save_tuning(tmp_path / "tuning.txt")
    with pytest.raises(nvfp4.InvalidArgumentError, match="args.repeats"):
        nvfp4.tune(nvfp4.gemm, cpu, a, weights, repeats=10001)
    with pytest.raises(nvfp4.InvalidArgumentError, match="args.operation"):
        nvfp4.tune(nvfp4.quantize, cpu, np.ones((4, 64), np.float32))
    with pytest.raises(nvfp4.InvalidArgumentError, match="path"):
        cpu.load_tuning("")
    weights.close()


def test_dependent_launch_changes_no_bits(cpu) -> None:
    weights = nvfp4.Weights.prepare(cpu, np.random.default_rng(1).standard_normal((1, 32, 64)).astype(np.float32))
    a = np.random.default_rng(2).standard_normal((5, 64)).astype(np.float16)
    plain = nvfp4.gemm(cpu, a, weights)
    early = nvfp4.gemm(cpu, a, weights, flags=nvfp4.GemmFlags.DEPENDENT_LAUNCH)
    assert plain.tobytes() == early.tobytes()
    weights.close()

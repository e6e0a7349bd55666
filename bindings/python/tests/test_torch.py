"""torch operators: opcheck, torch.compile without graph breaks, CUDA graphs, and the bits of the plain calls."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: its operators are not tested")
pytestmark = pytest.mark.filterwarnings("default")

import nvfp4  # noqa: E402
import nvfp4.torch as nv  # noqa: E402

RULES, SCOPES = list(nv.ScaleRule), [nv.Scope.TENSOR, nv.Scope.ROW]
EPS = 1e-6


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        info = nvfp4.backend_query(nvfp4.Backend.CUDA)
        if not info.available:
            pytest.skip(f"no CUDA context: {info.name}")
    nv.warm_up(request.param)
    return request.param


def values(device, *shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)


def bits(x):
    x = x.detach().cpu().contiguous()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def same(a, b):
    for x, y in zip(a[:3], b[:3]):
        np.testing.assert_array_equal(bits(x), bits(y))


def cases(device):
    """(operator, arguments): each operator, each kind of output."""
    ops = torch.ops.nvfp4
    x, w = values(device, 6, 64), values(device, 64, seed=1)
    static = torch.full((1,), 0.01, device=device)
    weights = nv.Weights(values(device, 48, 64, seed=2))
    experts = nv.Weights(values(device, 3, 32, 64, seed=3), gate_up=True)
    ends = torch.tensor([2, 2, 5], dtype=torch.int32, device=device)
    q = nv.quantize(x, scope=nv.Scope.ROW)
    plain = (weights.number, 48, None, 0, 0.0, 0.0, 0.0, 0, torch.bfloat16)
    swiglu = (experts.number, 16, None, 1, 7.0, 0.0, 0.0, 0, torch.bfloat16)
    for layout in nv.ScaleLayout:
        for scope in SCOPES:
            yield ops.quantize, (x, 0, int(scope), int(layout), None)
    yield ops.quantize, (x.reshape(2, 3, 64), 2, 0, 0, static)
    yield ops.dequantize, (q.codes, q.scales, q.decode_scales, 0, int(nv.Scope.ROW), torch.bfloat16)
    yield ops.rmsnorm_quantize, (x, w, EPS, 0.0, 0, 2, 0, None)
    yield ops.add_rmsnorm_quantize, (x, values(device, 6, 64, seed=4), w, EPS, 1.0, 1, 2, 1, None)
    yield ops.swiglu_quantize, (x, 1, 7.0, 0.0, 0.0, 0, 2, 0, None)
    yield ops.swiglu_quantize, (x, 2, 0.0, 0.0, 0.0, 0, 0, 0, static)
    row = int(nv.Scope.ROW)
    several = nv.Weights(values(device, 3, 32, 64, seed=5))
    yield ops.linear, (x, True, 2, row, None, *plain)
    yield ops.linear, (x.reshape(2, 3, 64), True, 0, 0, static, *plain)
    yield ops.linear, (x, False, 0, 0, None, *plain)
    strided = values(device, 5, 3, 64, seed=6)
    wide = (several.number, 32, values(device, 3, 32, seed=7), 0, 0.0, 0.0, 0.0, 0, torch.float32)
    yield ops.grouped_linear, (strided, True, 0, row, None, *wide)
    yield ops.grouped_linear, (strided, False, 0, 0, None, *wide)
    logits, bias = values(device, 6, 8, dtype=torch.float32), values(device, 8, dtype=torch.float32)
    yield ops.moe_route, (logits, 2, 1, True, bias, 4, 2, 2.5)
    yield ops.moe_route, (logits.half(), 3, 0, False, None, 0, 0, 1.0)
    yield ops.gemm, (x, None, *plain)
    yield ops.gemm, (x, ends, *swiglu)
    yield ops.gemm_quantized, (q.codes, q.scales, q.decode_scales, 0, int(nv.Scope.ROW), None, *plain)
    yield ops.gemm_quantized, (q.codes, q.scales, q.decode_scales, 0, int(nv.Scope.ROW), ends, *swiglu)
    cases.keep = weights, experts, several


def test_opcheck(device) -> None:
    for op, arguments in cases(device):
        torch.library.opcheck(op, arguments)


def test_bits_of_the_plain_calls(device) -> None:
    """Against numpy on the CPU: the operators add nothing of their own, and the GPU has the CPU's bits."""
    with nvfp4.Context() as cpu:
        x, w = values("cpu", 40, 96), values("cpu", 96, seed=1)
        for rule in RULES:
            for scope in SCOPES:
                want = nvfp4.quantize(cpu, x, scale_rule=rule, scope=scope)
                got = nv.quantize(x.to(device), scale_rule=rule, scope=scope)
                same(got, (want.codes, want.scales, want.decode_scales))
                back = nv.dequantize(got, torch.float32)
                np.testing.assert_array_equal(bits(back), nvfp4.dequantize(cpu, want).numpy())
        want = nvfp4.rmsnorm_quantize(cpu, x, w, EPS, scope=nvfp4.Scope.ROW)
        same(nv.rmsnorm_quantize(x.to(device), w.to(device), EPS, scope=nv.Scope.ROW), (want.codes, want.scales, want.decode_scales))
        residual, mine = values("cpu", 40, 96, seed=2), values(device, 40, 96, seed=2)
        want = nvfp4.rmsnorm_quantize(cpu, x, w, EPS, residual=residual)
        same(nv.add_rmsnorm_quantize(x.to(device), mine, w.to(device), EPS), (want.codes, want.scales, want.decode_scales))
        np.testing.assert_array_equal(bits(mine), bits(residual))
        want = nvfp4.swiglu_quantize(cpu, x[:, :64], limit=7.0)
        same(nv.swiglu_quantize(x[:, :64].to(device), limit=7.0), (want.codes, want.scales, want.decode_scales))


def test_products_are_near(device) -> None:
    x, w = values(device, 33, 256), values(device, 80, 256, seed=5)
    weights = nv.Weights(w)
    exact = x.double() @ nv.dequantize(nv.quantize(w)).double().T
    got = nv.gemm(x, weights, dtype=torch.float32).double()
    assert ((got - exact).norm() / exact.norm()).item() < 1e-3
    q = nv.quantize(x, scope=nv.Scope.ROW)
    exact = nv.dequantize(q).double() @ nv.dequantize(nv.quantize(w)).double().T
    assert ((nv.gemm(q, weights, dtype=torch.float32).double() - exact).norm() / exact.norm()).item() < 1e-3
    ends = torch.tensor([33], dtype=torch.int32, device=device)
    assert torch.equal(weights(x), nv.grouped_gemm(x, ends, weights)) or device == "cuda"


def test_layers(device) -> None:
    """The bits of their parts, in a compiled graph too."""
    x, w = values(device, 3, 4, 64), nv.Weights(values(device, 48, 64, seed=5))
    q = nv.quantize(x, scope=nv.Scope.ROW)
    assert torch.equal(nv.linear(x, w, quantize=True), nv.gemm(q, w))
    rows, several = values(device, 7, 3, 64), nv.Weights(values(device, 3, 32, 64, seed=5))
    got = nv.grouped_linear(rows, several, quantize=True, dtype=torch.float32)
    for g in range(3):
        one = nv.linear(rows[:, g], nv.Weights(values(device, 3, 32, 64, seed=5)[g]), quantize=True, dtype=torch.float32)
        torch.testing.assert_close(got[:, g], one, rtol=1e-5, atol=1e-5)
    logits = values(device, 12, 4, dtype=torch.float32)
    router = nv.Router(nvfp4.MoeScore.SIGMOID, renormalise=True)
    up, down = nv.Weights(values(device, 4, 96, 64, seed=1), gate_up=True), nv.Weights(values(device, 4, 64, 48, seed=2))

    def block(x, logits):
        y = nv.linear(x, w, quantize=True, activation=nv.Activation.RELU2)
        return nv.moe_forward(x.flatten(0, 1), *nv.moe_route(logits, 2, router), up, down), y * 2

    for mine, plain in zip(torch.compile(block, fullgraph=True, backend="aot_eager")(x, logits), block(x, logits)):
        assert torch.equal(mine, plain)


def test_moe_forward(device) -> None:
    """opcheck, a compiled graph, and the bits of the plain call."""
    hidden, w1, w2 = values(device, 9, 64), values(device, 4, 96, 64, seed=1) * 0.2, values(device, 4, 64, 48, seed=2) * 0.2
    ids = torch.randint(0, 4, (9, 2), generator=torch.Generator().manual_seed(3)).to(device, torch.int32)
    weights = torch.rand(9, 2, generator=torch.Generator().manual_seed(4)).to(device)
    up, down = nv.Weights(w1, gate_up=True), nv.Weights(w2)
    biases = {"bias1": values(device, 4, 96, seed=5), "bias2": values(device, 4, 64, seed=6)}
    eager = nv.moe_forward(hidden, ids, weights, up, down, **biases)
    assert not torch.equal(eager, nv.moe_forward(hidden, ids, weights, up, down))
    for quantize in (False, True):
        bias = biases.values() if quantize else (None, None)
        rest = (up.number, down.number, 64, *bias, 1, 0.0, 0.0, 0.0, 0, quantize, 1 if quantize else 0, 0, 0, hidden, 0.5, torch.bfloat16)
        torch.library.opcheck(torch.ops.nvfp4.moe_forward, (hidden, ids, weights, *rest))

    def layer(x):
        return nv.moe_forward(x, ids, weights, up, down, **biases) + 1

    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden), eager + 1)
    if device == "cpu":
        with nvfp4.Context() as cpu:
            plain = [nvfp4.Weights.prepare(cpu, w1, gate_up=True), nvfp4.Weights.prepare(cpu, w2)]
            assert torch.equal(nvfp4.moe_forward(cpu, hidden, *plain, topk_ids=ids, topk_weights=weights, **biases), eager)


class Layer(torch.nn.Module):
    """Norm, product, SwiGLU, product: everything between is NVFP4."""

    def __init__(self, device):
        super().__init__()
        self.norm = torch.nn.Parameter(values(device, 128, seed=1), requires_grad=False)
        self.up = nv.Weights(values(device, 192, 128, seed=2))
        self.down = nv.Weights(values(device, 128, 96, seed=3))

    def forward(self, x):
        q = nv.rmsnorm_quantize(x, self.norm, EPS, scope=nv.Scope.ROW)
        h = nv.swiglu_quantize(nv.gemm(q, self.up), limit=10.0, scope=nv.Scope.ROW)
        return x + nv.gemm(h, self.down) * 0.5


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(device, backend) -> None:
    if backend == "inductor" and device == "cpu":
        pytest.skip("inductor compiles C++ for a minute here; on a GPU it is Triton's")
    layer, x = Layer(device), values(device, 8, 128)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert torch.allclose(compiled(x), layer(x), rtol=1e-2, atol=1e-2)
        # Another number of rows: the shapes are symbols by now.
        x = values(device, 24, 128, seed=9)
        assert torch.allclose(compiled(x), layer(x), rtol=1e-2, atol=1e-2)


def test_cuda_graph(device) -> None:
    if device != "cuda":
        pytest.skip("CUDA graphs are a GPU's")
    layer, x = Layer(device), values(device, 16, 128)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        for seed in range(3):
            x.copy_(values(device, 16, 128, seed=seed))
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(y, layer(x))


def test_cuda_graph_of_layers(device) -> None:
    """Linear layers, a router and its experts: one capture, and the bits of the eager calls on other values."""
    if device != "cuda":
        pytest.skip("CUDA graphs are a GPU's")
    dense, several = nv.Weights(values(device, 48, 64, seed=1)), nv.Weights(values(device, 2, 32, 64, seed=2))
    up, down = nv.Weights(values(device, 4, 96, 64, seed=3) * 0.2, gate_up=True), nv.Weights(values(device, 4, 64, 48, seed=4) * 0.2)
    x, logits = values(device, 16, 64), values(device, 16, 4, seed=5, dtype=torch.float32)

    def block():
        routes = nv.moe_route(logits, 2)
        made = [nv.linear(x, dense, quantize=quantize) for quantize in (False, True)]
        made += [nv.grouped_linear(x.view(8, 2, 64), several, quantize=quantize) for quantize in (False, True)]
        return made + [nv.moe_forward(x, *routes, up, down, quantize=quantize) for quantize in (False, True)]

    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            block()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = block()
        for seed in range(3):
            x.copy_(values(device, 16, 64, seed=seed + 6))
            logits.copy_(values(device, 16, 4, seed=seed + 9, dtype=torch.float32))
            graph.replay()
            torch.cuda.synchronize()
            for mine, eager in zip(captured, block()):
                assert torch.equal(mine, eager)


def test_weights_of_fused_shards(device) -> None:
    """One decode scale a row, as shards of their own have: kept where they agree, refused or quantized again where not."""
    q, x = nv.quantize(values(device, 32, 64, seed=1)), values(device, 4, 64)
    one = {"codes": q.codes, "scales": q.scales, "decode_scope": nv.WeightsScope.ROW}
    rows = q.decode_scales.expand(32).contiguous()
    assert torch.equal(nv.Weights(**one, decode_scales=rows)(x), nv.Weights(**one | {"decode_scope": 1}, decode_scales=q.decode_scales)(x))
    rows[16:] *= 0.25
    with pytest.raises(nvfp4.InvalidArgumentError, match="group 0, row 16"):
        nv.Weights(**one, decode_scales=rows)
    exact = x.double() @ (nv.dequantize(q).double() * torch.where(torch.arange(32, device=device) < 16, 1, 0.25)[:, None]).T
    got = nv.Weights(**one, decode_scales=rows, requantize=True)(x).double()
    assert ((got - exact).norm() / exact.norm()).item() < 0.1


def test_weights_live_as_long_as_their_module(device) -> None:
    x, weights = values(device, 4, 64), nv.Weights(values(device, 32, 64, seed=1))
    y = weights(x)
    assert torch.equal(copy.deepcopy(weights)(x), y) and not weights.state_dict()
    number = weights.number
    del weights
    gc.collect()
    with pytest.raises(nvfp4.InvalidArgumentError, match=f"weights {number} are gone"):
        torch.ops.nvfp4.gemm(x, None, number, 32, None, 0, 0.0, 0.0, 0.0, 0, torch.bfloat16)
    with pytest.raises(nvfp4.InvalidArgumentError, match="63"):
        nv.quantize(values(device, 4, 63))


def test_the_package_does_not_need_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import nvfp4; assert 'nvfp4.torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0

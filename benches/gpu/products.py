"""Grouped products on the shapes of real models beside torch's bfloat16 products."""

import nvfp4
import torch
from nvfp4 import Activation, Groups

TOKENS = (1, 4, 16, 32, 64, 128, 512, 1024)
#: name, groups, K, N, kind: grouped (ends), batched (every token to every group), dense
SHAPES = [
    ("DeepSeek-V4-Pro L1", 48, 7168, 6144, "grouped"),
    ("DeepSeek-V4-Pro L2", 48, 3072, 7168, "grouped"),
    ("DeepSeek-V4-Flash L1", 32, 4096, 4096, "grouped"),
    ("DeepSeek-V4-Flash L2", 32, 2048, 4096, "grouped"),
    ("DeepSeek-V3 L1", 32, 7168, 4096, "grouped"),
    ("DeepSeek-V3 L2", 32, 2048, 7168, "grouped"),
    ("Qwen3-235B L1", 64, 4096, 3072, "grouped"),
    ("Qwen3-235B L2", 64, 1536, 4096, "grouped"),
    ("Qwen3-30B L1", 128, 2048, 1536, "grouped"),
    ("Qwen3-30B L2", 128, 768, 2048, "grouped"),
    ("Nemotron-3 Nano L1", 128, 2688, 1856, "grouped"),
    ("Nemotron-3 Nano L2", 128, 1856, 2688, "grouped"),
    ("gpt-oss-20b L1", 32, 2880, 5760, "grouped"),
    ("gpt-oss-20b L2", 32, 2880, 2880, "grouped"),
    ("output projection 4096 to 1024", 8, 4096, 1024, "batched"),
    ("output projection 8192 to 1536", 8, 8192, 1536, "batched"),
    ("dense", 1, 8192, 8192, "dense"),
]


class Problem:
    def __init__(self, bench, groups, k, n, kind):
        self.bench, self.groups, self.k, self.n, self.kind = bench, groups, k, n, kind
        copies = bench.timer.copies(groups * n * k * 9 // 16, most=6)
        self.values, self.prepared = [], []
        for _ in range(copies):
            values = torch.randn(groups, n, k, device="cuda", dtype=torch.bfloat16)
            self.prepared.append(nvfp4.Weights.prepare(bench.context, values, stream=bench.stream))
            # One set of bfloat16 weights is beyond the cache by itself where the codes nearly are.
            if len(self.values) * values.numel() * 2 < 3 * bench.timer.l2 or not self.values:
                self.values.append(values)
        torch.cuda.synchronize()

    def run(self, tokens):
        bench, kind = self.bench, self.kind
        rows = tokens * (self.groups if kind == "grouped" else 1)
        a = torch.randn(rows, self.k, device="cuda", dtype=torch.bfloat16)
        batched = kind == "batched"
        shape = (self.groups, rows, self.n) if batched else (rows, self.n)
        out, theirs = (torch.empty(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        split = None
        if kind == "grouped":
            ends = torch.arange(1, self.groups + 1, device="cuda", dtype=torch.int32) * tokens
            split = Groups.by_ends(ends)
        elif batched:
            split = Groups.strided(self.groups, rows)
        product = lambda w: nvfp4.grouped_gemm(bench.context, a, w, groups=split, out=out, stream=bench.stream, workspace=bench.workspace)
        if kind == "dense":
            product = lambda w: nvfp4.gemm(bench.context, a, w, out=out, stream=bench.stream, workspace=bench.workspace)
        ours = bench.timer.us([lambda w=w: product(w) for w in self.prepared], replays=5)
        peer = self.peer(a, theirs, ends if kind == "grouped" else None)
        return ours, peer, 2.0 * rows * self.k * self.n * (self.groups if batched else 1)

    def peer(self, a, out, ends):
        if self.kind == "dense":
            calls = [lambda v=v: torch.matmul(a, v[0].t(), out=out) for v in self.values]
        elif self.kind == "batched":
            wide = a.unsqueeze(0).expand(self.groups, -1, -1)
            calls = [lambda v=v: torch.bmm(wide, v.transpose(1, 2), out=out) for v in self.values]
        elif hasattr(torch, "_grouped_mm"):
            calls = [lambda v=v: torch._grouped_mm(a, v.transpose(1, 2), offs=ends) for v in self.values]
        else:
            return None
        try:
            return self.bench.timer.us(calls, replays=5)
        except RuntimeError as problem:
            self.bench.absent(f"torch's {self.kind} product: {str(problem).splitlines()[0]}")
            return None


PEERS = {"grouped": "torch._grouped_mm bf16", "batched": "torch.bmm bf16", "dense": "torch.matmul bf16"}


def products(bench, quick):
    for name, groups, k, n, kind in SHAPES[:1] + SHAPES[8:9] + SHAPES[-1:] if quick else SHAPES:
        if bench.over():
            bench.absent(f"{name}: the time is up")
            continue
        problem = Problem(bench, groups, k, n, kind)
        for tokens in TOKENS[::3] if quick else TOKENS:
            ours, peer, flops = problem.run(tokens)
            bytes_read = groups * n * k * 9 / 16
            bench.entry(
                f"{name}, {groups} x {k} to {n}, {tokens} tokens a group", "us", ours, below=True,
                bar=peer, reference=PEERS[kind], reference_value=peer, shape=name, tokens=tokens,
                weights_tb_s=round(bytes_read / ours / 1e6, 3), tflops=round(flops / ours / 1e6, 1),
            )
        del problem
        torch.cuda.empty_cache()


def fused(bench):
    """SwiGLU in the epilogue beside the plain product and its own kernel."""
    groups, k, n, tokens = 32, 4096, 4096, 64
    values = torch.randn(groups, n, k, device="cuda", dtype=torch.bfloat16)
    plain = nvfp4.Weights.prepare(bench.context, values, stream=bench.stream)
    gated = nvfp4.Weights.prepare(bench.context, values, gate_up=True, stream=bench.stream)
    ends = torch.arange(1, groups + 1, device="cuda", dtype=torch.int32) * tokens
    split = Groups.by_ends(ends)
    rows = groups * tokens
    a = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16) / 64  # nothing saturates
    wide, half = (torch.empty(rows, c, device="cuda", dtype=torch.bfloat16) for c in (n, n // 2))
    codes, scales = torch.empty(rows, n // 4, device="cuda", dtype=torch.uint8), torch.empty(rows, n // 32, device="cuda", dtype=torch.uint8)
    fixed = torch.full((1,), 0.05, device="cuda")
    to = {"codes": codes, "scales": scales, "static_decode_scales": fixed, "scope": nvfp4.Scope.TENSOR}
    call = lambda w, **more: nvfp4.grouped_gemm(bench.context, a, w, groups=split, stream=bench.stream, workspace=bench.workspace, **more)
    plain_us = bench.timer.us([lambda: call(plain, out=wide)])
    gated_us = bench.timer.us([lambda: call(gated, out=half, activation=Activation.SWIGLU)])
    bench.entry("product with SwiGLU, 32 x 4096 to 4096, 64 tokens a group", "us", gated_us, below=True, bar=1.02 * plain_us,
                reference="the plain product x 1.02", reference_value=1.02 * plain_us)
    whole = bench.timer.us([lambda: call(gated, out_dtype=nvfp4.DType.NVFP4, activation=Activation.SWIGLU, **to)])

    def parts():
        call(plain, out=wide)
        nvfp4.swiglu_quantize(bench.context, wide, activation=Activation.SWIGLU, stream=bench.stream, **to)

    bench.parts("product + SwiGLU + quantize static", whole, bench.timer.us([parts]))

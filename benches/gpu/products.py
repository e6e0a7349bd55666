"""Grouped products on the shapes of real models, beside a launch that reads the same bytes, cuBLAS, and torch's products."""

import pathlib
import tempfile
import time

import nvfp4
import table
import torch
from nvfp4 import Activation, GemmFlags, Groups, Scope

PEER = {"grouped": "torch._grouped_mm bf16", "batched": "torch.bmm bf16", "dense": "torch.matmul bf16"}
#: Bytes a second, about: tells products that stream weights from those that multiply.
READ_RATE = 4.6e12
#: Microseconds of a turn of a comparison: short for a sweep, long where the card's power settles the answer.
SHORT, LONG = 2000.0, 8000.0


class Split:
    """Rows of each group, in as many variants as are rotated: lists of counts. `rows`: of the arrays, where some belong to none."""

    def __init__(self, kind, groups, variants, rows=None):
        self.kind = kind
        self.rows = rows or sum(variants[0])
        self.active = sum(sum(count > 0 for count in counts) for counts in variants) / len(variants)
        self.ends = [torch.tensor(counts, device="cuda", dtype=torch.int32).cumsum(0, dtype=torch.int32) for counts in variants]
        self.groups = [None] if kind == "dense" else [Groups.strided(groups, self.rows)] if kind == "batched" else [Groups.by_ends(e) for e in self.ends]


def even(shape, tokens):
    """As many tokens a group; batched and dense products have one set of them."""
    return Split(shape.kind, shape.groups, [[tokens] * (shape.groups if shape.kind == "grouped" else 1)])


def routed(shape, tokens, variants):
    """M tokens, each to top-k distinct experts by chance."""
    chosen = [torch.rand(tokens, shape.groups, device="cuda").topk(shape.topk).indices.flatten() for _ in range(variants)]
    return Split("grouped", shape.groups, [torch.bincount(ids, minlength=shape.groups).tolist() for ids in chosen])


def hot(shape, rows):
    """Half of all rows with one group, the others even."""
    rest, other = rows - rows // 2, shape.groups - 1
    cold = [rest // other + (i < rest % other) for i in range(other)]
    return Split("grouped", shape.groups, [cold[: other // 2] + [rows // 2] + cold[other // 2 :]])


class Problem:
    """Weights of a shape, in as many sets as leave the cache, and theirs for the peers."""

    def __init__(self, bench, shape, peers=True):
        self.bench, self.shape = bench, shape
        self.bytes = shape.groups * shape.group_bytes
        self.values, self.plain, self.eights = [], [], []
        for _ in range(bench.timer.copies(self.bytes, most=6)):
            values = torch.randn(shape.groups, shape.n, shape.k, device="cuda", dtype=torch.bfloat16)
            torch.cuda.synchronize()
            self.plain.append(nvfp4.Weights.prepare(bench.context, values, stream=bench.stream))
            # One set of bfloat16 weights is beyond the cache by itself where the codes nearly are.
            if peers and len(self.values) * values.numel() * 2 < 3 * bench.timer.l2:
                self.values.append(values)
        torch.cuda.synchronize()

    def gated(self):
        """The same weights for SwiGLU."""
        prepare = nvfp4.Weights.prepare
        return [prepare(self.bench.context, self.values[i % len(self.values)], gate_up=True, stream=self.bench.stream) for i in range(len(self.plain))]

    def eight(self):
        """Theirs in eight bits."""
        if not self.eights:
            self.eights = [values.to(torch.float8_e4m3fn) for values in self.values]
        return self.eights

    def operands(self, split):
        """Activations, and an output."""
        a = torch.randn(split.rows, self.shape.k, device="cuda", dtype=torch.bfloat16)
        shape = (self.shape.groups, split.rows, self.shape.n) if split.kind == "batched" else (split.rows, self.shape.n)
        torch.cuda.synchronize()
        return a, torch.empty(shape, device="cuda", dtype=torch.bfloat16)

    def calls(self, a, split, out, weights=None, **more):
        """The library's product, over sets of weights and splits."""
        bench, weights = self.bench, weights or self.plain
        common = {"out": out, "stream": bench.stream, "workspace": bench.workspace, **more}
        count = max(len(weights), len(split.groups))

        def call(i):
            groups = split.groups[i % len(split.groups)]
            if groups is None:
                return nvfp4.gemm(bench.context, a, weights[i % len(weights)], **common)
            return nvfp4.grouped_gemm(bench.context, a, weights[i % len(weights)], groups=groups, **common)

        return [lambda i=i: call(i) for i in range(count)]

    def run(self, *given, **more):
        return self.bench.timer.capture(self.calls(*given, **more))

    def peer(self, a, split, out):
        """torch's product of bfloat16 weights; None where it has none."""
        values, count = self.values, max(len(self.values), len(split.ends))
        pairs = [(values[i % len(values)], split.ends[i % len(split.ends)]) for i in range(count)]
        if split.kind == "dense":
            calls = [lambda v=v: torch.matmul(a, v[0].t(), out=out) for v, _ in pairs]
        elif split.kind == "batched":
            wide = a.unsqueeze(0).expand(self.shape.groups, -1, -1)
            calls = [lambda v=v: torch.bmm(wide, v.transpose(1, 2), out=out) for v, _ in pairs]
        else:
            calls = [lambda v=v, e=e: torch._grouped_mm(a, v.transpose(1, 2), offs=e) for v, e in pairs]
        return self._captured(PEER[split.kind], calls)

    def peer_eight(self, a, split):
        """torch's product of E4M3 weights and activations with a scale a row; None where it has none."""
        if split.kind == "batched":
            return None
        a, ones = a.to(torch.float8_e4m3fn), torch.ones(self.shape.groups, self.shape.n, device="cuda")
        rows, values = torch.ones(split.rows, device="cuda"), self.eight()
        count, told = max(len(values), len(split.ends)), {"out_dtype": torch.bfloat16, "use_fast_accum": True}
        pairs = [(values[i % len(values)], split.ends[i % len(split.ends)]) for i in range(count)]
        if split.kind == "dense":
            calls = [lambda v=v: torch._scaled_mm(a, v[0].t(), scale_a=rows[:, None], scale_b=ones, **told) for v, _ in pairs]
        else:
            calls = [lambda v=v, e=e: torch._scaled_grouped_mm(a, v.transpose(1, 2), rows, ones, offs=e, **told) for v, e in pairs]
        return self._captured(f"torch fp8 rowwise, {split.kind}", calls)

    def _captured(self, name, calls):
        try:
            return self.bench.timer.capture(calls)
        except (AttributeError, RuntimeError) as problem:
            self.bench.absent(f"{name}: {str(problem).splitlines()[0]}")
            return None


def measure(bench, problem, split, label, *, tokens=None, batch=None, bars=(), **more):
    """One product beside everything: an entry with torch's time as its bar, one with the portable kernel's, one a share of a ceiling."""
    shape = problem.shape
    a, out = problem.operands(split)
    theirs = torch.empty_like(out)
    flops = 2.0 * split.rows * shape.k * shape.n * (shape.groups if split.kind == "batched" else 1)
    weight_bytes = round(split.active * shape.group_bytes) if split.kind == "grouped" else problem.bytes
    runs = {"ours": problem.run(a, split, out, **more), PEER[shape.kind]: problem.peer(a, split, theirs)}
    others = {
        "torch fp8 rowwise": problem.peer_eight(a, split),
        "portable kernel": portable(bench, problem, tokens, (a, split, out)) if tokens else None,
        "read": bench.timer.capture(bench.reader.calls(weight_bytes)) if bench.reader else None,
    }
    # Where multiplying takes the time, the card's power does: nothing cooler comes between cuBLAS and the product.
    powered = flops / bench.cublas.rate > 1.5 * weight_bytes / READ_RATE
    if powered:
        bench.cublas.heat(0.15)
    before = bench.cublas.tflops()
    times = compared(bench, runs, LONG) if powered else compared(bench, runs | others, SHORT)
    tflops = (before + bench.cublas.tflops()) / 2
    if powered:
        times |= compared(bench, others, SHORT)
    ours, torch_us, read_us = times["ours"], times.get(PEER[shape.kind]), times.get("read")
    bench.entry(
        label, "us", ours, below=True, bar=torch_us, reference=PEER[shape.kind], reference_value=torch_us, shape=shape.title,
        tokens=tokens, batch=batch, peers={name: round(us, 2) for name, us in times.items() if name not in ("ours", "read")},
        read_us=read_us, cublas_tflops=round(tflops, 1), tflops=round(flops / ours / 1e6, 1),
        roof_us=None if read_us is None else table.ceiling_us("roof", read_us, flops, tflops),
    )
    if "portable kernel" in times:
        bench.entry(f"{label}: beside the portable kernel", "us", ours, below=True, bar=times["portable kernel"])
    for ceiling, share in bars:
        if read_us is None and ceiling != "cuBLAS":
            continue
        limit = table.ceiling_us(ceiling, read_us, flops, tflops)
        name = {"roof": "the later of read and cuBLAS"}.get(ceiling, ceiling)
        bench.entry(f"{label}: share of {name}", f"of {ceiling}", limit / ours, bar=share, us=ours, ceiling_us=limit, cublas_tflops=round(tflops, 1))
    return times


def compared(bench, runs, least_us):
    """Microseconds of each run that there is."""
    runs = {name: run for name, run in runs.items() if run is not None}
    return dict(zip(runs, bench.timer.compare(list(runs.values()), 5, least_us)))


def beside(bench, label, runs, bar, reference, least_us=SHORT, heat=0.0):
    """The second run's time, at most `bar` of the first's."""
    if heat:
        bench.cublas.heat(heat)
    first, second = bench.timer.compare(runs, 5, least_us)
    bench.entry(label, "us", second, below=True, bar=bar(first), reference=reference, reference_value=first)


def forms(bench, problem):
    """Forms of the product beside the plain one: SwiGLU, NVFP4 activations, batch invariance, a hot expert."""
    shape = problem.shape
    name, gated = shape.title, problem.gated() if shape.name.endswith("L1") else None
    half = lambda out: torch.empty(out.shape[0], shape.n // 2, device="cuda", dtype=torch.bfloat16)
    for tokens in (1, 16, 64, 128, 512):
        split, told = even(shape, tokens), f"{name}, {tokens} a group"
        a, out = problem.operands(split)
        length = {"least_us": LONG, "heat": 0.1} if tokens >= 128 else {}
        plain = problem.run(a, split, out)
        if gated:
            run = problem.run(a / 64, split, half(out), gated, activation=Activation.SWIGLU)
            beside(bench, f"SwiGLU: {told}", [plain, run], lambda us: 1.02 * us, "the plain product", **length)
            if tokens in (64, 512):
                requantized(bench, problem, told, a / 64, split, gated)
        if tokens != 128:
            codes = nvfp4.quantize(bench.context, a, groups=split.groups[0], scope=Scope.ROW, stream=bench.stream)
            bar = (lambda us: us + 1.5) if tokens <= 64 else (lambda us: 1.04 * us)
            run = problem.run(codes, split, out)
            beside(bench, f"NVFP4 activations: {told}", [plain, run], bar, "bf16 activations", **length)
        if tokens in (64, 512):
            run = problem.run(a, split, out, flags=GemmFlags.BATCH_INVARIANT)
            share = 0.85 if tokens >= 512 else 0.70
            beside(bench, f"BATCH_INVARIANT: {told}", [plain, run], lambda us: us / share, "the default", **length)
    for rows in (4096, 4096 * shape.topk):
        both = [Split("grouped", shape.groups, [[rows // shape.groups + (i < rows % shape.groups) for i in range(shape.groups)]]), hot(shape, rows)]
        a, out = problem.operands(both[0])
        runs = [problem.run(a, split, out) for split in both]
        beside(bench, f"one hot expert, {rows} rows: {name}", runs, lambda us: 1.10 * us, "the even split", least_us=LONG, heat=0.1)


def requantized(bench, problem, told, a, split, gated):
    """SwiGLU and static codes out of the product beside the product and a quantizer."""
    rows, n, one = split.rows, problem.shape.n, torch.uint8
    codes, scales = (torch.empty(rows, n // per, device="cuda", dtype=one) for per in (4, 32))
    wide, fixed = torch.empty(rows, n, device="cuda", dtype=torch.bfloat16), torch.full((1,), 0.05, device="cuda")
    to = {"codes": codes, "scales": scales, "static_decode_scales": fixed, "scope": Scope.TENSOR}
    whole = problem.run(a, split, None, gated, out_dtype=nvfp4.DType.NVFP4, activation=Activation.SWIGLU, **to)
    plain = problem.calls(a, split, wide)

    def parts(call):
        call()
        nvfp4.swiglu_quantize(bench.context, wide, activation=Activation.SWIGLU, stream=bench.stream, **to)

    us, parts_us = bench.timer.compare([whole, bench.timer.capture([lambda c=c: parts(c) for c in plain])])
    bench.parts(f"product + SwiGLU + quantize static: {told}", us, parts_us)


def portable(bench, problem, tokens, given):
    """The portable kernel on this device, by a tuning file that names it; None where the file is not taken."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tuning"
        bench.context.save_tuning(path)
        head = path.read_text().rpartition("checksum ")[0]
        choice = table.portable_choice(problem.shape, tokens, bench.timer.processors)
        path.write_text(table.sealed(head + table.tuning_line(problem.shape, tokens, choice)))
        taken = bench.context.load_tuning(path)
    try:
        if taken == 1:
            return problem.run(*given)
        return bench.absent("portable kernel: the tuning file is not taken")
    finally:
        bench.context.load_tuning(None)


def one_token(bench):
    """A token in each of six groups, launches that depend on one another."""
    for shape, share in table.SINGLE:
        problem, split = Problem(bench, shape), routed(shape, 1, 16)
        measure(bench, problem, split, f"{shape.name}, one token, dependent launch", batch=1, bars=[("read", share)], flags=GemmFlags.DEPENDENT_LAUNCH)
        measure(bench, problem, split, f"{shape.name}, one token", batch=1)
        del problem
        torch.cuda.empty_cache()


def products(bench, quick):
    bench.cublas.heat(1.0)
    bench.entry("cuBLAS 8192^3 bf16, hot", "TFLOP/s", bench.cublas.tflops())
    bench.guard("one token", lambda: one_token(bench))
    chosen = [table.SHAPES[0], table.SHAPES[2], table.SHAPES[3]] if quick else table.SHAPES
    for place, shape in enumerate(chosen):
        if bench.over():
            bench.absent(f"{shape.title}: the time is up")
            continue
        started = time.monotonic()
        problem = Problem(bench, shape)

        def sweep():
            for tokens in table.TOKENS[::3] if quick else table.TOKENS:
                label = f"{shape.title}, {tokens} a group"
                measure(bench, problem, even(shape, tokens), label, tokens=tokens, bars=table.asked(shape, tokens))

        def batches():
            for batch in table.BATCHES if shape.name in table.ROUTED and not quick else table.BATCHES[::3]:
                label = f"{shape.title}, {batch} tokens to {shape.topk}"
                measure(bench, problem, routed(shape, batch, 8 if batch <= 16 else 2), label, batch=batch)

        bench.guard(f"sweep of {shape.title}", sweep)
        if place < table.COMPARED and shape.kind == "grouped":
            bench.guard(f"forms of {shape.title}", lambda: forms(bench, problem))
        if shape.topk:
            bench.guard(f"batches of {shape.title}", batches)
        del problem
        torch.cuda.empty_cache()
        bench.spent(shape.title, started)

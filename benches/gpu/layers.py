"""Whole layers beside their products: a mixture of experts, its parts, and the grouped linear layer."""

import nvfp4
import torch
from nvfp4 import Activation, GemmFlags, Groups, Router, ScaleLayout, Scope
from products import LONG, SHORT, Problem, Split
from table import Shape

#: name, hidden, intermediate, local experts, experts of the router, top-k
EXPERTS = [("DeepSeek-V4-Flash", 4096, 2048, 32, 256, 6), ("Qwen3-30B", 2048, 768, 128, 128, 8)]
TOKENS = (1, 8, 64, 512, 4096)
GROUPED = [(8, 4096, 1024), (8, 8192, 1536)]
TILED = ScaleLayout.TILED_128X4


class Routes:
    """Logits that a router takes, and where they send tokens. spread: to all experts, else to local ones alone."""

    def __init__(self, bench, tokens, local, experts, topk, spread, variants):
        self.rows, self.logits, self.ids, self.weights, counts = tokens * topk, [], [], [], []
        for _ in range(variants):
            logits = torch.randn(tokens, experts, device="cuda", dtype=torch.bfloat16)
            if not spread:
                logits[:, local:] -= 100
            torch.cuda.synchronize()
            ids, weights = nvfp4.moe_route(bench.context, logits, topk, Router(renormalise=True), stream=bench.stream)
            bench.stream.synchronize()
            counts.append(torch.bincount(ids[ids < local].flatten().long(), minlength=local).tolist())
            for to, what in ((self.logits, logits), (self.ids, ids), (self.weights, weights)):
                to.append(what)
        self.split = Split("grouped", local, counts, self.rows)


def layer(bench, name, hidden, width, local, experts, topk, quick):
    """nvfp4_moe_forward beside the best times of its two products, whatever their epilogue and launch. All of them multiply the same
    values by the same weights in the same split. Tokens are so small that gates are a few units, as behind a norm: beyond 80
    the epilogue computes a gate at a time, and a router's random tokens would measure that."""
    first = Problem(bench, Shape(name, local, hidden, 2 * width, topk=topk))
    second = Problem(bench, Shape(name, local, width, hidden, topk=topk), peers=False)
    gated = first.gated()
    first.values.clear()
    for spread in (False, True) if experts > local else (False,):
        for tokens in TOKENS[::2] if quick else TOKENS:
            routes = Routes(bench, tokens, local, experts, topk, spread, 8 if tokens <= 64 else 2)
            split = routes.split
            a, wide = first.operands(split)
            a /= hidden**0.5
            middle, out = second.operands(split)
            half = torch.empty_like(middle)
            runs = {}
            torch.cuda.synchronize()
            for early in (GemmFlags.NONE, GemmFlags.DEPENDENT_LAUNCH):
                runs["first", "plain", early] = first.run(a, split, wide, flags=early)
                runs["first", "SwiGLU", early] = first.run(a, split, half, gated, flags=early, activation=Activation.SWIGLU)
                runs["second", "plain", early] = second.run(middle, split, out, flags=early)
            source, result = a[:tokens].clone(), torch.empty(tokens, hidden, device="cuda", dtype=torch.bfloat16)
            count = max(len(gated), len(second.plain), len(routes.logits))
            for quantize in (False, True):

                def call(i, quantize=quantize):
                    nvfp4.moe_forward(
                        bench.context, source, gated[i % len(gated)], second.plain[i % len(second.plain)], logits=routes.logits[i % len(routes.logits)],
                        topk=topk, router=Router(renormalise=True), experts=experts, quantize=quantize, out=result, workspace=bench.workspace, stream=bench.stream,
                    )

                runs["layer", quantize] = bench.timer.capture([lambda i=i: call(i) for i in range(count)])
            if tokens >= 512:
                bench.cublas.heat(0.1)
            times = dict(zip(runs, bench.timer.compare(list(runs.values()), 7, LONG / 4 if tokens >= 512 else SHORT)))
            best = [min(us for key, us in times.items() if key[0] == which) for which in ("first", "second")]
            for quantize in (False, True):
                kind = "NVFP4" if quantize else "bf16"
                to = f"{experts} experts, {local} of them here" if spread else f"{local} experts"
                bench.entry(
                    f"{name} layer, {tokens} tokens to {topk} of {to}, {kind} activations", "us", times["layer", quantize], below=True,
                    bar=1.25 * sum(best) + 6, reference="its two products", reference_value=sum(best), layer=f"{name}, {kind}{', spread' if spread else ''}",
                    batch=tokens, first_us=best[0], second_us=best[1], swiglu_us=min(us for key, us in times.items() if key[1] == "SwiGLU"),
                )
        if not spread:
            parts(bench, name, hidden, local, experts, routes)


def parts(bench, name, hidden, local, experts, routes):
    """Quantizing into expert order, gathering and combining beside the copy ceiling: every token is read once and every row written
    once, and what the sort in front takes by itself is taken off."""
    ids, weights = routes.ids[0], routes.weights[0]
    tokens, rows, context, stream = ids.shape[0], routes.rows, bench.context, bench.stream
    new = lambda *shape, dtype=torch.bfloat16: torch.empty(*shape, device="cuda", dtype=dtype)
    sets = [(torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16), torch.randn(rows, hidden, device="cuda", dtype=torch.bfloat16)) for _ in range(3)]
    torch.cuda.synchronize()
    order = nvfp4.moe_permute(context, ids, experts, local_experts=local, stream=stream)
    stream.synchronize()
    common = {"local_experts": local, "workspace": bench.workspace, "stream": stream}
    sort_us = bench.timer.us([lambda: nvfp4.moe_permute(context, ids, experts, **common)] * 8)
    bench.entry(f"{name}: sorting {tokens} tokens to {ids.shape[1]}", "us", sort_us)

    def part(what, calls, moved, sorts=True):
        us = bench.timer.us(calls)
        bench.rate(f"{name}: {tokens} tokens {what}", us - sort_us if sorts else us, moved, 0.7)

    codes, decode = new(rows, hidden // 2, dtype=torch.uint8), new(rows, dtype=torch.float32)
    tiled = new(nvfp4.scales_size(rows, hidden, scale_layout=TILED, groups=Groups.by_ends(order.ends)), dtype=torch.uint8)
    layouts = {"tiled": (tiled, TILED), "linear": (new(rows, hidden // 16, dtype=torch.uint8), ScaleLayout.LINEAR)}
    one, each = (torch.full((count,), 0.02, device="cuda") for count in (1, local))
    scopes = {
        "static": {"scope": Scope.TENSOR, "static_decode_scales": one},
        "static per expert": {"scope": Scope.GROUP, "static_decode_scales": each},
        "per row": {"scope": Scope.ROW, "decode_scales": decode},
    }
    moved = tokens * hidden * 2 + rows * hidden * 9 / 16
    for layout, (scales, kind) in layouts.items():
        for scope, given in scopes.items():
            told = {"quantize": True, "codes": codes, "scales": scales, "scale_layout": kind, **given, **common}
            part(f"quantized {scope} into expert order, {layout}", [lambda s=s: nvfp4.moe_permute(context, ids, experts, s, **told) for s, _ in sets], moved)
    moved = (tokens + rows) * hidden * 2
    part("gathered into expert order", [lambda s=s, y=y: nvfp4.moe_permute(context, ids, experts, s, gathered=y, **common) for s, y in sets], moved)
    part("combined", [lambda s=s, y=y: nvfp4.moe_combine(context, y, order.inverse, weights, out=s, stream=stream) for s, y in sets], moved, sorts=False)


def grouped(bench, count, k, n, quick):
    """nvfp4_grouped_linear beside the batched product of the same operands."""
    problem = Problem(bench, Shape("", count, k, n, "batched"), peers=False)
    for tokens in (1, 64) if quick else (1, 16, 64, 512):
        a, out = (torch.randn(tokens, count, cols, device="cuda", dtype=torch.bfloat16) for cols in (k, n))
        split, fixed = Split("batched", count, [[tokens]]), torch.full((1,), 0.02, device="cuda")
        turned = a.swapaxes(0, 1)
        torch.cuda.synchronize()
        codes = nvfp4.quantize(bench.context, turned, groups=split.groups[0], scope=Scope.ROW, stream=bench.stream)
        common = {"out": out, "workspace": bench.workspace, "stream": bench.stream}
        run = lambda **more: bench.timer.capture([lambda w=w: nvfp4.grouped_linear(bench.context, a, w, **common, **more) for w in problem.plain])
        runs = {
            "bf16": [problem.run(turned, split, out.swapaxes(0, 1)), run()],
            "NVFP4 per row": [problem.run(codes, split, out.swapaxes(0, 1)), run(quantize=True, scope=Scope.ROW)],
            "NVFP4 static": [run(quantize=True, scope=Scope.TENSOR, static_decode_scales=fixed)],
        }
        times = iter(bench.timer.compare([r for pair in runs.values() for r in pair]))
        for kind, pair in runs.items():
            product = next(times) if len(pair) == 2 else product
            bench.entry(
                f"grouped linear {count} x {k} to {n}, {tokens} tokens, {kind}", "us", next(times), below=True, bar=1.05 * product + 1.6,
                reference="the batched product", reference_value=product,
            )


def layers(bench, quick):
    for name, *sizes in EXPERTS[1:] if quick else EXPERTS:
        if bench.over():
            bench.absent(f"{name}: the time is up")
            continue
        bench.guard(f"layer of {name}", lambda: layer(bench, name, *sizes, quick))
        torch.cuda.empty_cache()
    for sizes in GROUPED:
        bench.guard(f"grouped linear {sizes}", lambda: grouped(bench, *sizes, quick))

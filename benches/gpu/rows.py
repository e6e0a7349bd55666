"""Quantizers, plain and fused: rates beside the copy ceiling, a Triton kernel, and their own parts; small calls."""

import nvfp4
import torch
from nvfp4 import Activation, ScaleLayout, ScaleRule, Scope

ROWS, COLS = 8192, 7168
LINEAR, TILED = ScaleLayout.LINEAR, ScaleLayout.TILED_128X4
AMAX, SIXES, MIN_MSE = ScaleRule.AMAX, ScaleRule.FOUR_OVER_SIX, ScaleRule.MIN_MSE


class Operands:
    """One set: inputs, and outputs that stay where they are."""

    def __init__(self, rows, cols, width=None, layout=TILED):
        new = lambda count, dtype: torch.empty(count, dtype=dtype, device="cuda")
        self.rows, self.cols = rows, cols
        self.src = torch.randn(rows, width or cols, device="cuda").to(torch.bfloat16)
        self.weight = torch.rand(cols, device="cuda").to(torch.bfloat16)
        self.codes = new((rows, cols // 2), torch.uint8)
        size = nvfp4.scales_size(rows, cols, scale_layout=layout)
        self.scales = new((rows, cols // 16) if layout == LINEAR else (size,), torch.uint8)
        self.decode = new((rows,), torch.float32)
        self.fixed = torch.full((1,), 0.02, device="cuda")  # nothing saturates


def destination(o, layout, rule, scope, static):
    """Keyword arguments of a quantizer."""
    given = {"static_decode_scales": o.fixed} if static else {"decode_scales": o.decode if scope == Scope.ROW else o.decode[:1]}
    return {"codes": o.codes, "scales": o.scales, "scale_layout": layout, "scale_rule": rule, "scope": scope, **given}


#: name, layout, rule, scope, static, share of the copy ceiling asked for
PLAIN = [
    ("static, tiled", TILED, AMAX, Scope.TENSOR, True, 0.88),
    ("static, linear", LINEAR, AMAX, Scope.TENSOR, True, None),
    ("per row, tiled", TILED, AMAX, Scope.ROW, False, 0.85),
    ("per row, linear", LINEAR, AMAX, Scope.ROW, False, None),
    ("per tensor, tiled", TILED, AMAX, Scope.TENSOR, False, 0.50),
    ("FOUR_OVER_SIX static, tiled", TILED, SIXES, Scope.TENSOR, True, 0.70),
]


def large(bench):
    """Everything at [8192, 7168]."""
    timer, stream, context = bench.timer, bench.stream, bench.context
    for layout in (TILED, LINEAR):
        sets = [Operands(ROWS, COLS, layout=layout) for _ in range(3)]
        moved = ROWS * COLS * (2 + 0.5 + 1 / 16)
        for name, of, rule, scope, static, bar in PLAIN:
            if of != layout:
                continue
            calls = [lambda o=o: nvfp4.quantize(context, o.src, stream=stream, **destination(o, layout, rule, scope, static)) for o in sets]
            bench.rate(f"quantize {name}", timer.us(calls), moved, bar)
        if layout == TILED:
            calls = [lambda o=o: nvfp4.quantize(context, o.src, stream=stream, **destination(o, layout, MIN_MSE, Scope.TENSOR, True)) for o in sets]
            us = timer.us(calls)
            bench.entry("quantize MIN_MSE static, tiled", "GB/s of bf16", ROWS * COLS * 2 / us / 1e3, us=us, bar=200)
            for name, scope, static in (("static", Scope.TENSOR, True), ("per row", Scope.ROW, False)):
                calls = [lambda o=o: nvfp4.rmsnorm_quantize(context, o.src, o.weight, 1e-6, stream=stream, **destination(o, layout, AMAX, scope, static)) for o in sets]
                us = timer.us(calls)
                bench.rate(f"RMSNorm + quantize {name}, tiled", us, moved, 0.85)
                bench.parts(f"RMSNorm + quantize {name}", us, timer.us([lambda o=o: norm_then_quantize(bench, o, destination(o, layout, AMAX, scope, static)) for o in sets]))
        if layout == LINEAR:
            triton_peer(bench, sets, moved)
    del sets
    sets = [Operands(ROWS, 2048, width=4096) for _ in range(3)]
    moved = ROWS * 2048 * (4 + 0.5 + 1 / 16)
    for name, scope, static in (("static", Scope.TENSOR, True), ("per row", Scope.ROW, False)):
        calls = [lambda o=o: nvfp4.swiglu_quantize(context, o.src, activation=Activation.SWIGLU, stream=stream, **destination(o, TILED, AMAX, scope, static)) for o in sets]
        us = timer.us(calls)
        bench.rate(f"SwiGLU + quantize {name}, tiled, width 2048", us, moved, 0.85)
        bench.parts(f"SwiGLU + quantize {name}", us, timer.us([lambda o=o: gate_then_quantize(bench, o, destination(o, TILED, AMAX, scope, static)) for o in sets]))


def norm_then_quantize(bench, o, to):
    y = torch.nn.functional.rms_norm(o.src, (o.cols,), o.weight, 1e-6)
    nvfp4.quantize(bench.context, y, stream=bench.stream, **to)


def gate_then_quantize(bench, o, to):
    gate, up = o.src[:, : o.cols], o.src[:, o.cols :]
    nvfp4.quantize(bench.context, torch.nn.functional.silu(gate) * up, stream=bench.stream, **to)


def triton_peer(bench, sets, moved):
    try:
        import triton_quantizer as peer
    except ImportError as missing:
        return bench.absent(f"Triton quantizer: {missing}")
    for name, run in (("static", peer.quantize_static), ("per row", peer.quantize_rows)):
        calls = [lambda o=o: run(o.src, o.codes, o.scales.view(torch.float8_e4m3fn), o.fixed if run is peer.quantize_static else o.decode) for o in sets]
        bench.rate(f"Triton quantizer {name}, linear", bench.timer.us(calls), moved, None)


#: name, the call, microseconds asked for
SMALL = [
    ("quantize static", lambda b, o: nvfp4.quantize(b.context, o.src, stream=b.stream, **destination(o, TILED, AMAX, Scope.TENSOR, True)), 2.2),
    ("quantize per row", lambda b, o: nvfp4.quantize(b.context, o.src, stream=b.stream, **destination(o, TILED, AMAX, Scope.ROW, False)), 3.0),
    ("RMSNorm + quantize per row", lambda b, o: nvfp4.rmsnorm_quantize(b.context, o.src, o.weight, 1e-6, stream=b.stream, **destination(o, TILED, AMAX, Scope.ROW, False)), 3.0),
]


def small(bench):
    """Calls of 1 to 64 rows, one after another in a graph."""
    for rows in (1, 4, 16, 64):
        sets = [Operands(rows, COLS) for _ in range(128)]
        for name, call, bar in SMALL:
            us = bench.timer.us([lambda o=o: call(bench, o) for o in sets])
            bench.entry(f"{name}, {rows} x {COLS}, in a graph", "us", us, bar=bar, below=True)

#!/usr/bin/env python3
"""Holds the Hopper product for 32 tokens and more (gemm_sm90_many.cu) to the judge of kernels_gemm.py, and times it.

On a GPU: kernels_gemm_sm90.py DIR [--cases N] [--seed S] [--no-check] [--time WHICH]; DIR holds gemm.cubin, weights.cubin and
gemm_sm90_many.cubin. Prints JSON lines and exits 1 if anything failed.
"""
import argparse, ctypes, json, sys, time
import numpy as np
import kernels_gemm as base
from kernels_gemm import *

# tokens of a tile: units, warpgroups that multiply, units of a stage along k, stages, as kernels/gemm_sm90_many.cu
FORMS = {32: (3, 3, 2, 5), 64: (3, 3, 2, 4), 128: (2, 2, 2, 3), 256: (1, 2, 1, 4)}
JOBS = 4
WHOLE = 1 << 30  # run_steps: no run ends early


def shared_bytes(tokens):
    units, consumers, depth, stages = FORMS[tokens]
    halves = 2 * units // consumers
    ring = stages * up(depth * (tokens * 128 + units * 4608), 1024) + 16 * (stages + JOBS + consumers) + JOBS * 128
    return up(ring, 128) + consumers * (tokens * (128 * halves + 16) + 4 * tokens + 256 * halves) + 1024


def form_threads(tokens):
    return 128 * FORMS[tokens][1] + 128


def sums_bytes(tokens, grid):
    return grid * FORMS[tokens][0] * tokens * 512


def flags_bytes(tokens, grid):
    return grid * FORMS[tokens][1] * 4 * 8


class Sm90ManyParams(ctypes.Structure):
    _fields_ = [("map", ctypes.c_uint8 * 128), ("gemm", GemmParams), ("token", U64), ("schedule", U32), ("dependent", U32), ("totals", P), ("run_steps", U32), ("reserved", U32 * 13)]


assert ctypes.sizeof(Sm90ManyParams) == 448


class Hopper(Cuda):
    def __init__(self, folder):
        super().__init__(folder)
        module = ctypes.c_void_p()
        image = open(os.path.join(folder, "gemm_sm90_many.cubin"), "rb").read()
        self.check(self.cu.cuModuleLoadData(ctypes.byref(module), image), "gemm_sm90_many")
        self.many, self.token = module, 0x1234567
        self.sms = self.torch.cuda.get_device_properties(0).multi_processor_count

    def function(self, name, shared):
        if name.startswith("nvfp4_gemm_many") and name not in self.cache:
            f = ctypes.c_void_p()
            self.check(self.cu.cuModuleGetFunction(ctypes.byref(f), self.many, name.encode()), name)
            self.cache[name] = f
        return super().function(name, shared)

    def tensor_map(self, address, half, cols, rows, row_stride, groups, group_stride, tokens):
        """[groups, rows, cols] of 16-bit values in boxes of 64 × tokens, 128-byte swizzle; strides in elements"""
        raw = ctypes.create_string_buffer(192)
        at = -ctypes.addressof(raw) % 64
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        dims = (u64 * 3)(cols, max(rows, 1), max(groups, 1))
        strides = (u64 * 2)(2 * row_stride, 2 * group_stride if group_stride else 2 * row_stride)
        box, step = (u32 * 3)(64, tokens, 1), (u32 * 3)(1, 1, 1)
        kind = 6 if half else 9  # FLOAT16, BFLOAT16
        rc = self.cu.cuTensorMapEncodeTiled(ctypes.c_void_p(ctypes.addressof(raw) + at), kind, 3, ctypes.c_void_p(address), dims, strides, box, step, 0, 3, 3, 0)
        self.check(rc, "tensor map")
        return raw.raw[at : at + 128]

    def many_params(self, p, half, stored_rows, groups, tokens, schedule, run_steps=WHOLE, totals=0):
        q = Sm90ManyParams()
        strided = groups if p.grouping == STRIDED and p.a_group_stride else 1
        q.map[:] = self.tensor_map(p.a, half, p.cols, stored_rows, p.a_row_stride, strided, p.a_group_stride, tokens)
        self.token += 0x9E3779B97F4A7C15
        q.gemm, q.token, q.schedule, q.run_steps, q.totals = p, self.token & (2**64 - 1) or 1, schedule, run_steps, totals
        return q


class ManyRun(Run):
    """The case on the Hopper kernel; `reference` asks for the portable one."""

    def launch(self, out_dtype, poison, tokens=None, splits=None):
        device, keep, c = self.device, [], self.c
        outer = self

        class Redirect:
            def __getattr__(self, name):
                return getattr(device, name)

            def launch(self, name, grid, _threads, _shared, p):
                p.splits = 1
                partials = Buffer(device, sums_bytes(outer.tokens, outer.grid), poison)
                flags = Buffer(device, flags_bytes(outer.tokens, outer.grid), poison)
                totals = Buffer(device, sums_bytes(outer.tokens, outer.grid), poison)
                keep.extend([partials, flags, totals])
                p.partials, p.counters = partials.ptr, flags.ptr
                strided = c.grouping == STRIDED
                rows = c.t if strided or c.shared else total_rows(c)
                q = device.many_params(p, c.a == F16, rows, c.e, outer.tokens, outer.schedule, outer.run_steps, totals.ptr)
                device.launch(f"nvfp4_gemm_many_{OPERAND[c.a]}{'_codes' if p.out_dtype == CODES else ''}_{outer.tokens}", (outer.grid, 1, 1), form_threads(outer.tokens), shared_bytes(outer.tokens), q)

        self.device = Redirect()
        try:
            got, ok, fault = super().launch(out_dtype, poison, 64, 1)
        finally:
            self.device = device
        for b in keep:
            b.get()
            ok &= b.guarded
        return got, ok, fault


def aligned(c):
    """what tensor copies can address"""
    return (c.k + c.a_gap) % 8 == 0 and (c.grouping != STRIDED or c.shared or (c.t * (c.k + c.a_gap) + c.group_gap) % 8 == 0)


def check_many(device, report, rng, cases):
    worst, done = 0.0, 0
    while done < cases:
        c = random_case(rng, True, False)
        if rng.random() < 0.3 and c.e < 100 and c.grouping in (NONE, ENDS):
            c.t = int(rng.integers(100, 600))
            if c.grouping == ENDS:
                c.index = np.cumsum(rng.multinomial(c.t, np.ones(c.e) / c.e))
        if c.a == CODES or (c.grouping in (NONE, STRIDED) and c.t == 0):
            continue
        if not aligned(c):
            c.a_gap = up(c.k + c.a_gap, 8) - c.k
            c.group_gap = up(c.t * (c.k + c.a_gap) + c.group_gap, 8) - c.t * (c.k + c.a_gap)
        done += 1
        run = ManyRun(device, c, rng)
        problem = None
        print(json.dumps({"number": done, "case": str(c)}), file=sys.stderr, flush=True)
        for tokens in FORMS:
            run.tokens, run.schedule = tokens, int(rng.integers(4))
            run.grid = int(rng.choice([1, 3, 16, device.sms]))
            run.run_steps = int(rng.choice([1, 3, 32, WHOLE]))
            if rng.random() < 0.2:
                run.schedule, run.run_steps = WHOLE_TILES, 32 // FORMS[tokens][2]
            poison = int(rng.choice([0xA5, 0x5A]))
            try:
                problem = run.check(poison)
            except Exception as error:
                print(json.dumps({"failed": "many", "case": str(c), "tokens": tokens, "schedule": run.schedule, "grid": run.grid, "problem": repr(error)}), flush=True)
                raise
            report.result("many", problem, number=done, case=str(c), tokens=tokens, schedule=run.schedule, grid=run.grid)
            if problem is None and c.out != CODES:
                worst = max(worst, run.worst)
                bits = [run.launch(c.out, 0xA5)[0][0] for _ in range(2)]
                if run.schedule == WHOLE_TILES and run.run_steps * FORMS[tokens][2] == 32:
                    portable = Run.launch(run, c.out, 0xA5, 64, 1)[0][0]
                    report.result("like portable", None if (bits[0] == portable).all() else "other bits", number=done, case=str(c), tokens=tokens)
                report.result("determinism", None if (bits[0] == bits[1]).all() else "other bits", number=done, case=str(c), tokens=tokens, schedule=run.schedule, grid=run.grid)
    return worst


# ---------------------------------------------------------------- timing

SHAPES_TIMED = {  # groups, K, N
    "pro-up": (48, 7168, 6144),
    "pro-down": (48, 3072, 7168),
    "thin": (128, 2048, 1536),
    "out": (8, 8192, 1536),
    "dense": (1, 8192, 8192),
}
PLAN = [  # shape, tokens a group, forms [(tokens, schedule[, run_steps])]
    ("pro-up", 32, [(32, 0)]),
    ("pro-up", 64, [(64, 0)]),
    ("pro-up", 128, [(128, 0)]),
    ("pro-up", 512, [(256, 0), (256, 0, 56)]),
    ("pro-up", 1024, [(256, 0)]),
    ("pro-down", 512, [(256, 0), (256, 1)]),
    ("thin", 64, [(64, 0), (64, 1)]),
    ("thin", 128, [(128, 0), (128, 1)]),
    ("thin", 512, [(256, 0)]),
    ("out", 512, [(256, 1), (128, 1)]),
    ("dense", 4096, [(256, 0), (256, 1)]),
]


def timing(device, which, extra):
    torch = device.torch
    fault = torch.zeros(8, dtype=torch.uint8, device="cuda")
    print(json.dumps({"device": torch.cuda.get_device_name(0), "torch": torch.__version__}), flush=True)
    square = [torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(3)]

    def timed(body, reps, rounds=5):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            body(0)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for i in range(reps):
                    body(i)
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record(stream), graph.replay(), b.record(stream)
            b.synchronize()
            for _ in range(int(40 / a.elapsed_time(b))):  # until clocks have settled
                graph.replay()
            times = []
            for _ in range(rounds):
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record(stream), graph.replay(), b.record(stream)
                b.synchronize()
                times.append(a.elapsed_time(b) * 1e3 / reps)
        return sorted(times)[len(times) // 2]

    def cublas(ms=60):
        reps = max(4, int(ms / 1.45))
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        for _ in range(reps):
            torch.matmul(square[0], square[1].t(), out=square[2])
        b.record()
        b.synchronize()
        return 2 * 8192**3 * reps / a.elapsed_time(b) / 1e9

    cublas(300)
    state = None
    for name, m, forms in PLAN:
        if which and f"{name}:{m}" not in which:
            continue
        e, k, n = SHAPES_TIMED[name]
        if state is None or state[0] != name:
            state = None
            torch.cuda.empty_cache()
            header, size = storage_bytes(e, n, k)
            storages, keep = [], []
            for _ in range(max(1, min(4, cdiv(300 << 20, size)))):
                s = torch.empty(size, dtype=torch.uint8, device="cuda")
                codes = torch.randint(0, 256, (e * n * k // 2,), dtype=torch.uint8, device="cuda")
                scales = torch.randint(0x30, 0x40, (e * n * k // 16,), dtype=torch.uint8, device="cuda")
                g = torch.full((e,), 1 / 64, device="cuda")
                p = WeightsParams()
                p.storage, p.units_at, p.fault, p.codes, p.scales, p.decode = s.data_ptr(), header, fault.data_ptr(), codes.data_ptr(), scales.data_ptr(), g.data_ptr()
                p.groups, p.rows, p.cols, p.gate_up = e, n, k, 0
                device.launch("nvfp4_weights_pack", (cdiv(k, 64), cdiv(n, 128), e), 128, 0, p)
                torch.cuda.synchronize()
                storages.append(s)
            dense = torch.randn(e, n, k, device="cuda", dtype=torch.bfloat16) if extra else None
            state = (name, storages, dense)
        _, storages, dense = state
        t = m * e
        ends = torch.arange(1, e + 1, device="cuda", dtype=torch.int32) * m
        x = torch.randn(t, k, device="cuda", dtype=torch.bfloat16)
        out = torch.empty(t, n, device="cuda", dtype=torch.bfloat16)
        partials = torch.empty(max(sums_bytes(tokens, device.sms) for tokens in FORMS) // 4, dtype=torch.float32, device="cuda")
        totals = torch.empty_like(partials)
        flags = torch.zeros(device.sms * 16, dtype=torch.int64, device="cuda")
        flops = 2.0 * t * n * k
        reps = 12 if m <= 64 else 6 if m <= 128 else 4

        def base_params(s):
            p = GemmParams()
            p.index, p.a, p.weights, p.out, p.units_at, p.fault = ends.data_ptr(), x.data_ptr(), s.data_ptr(), out.data_ptr(), header, fault.data_ptr()
            p.partials, p.counters = partials.data_ptr(), flags.data_ptr()
            p.a_row_stride, p.out_row_stride, p.rows = k, n, t
            p.groups, p.grouping, p.weight_rows, p.cols, p.splits, p.a_vectors, p.out_vectors = e, ENDS, n, k, 1, 1, 1
            return p

        for tokens, schedule, *rest in forms:
            run_steps = rest[0] // FORMS[tokens][2] if rest else WHOLE  # of the form's steps
            steps = cdiv(k, 64 * FORMS[tokens][2])
            for activation in (0, SWIGLU) if extra else (0,):
                params = []
                for s in storages:
                    p = base_params(s)
                    if activation:
                        p.activation, p.out_row_stride, p.alpha = SWIGLU, n // 2, 1.0
                    params.append(device.many_params(p, False, t, e, tokens, schedule, run_steps, totals.data_ptr()))
                before = cublas()
                us = timed(lambda i: device.launch(f"nvfp4_gemm_many_bf16_{tokens}", (device.sms, 1, 1), form_threads(tokens), shared_bytes(tokens), params[i % len(params)]), reps)
                after = cublas()
                line = {"time": name, "tokens": m, "form": tokens, "schedule": schedule, "runs": cdiv(steps, run_steps), "activation": activation, "us": round(us, 1), "tflops": round(flops / us / 1e6, 1),
                        "of_cublas": round(flops / us / 1e6 / ((before + after) / 2), 3), "cublas": [round(before), round(after)], "weights_tb_s": round(e * n * k * 0.5625 / us / 1e6, 2)}
                print(json.dumps(line), flush=True)
        if extra:
            try:
                w = dense.transpose(1, 2)
                us = timed((lambda i: torch._grouped_mm(x, w, offs=ends)) if e > 1 else (lambda i: torch.matmul(x, dense[0].t(), out=out)), 3, 3)
                print(json.dumps({"time": name, "tokens": m, "peer": "torch bf16", "us": round(us, 1)}), flush=True)
            except Exception as error:
                print(json.dumps({"peer_error": str(error)[:200]}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--time", nargs="*")
    o = parser.parse_args()
    device, report, start = Hopper(o.folder), Report(), time.time()
    worst = 0.0
    if not o.no_check:
        worst = check_many(device, report, np.random.default_rng(o.seed), o.cases)
        print(json.dumps({"many": [report.passed, report.failed], "worst_share_of_bound_f32": round(worst, 4), "s": round(time.time() - start, 1)}), flush=True)
    if not o.no_time:
        timing(device, o.time, o.peers)
    print(json.dumps({"passed": report.passed, "failed": report.failed, "total_s": round(time.time() - start, 1)}))
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()

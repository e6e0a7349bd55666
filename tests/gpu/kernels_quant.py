#!/usr/bin/env python3
"""Row and layout kernels against the CPU backend, bit for bit, and their speed. Needs numpy and a driver, nothing else.

  kernels_quant.py --kit DIR            cubins (quantize, norm, swiglu, dequantize, layouts) and libplan_rows.so in DIR; runs on GPU 0
  kernels_quant.py --emulate --kit DIR  the same cases on the CPU emulator (built with g++ into DIR); no timings
Options: --only TEXT, --seed N, --no-tests, --no-times, --show N (differences a case), --jobs I/N (every Nth case)

The kit, with nvcc 13.0 on the PATH:
  NVFP4_KERNELS=placeholder cargo build --release --features cuda --example plan_rows
  mkdir -p target/kit && strip --strip-debug -o target/kit/libplan_rows.so target/release/examples/libplan_rows.so
  for f in kernels/{quantize,norm,swiglu,dequantize,layouts} tests/gpu/variants; do nvcc -std=c++17 -O3 -fmad=false \\
    -gencode arch=compute_90a,code=sm_90a -cubin -o target/kit/$(basename $f).cubin $f.cu; done

A case's memory is one arena: inputs, outputs poisoned with 0xA5 or 0x5A, guards between them. The CPU backend works on one
copy, the kernels on another; then every byte must agree, so stray and missing writes show like wrong ones.
Launches come from the planner (src/backend/cuda/rows.rs) inside libplan_rows.so."""

import argparse
import ctypes as C
import json
import os
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ["quantize", "norm", "swiglu", "dequantize", "layouts"]
DTYPES = ["bf16", "f16", "f32"]
BYTES = [2, 2, 4]
LAYOUTS = ["linear", "128x4", "8x4"]
RULES = ["amax", "4/6", "mse"]
TENSOR, GROUP, ROW = 0, 1, 2
PLAIN, TRANSPOSED, NORM, HYPER, SWIGLU, RELU2, IDENTITY = range(7)
NONE, ENDS, MASKED, STRIDED = range(4)


class Step(C.Structure):
    _fields_ = [("kind", C.c_uint32), ("grid_x", C.c_uint32), ("grid_y", C.c_uint32), ("threads", C.c_uint32),
                ("dst", C.c_uint64), ("words", C.c_uint64), ("param_bytes", C.c_uint64),
                ("name", C.c_char * 64), ("params", C.c_uint8 * 320)]


# ---------------------------------------------------------------- devices


class Gpu:
    """The driver through ctypes: modules, memory, launches, events, graphs."""

    def __init__(self, kit):
        self.cu = C.CDLL("libcuda.so.1")
        self.check(self.cu.cuInit(0))
        self.context = C.c_void_p()
        self.check(self.cu.cuDevicePrimaryCtxRetain(C.byref(self.context), 0))
        self.check(self.cu.cuCtxSetCurrent(self.context))
        count = C.c_int()
        self.check(self.cu.cuDeviceGetAttribute(C.byref(count), 16, 0))
        self.sm_count = count.value
        name = C.create_string_buffer(100)
        self.cu.cuDeviceGetName(name, 100, 0)
        self.name = name.value.decode()
        self.modules, self.functions = [], {}
        extra = ["variants"] if os.path.exists(os.path.join(kit, "variants.cubin")) else []
        self.has_variants = bool(extra)
        for file in FILES + extra:
            module = C.c_void_p()
            self.check(self.cu.cuModuleLoad(C.byref(module), os.path.join(kit, file + ".cubin").encode()))
            self.modules.append(module)
        self.stream = C.c_void_p()
        self.check(self.cu.cuStreamCreate(C.byref(self.stream), 1))

    def check(self, status):
        if status:
            text = C.c_char_p()
            self.cu.cuGetErrorString(status, C.byref(text))
            raise RuntimeError(f"driver error {status}: {text.value}")

    def function(self, name):
        if name not in self.functions:
            for module in self.modules:
                f = C.c_void_p()
                if self.cu.cuModuleGetFunction(C.byref(f), module, name) == 0:
                    self.functions[name] = f
                    break
            else:
                raise RuntimeError(f"no module has {name}")
        return self.functions[name]

    def alloc(self, size):
        p = C.c_uint64()
        self.check(self.cu.cuMemAlloc_v2(C.byref(p), C.c_size_t(max(size, 256))))
        return p.value

    def free(self, p):
        self.check(self.cu.cuMemFree_v2(C.c_uint64(p)))

    def upload(self, p, a):
        self.check(self.cu.cuMemcpyHtoD_v2(C.c_uint64(p), C.c_void_p(a.ctypes.data), C.c_size_t(a.nbytes)))

    def download(self, p, size):
        a = np.empty(size, np.uint8)
        self.check(self.cu.cuMemcpyDtoH_v2(C.c_void_p(a.ctypes.data), C.c_uint64(p), C.c_size_t(size)))
        return a

    def run(self, steps):
        for s in steps:
            if s.kind == 0:
                if s.words:
                    self.check(self.cu.cuMemsetD32Async(C.c_uint64(s.dst), 0, C.c_size_t(s.words), self.stream))
            elif s.grid_x and s.grid_y:
                p = (C.c_void_p * 1)(C.addressof(s) + Step.params.offset)
                self.check(self.cu.cuLaunchKernel(self.function(s.name), s.grid_x, s.grid_y, 1, s.threads, 1, 1, 0, self.stream, p, None))

    def sync(self):
        self.check(self.cu.cuStreamSynchronize(self.stream))

    def graph(self, work):
        """Captures work() and returns an executable graph."""
        self.check(self.cu.cuStreamBeginCapture_v2(self.stream, 0))
        work()
        graph, run = C.c_void_p(), C.c_void_p()
        self.check(self.cu.cuStreamEndCapture(self.stream, C.byref(graph)))
        self.check(self.cu.cuGraphInstantiateWithFlags(C.byref(run), graph, C.c_ulonglong(0)))
        return run

    def replay(self, run):
        self.check(self.cu.cuGraphLaunch(run, self.stream))

    def event(self):
        e = C.c_void_p()
        self.check(self.cu.cuEventCreate(C.byref(e), 0))
        return e

    def record(self, e):
        self.check(self.cu.cuEventRecord(e, self.stream))

    def elapsed(self, a, b):
        ms = C.c_float()
        self.check(self.cu.cuEventElapsedTime(C.byref(ms), a, b))
        return ms.value


class Emulator:
    """The kernels as fibers on this processor."""

    name, sm_count = "emulator", 132

    def __init__(self, kit):
        path, folder = os.path.join(kit, "libemulator.so"), os.path.join(HERE, "..", "emulator")
        sources = [os.path.join(folder, f) for f in ("kernels.cpp", "emulator.cpp")]
        kernels = os.path.join(HERE, "..", "..", "kernels")
        newest = max(os.path.getmtime(os.path.join(d, f)) for d in (folder, kernels) for f in os.listdir(d))
        if not os.path.exists(path) or os.path.getmtime(path) < newest:
            subprocess.run(["g++", "-std=c++20", "-O2", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC",
                            "-DNVFP4_EMULATED", "-I", folder, "-I", kernels, "-o", path, *sources], check=True)
        self.lib = C.CDLL(path)
        self.held = {}

    def alloc(self, size):
        a = aligned(size)
        self.held[a.ctypes.data] = a
        return a.ctypes.data

    def free(self, p):
        del self.held[p]

    def upload(self, p, a):
        C.memmove(p, a.ctypes.data, a.nbytes)

    def download(self, p, size):
        return np.frombuffer(C.string_at(p, size), np.uint8)

    def run(self, steps):
        for s in steps:
            if s.kind == 0:
                C.memset(s.dst, 0, 4 * s.words)
            else:
                f = self.lib[s.name.decode() + "_run"]
                f(C.c_uint32(s.grid_x), C.c_uint32(s.grid_y), C.c_uint32(s.threads), C.c_void_p(C.addressof(s) + Step.params.offset))

    def sync(self):
        pass


def aligned(size):
    raw = np.empty(size + 256, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start:start + size]


# ---------------------------------------------------------------- cases


class P(str):
    """A word that is the address of a buffer."""


class Case:
    def __init__(self, name, op=0, sm_count=132):
        self.name, self.op, self.sm_count = name, op, sm_count
        self.buffers, self.size, self.words = [], 256, []

    def add(self, name, data=None, size=None, offset=0):
        """A buffer with bytes, or an output of `size` poisoned bytes; `offset` bytes past a multiple of 256."""
        if data is not None:
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            size = data.size
        at = self.size + offset
        self.buffers.append((name, at, size, data))
        self.size = (at + size + 64 + 255) // 256 * 256
        return P(name)

    def arena(self, poison):
        a = aligned(self.size)
        a[:] = poison
        for _, at, _, data in self.buffers:
            if data is not None:
                a[at:at + data.size] = data
        return a

    def resolve(self, base):
        where = {name: base + at for name, at, _, _ in self.buffers}
        return (C.c_uint64 * len(self.words))(*[where[w] if isinstance(w, P) else int(w) for w in self.words])

    def locate(self, at):
        for name, start, size, _ in self.buffers:
            if start - 64 <= at < start + size + 64:
                return f"{name}+{at - start}" + ("" if 0 <= at - start < size else " (guard)")
        return f"arena+{at}"


def f32_bits(x):
    return int(np.float32(x).view(np.uint32))


def to_dtype(x, dtype):
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.float32)
        if dtype == 2:
            return x
        if dtype == 1:
            return x.astype(np.float16)
    b = x.view(np.uint32).astype(np.uint64)
    out = ((b + 0x7FFF + (b >> 16 & 1)) >> 16).astype(np.uint16)
    out[np.isnan(x)] = 0xFFC1  # a NaN with sign and payload
    return out


def values(rng, shape, dtype, kind):
    """gauss; wide: magnitudes over the whole range; edge: gauss with zeros, infinities, NaNs, subnormals, whole zero blocks;
    ties: few small integers times a power of two a block, where the candidates of a rule err alike, exactly or by an ulp."""
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "wide":
        x *= np.exp2(rng.integers(-40 if dtype != 1 else -18, 40 if dtype != 1 else 14, shape)).astype(np.float32)
    if kind == "ties" and x.size >= 16:
        most, e = (60, 14) if dtype != 1 else (6, 4)
        flat, n = x.reshape(-1), x.size // 16
        small = rng.integers(-12, 13, (n, 16)) * (rng.random((n, 16)) < rng.choice([0.1, 0.3, 1.0], (n, 1)))
        power = np.where(rng.random((n, 1)) < 0.5, rng.integers(-e, 3, (n, 1)), rng.integers(-most, min(most, 11), (n, 1)))
        flat[:16 * n] = (small * np.exp2(power.astype(np.float32))).astype(np.float32).reshape(-1)
    if kind == "tiny":
        x *= np.float32(1e-38)
    if kind == "edge" and x.size:
        flat = x.reshape(-1)
        n = flat.size
        special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3e38, 65504, 1e-7, 6, 448], np.float32)
        at = rng.integers(0, n, max(n // 60, 1))
        flat[at] = special[rng.integers(0, special.size, at.size)]
        for b in rng.integers(0, max(n // 16, 1), max(n // 400, 1)):
            flat[16 * b:16 * b + 16] = 0
    return to_dtype(x, dtype)


def strided(rng, rows, cols, stride, dtype, kind):
    """rows × cols in a buffer of that stride; what lies between rows is a value that must not matter."""
    raw = np.full(max(rows * stride, 1), np.float32(1e30) if dtype != 1 else np.float32(6e4), np.float32)
    out = to_dtype(raw, dtype)
    v = values(rng, (rows, cols), dtype, kind)
    for r in range(rows):
        out[r * stride:r * stride + cols] = v[r]
    return out


def scale_rows(groups, tile):
    kind, _, count, rows = groups
    up = lambda n: -(-n // tile) * tile
    return up(rows) if kind == NONE else up(rows + (tile - 1) * min(count, rows)) if kind == ENDS else count * up(rows)


def make_groups(rng, case, kind, rows, bad=False, count=None):
    """(kind, index word, count, rows of the struct), total logical rows."""
    if kind == NONE:
        return (NONE, 0, 1, rows), rows
    count = count or int(rng.integers(2, 9))
    if kind == ENDS:
        ends = np.sort(rng.integers(0, rows + 1, count)).astype(np.int32)
        if count > 3:
            ends[2] = ends[1]
        if bad:
            ends[rng.integers(0, count)] = -7
            ends[rng.integers(0, count)] = rows + 9
            ends[rng.integers(0, count)] = 1
        return (ENDS, case.add("ends", ends), count, rows), rows
    most = max(rows // count, 1)
    if kind == MASKED:
        counts = rng.integers(0, most + 1, count).astype(np.int32)
        if bad:
            counts[rng.integers(0, count)] = most + 3
            counts[rng.integers(0, count)] = -1
        return (MASKED, case.add("counts", counts), count, most), most * count
    return (STRIDED, 0, count, most), most * count


def quantize_case(rng, name, *, rows, cols, dtype=0, producer=PLAIN, grouping=NONE, layout=1, rule=0, scope=TENSOR, dynamic=False,
                  kind="gauss", pad=0, codes_pad=0, scales_pad=0, copy=False, copy_pad=0, normed=False, inv_rms=False, weight_dtype=0, offset=0.0,
                  eps=1e-6, streams=1, interleaved=0, limit=0.0, alpha=1.0, beta=0.0, amax=False, bad=False, count=None, sm_count=132, shift=0,
                  g=None, wild=None, every_gate=False):
    c = Case(name, 0, sm_count)
    groups, total = make_groups(rng, c, grouping, rows, bad, count)
    width = {SWIGLU: 2 * cols, HYPER: streams * cols}.get(producer, cols)
    e = np.dtype([np.uint16, np.float16, np.float32][dtype]).itemsize
    if producer == TRANSPOSED:
        inner = total if grouping == NONE else groups[3]
        stride = inner + pad
        n = groups[2] if grouping == STRIDED else 1
        src = strided(rng, cols * n, inner, stride, dtype, kind)
        group_stride = cols * stride
    else:
        stride = width + pad
        src = strided(rng, total, width, stride, dtype, kind)
        group_stride = groups[3] * stride if grouping == STRIDED else 0
    if wild is not None:
        np.seterr(over="ignore")
        src = to_dtype(np.asarray(src.view(np.uint16) if dtype == 0 else src).astype(np.float32) if dtype else
                       (src.astype(np.uint32) << 16).view(np.float32) * np.float32(wild), dtype) if dtype == 0 else (src * src.dtype.type(wild))
    if every_gate:  # all 65536 bfloat16 gates, each beside another up
        src.reshape(rows, stride)[:, :cols] = np.arange(65536, dtype=np.uint16).reshape(rows, cols)
    src = c.add("src", src, offset=shift * e)
    w = [*groups, cols, producer, dtype, src, stride, group_stride]
    copy_stride = cols + copy_pad
    if copy and producer == NORM:
        w += [c.add("residual", strided(rng, total, cols, copy_stride, dtype, kind)), copy_stride, 0]
    elif copy:
        w += [c.add("copy", size=total * copy_stride * e), copy_stride, 0]
    else:
        w += [0, 0, 0]
    w += [c.add("normed", size=total * copy_stride * e), copy_stride, 0] if normed else [0, 0, 0]
    w += [c.add("inv_rms", size=4 * total) if inv_rms else 0]
    norm = producer in (NORM, HYPER)
    w += [c.add("weight", values(rng, cols, weight_dtype, "gauss")) if norm else 0, weight_dtype, f32_bits(offset), f32_bits(eps)]
    w += [cols, streams, c.add("mix", rng.standard_normal((total, streams)).astype(np.float32)) if producer == HYPER else 0, streams]
    w += [interleaved, f32_bits(limit), f32_bits(alpha), f32_bits(beta)]
    blocks = cols // 16
    codes_stride = cols // 2 + codes_pad
    tile = [1, 128, 8][layout]
    scales_stride = blocks + scales_pad if layout == 0 else 0
    if amax:
        w += [0, 0, 0, 0, 0, 0, 0]
    else:
        size = scale_rows(groups, tile) * -(-blocks // 4) * 4 if layout else (total * scales_stride)
        w += [1, c.add("codes", size=total * codes_stride), codes_stride, layout, c.add("scales", size=size), scales_stride, rule]
    entries = {TENSOR: 1, GROUP: groups[2], ROW: total}[scope]
    if dynamic or amax:
        decode = c.add("decode", size=4 * entries)
    else:
        d = np.full(entries, 1.5 / 2688 if g is None else g, np.float32)
        if g is None and entries > 1:
            d *= np.exp2(rng.integers(-3, 3, entries)).astype(np.float32)
        if kind == "edge" and entries > 2:
            d[1], d[2] = np.nan, 0
        decode = c.add("decode", d)
    c.words = w + [scope, int(dynamic or amax), decode]
    return c


def dequantize_case(rng, name, *, rows, cols, dtype=0, layout=1, grouping=NONE, scope=TENSOR, pad=0, codes_pad=0, null=False, bad=False):
    c = Case(name, 1)
    groups, total = make_groups(rng, c, grouping, rows, bad)
    blocks, tile = cols // 16, [1, 128, 8][layout]
    cs = cols // 2 + codes_pad
    codes = c.add("codes", rng.integers(0, 256, total * cs).astype(np.uint8))
    scales = rng.integers(0, 128, scale_rows(groups, tile) * -(-blocks // 4) * 4 if layout else total * blocks).astype(np.uint8)
    scales[rng.integers(0, scales.size, scales.size // 50 + 1)] |= 0x80
    scales = c.add("scales", scales)
    entries = {TENSOR: 1, GROUP: groups[2], ROW: total}[scope]
    decode = 0 if null else c.add("decode", np.exp2(rng.uniform(-20, 4, entries)).astype(np.float32))
    stride = cols + pad
    dst = c.add("dst", size=total * stride * BYTES[dtype])
    c.words = [*groups, cols, codes, cs, layout, scales, 0 if layout else blocks, scope, decode, dtype, dst, stride,
               groups[3] * stride if grouping == STRIDED else 0]
    return c


def move_case(rng, name, *, rows, blocks, layout, forward, grouping=NONE, pad=0, bad=False):
    c = Case(name, 2)
    groups, total = make_groups(rng, c, grouping, rows, bad)
    tiled_size = scale_rows(groups, [1, 128, 8][layout]) * -(-blocks // 4) * 4
    linear_size = total * (blocks + pad)
    data = rng.integers(0, 256, linear_size if forward else tiled_size).astype(np.uint8)
    src = c.add("src", data)
    dst = c.add("dst", size=tiled_size if forward else linear_size)
    linear, tiled = (src, dst) if forward else (dst, src)
    a, b = [0, linear, blocks + pad], [layout, tiled, 0]
    c.words = [*groups, blocks, *(a + b if forward else b + a)]
    return c


def cases(rng):
    kinds = ["gauss", "wide", "edge", "tiny"]
    pick = lambda *a: a[int(rng.integers(0, len(a)))]
    q = lambda name, **k: quantize_case(rng, name, **k)
    # Every dtype, layout, rule and scope on aligned rows.
    for dtype in range(3):
        for layout in range(3):
            for rule in range(3):
                for scope, dynamic in ((TENSOR, False), (ROW, False), (TENSOR, True), (ROW, True)):
                    kind = pick(*kinds)
                    rows, cols = pick(1, 7, 8, 33, 127, 130), pick(16, 48, 64, 272, 512)
                    if rule == 2:
                        rows = min(rows, 9)
                    yield q(f"plain {DTYPES[dtype]} {LAYOUTS[layout]} {RULES[rule]} scope {scope} {'dynamic' if dynamic else 'static'} {kind} {rows}x{cols}",
                            rows=rows, cols=cols, dtype=dtype, layout=layout, rule=rule, scope=scope, dynamic=dynamic, kind=kind, sm_count=pick(1, 132))
    # Four rows a CTA; long rows; rows past the caches.
    for dtype, cols, rows in ((0, 7168, 6), (0, 272, 300), (1, 4096, 140), (0, 8192, 3), (0, 8208, 3), (1, 16384, 2), (2, 16384, 2), (0, 16400, 2), (2, 4112, 9)):
        for producer in (PLAIN, NORM):
            for scope, dynamic in ((ROW, True), (TENSOR, False)):
                yield q(f"cached {DTYPES[dtype]} producer {producer} scope {scope} {rows}x{cols}", rows=rows, cols=cols, dtype=dtype, producer=producer,
                        scope=scope, dynamic=dynamic, kind=pick("gauss", "edge"), sm_count=1, copy=producer == NORM, normed=True, inv_rms=True)
    # Groups.
    for grouping in (ENDS, MASKED, STRIDED):
        for layout in range(3):
            for scope, dynamic in ((TENSOR, False), (GROUP, False), (ROW, False), (TENSOR, True), (GROUP, True), (ROW, True)):
                for bad in (False, True) if grouping != STRIDED else (False,):
                    rows, cols = pick(0, 5, 60, 150, 270), pick(16, 80, 128)
                    yield q(f"groups {grouping} {LAYOUTS[layout]} scope {scope} {'dynamic' if dynamic else 'static'} bad {bad} {rows}x{cols}", rows=rows,
                            cols=cols, dtype=pick(0, 1, 2), layout=layout, grouping=grouping, scope=scope, dynamic=dynamic, bad=bad,
                            kind=pick(*kinds), sm_count=pick(1, 132), pad=pick(0, 16, 3))
    for count in (300, 700, 1500):
        for scope, dynamic in ((GROUP, True), (ROW, True), (TENSOR, False)):
            yield q(f"{count} groups scope {scope}", rows=400, cols=32, grouping=ENDS, count=count, layout=2, scope=scope, dynamic=dynamic, sm_count=1,
                    bad=count == 700)
    # Rows at any stride and alignment.
    for dtype in range(3):
        for layout in range(3):
            for pad, codes_pad, shift in ((1, 0, 0), (0, 3, 0), (8, 1, 1), (5, 8, 0)):
                yield q(f"unaligned {DTYPES[dtype]} {LAYOUTS[layout]} {pad} {codes_pad} {shift}", rows=pick(3, 17, 129), cols=pick(16, 112), dtype=dtype,
                        layout=layout, pad=pad, codes_pad=codes_pad, shift=shift, scope=pick(TENSOR, ROW), dynamic=pick(True, False),
                        rule=pick(0, 0, 1), kind="edge", scales_pad=pick(0, 5) if layout == 0 else 0)
    for dtype in range(3):
        for grouping in (NONE, STRIDED):
            for scope, dynamic in ((TENSOR, False), (ROW, True), (TENSOR, True)):
                yield q(f"transposed {DTYPES[dtype]} grouping {grouping} scope {scope}", rows=pick(5, 40, 130), cols=pick(16, 48, 144), dtype=dtype,
                        producer=TRANSPOSED, grouping=grouping, layout=pick(0, 1, 2), scope=scope, dynamic=dynamic, kind="edge", pad=pick(0, 3))
    # Static decode scales that clamp, saturate or are unusable.
    for g in (np.inf, np.nan, -1.0, 0.0, 1e-45, 1e-38, 3e38, 1e-6, 1e30, 5e-39):
        for rule in range(3):
            yield q(f"decode scale {g} {RULES[rule]}", rows=4, cols=64, dtype=pick(0, 1, 2), layout=pick(0, 1, 2), rule=rule, kind=pick("wide", "edge", "tiny"), g=g)
    # Norms.
    for dtype in range(3):
        for producer in (NORM, HYPER):
            for scope, dynamic in ((TENSOR, False), (ROW, False), (ROW, True), (TENSOR, True)):
                for copy in (False, True):
                    rows, cols = pick(1, 4, 9, 130), pick(16, 48, 272, 1040)
                    yield q(f"norm {producer} {DTYPES[dtype]} scope {scope} {'dynamic' if dynamic else 'static'} copy {copy} {rows}x{cols}", rows=rows, cols=cols,
                            dtype=dtype, producer=producer, scope=scope, dynamic=dynamic, copy=copy, copy_pad=pick(0, 0, 16, 1), normed=pick(True, False),
                            inv_rms=pick(True, False), weight_dtype=pick(0, 1, 2), offset=pick(0.0, 1.0), streams=int(rng.integers(1, 5)) if producer == HYPER else 1,
                            layout=pick(0, 1, 2), rule=pick(0, 0, 1), kind=pick("gauss", "wide", "edge"), sm_count=pick(1, 132), eps=pick(1e-6, 1e-5))
    for grouping in (ENDS, MASKED):
        for dtype in (0, 1):
            for scope, dynamic in ((TENSOR, False), (GROUP, False), (ROW, True)):
                yield q(f"norm groups {grouping} {DTYPES[dtype]} scope {scope}", rows=pick(20, 150), cols=pick(48, 272), dtype=dtype, producer=NORM,
                        grouping=grouping, layout=pick(0, 1, 2), scope=scope, dynamic=dynamic, copy=pick(True, False), normed=pick(True, False), kind="edge")
    # Activations.
    for dtype in range(3):
        for producer in (SWIGLU, RELU2, IDENTITY):
            for interleaved in (0, 1) if producer != RELU2 else (0,):
                for scope, dynamic in ((TENSOR, False), (ROW, True), (TENSOR, True)):
                    for wild in (None, 30.0):
                        yield q(f"gated {producer} {DTYPES[dtype]} interleaved {interleaved} scope {scope} wild {wild}", rows=pick(1, 9, 130), cols=pick(32, 96, 288),
                                dtype=dtype, producer=producer, interleaved=interleaved, scope=scope, dynamic=dynamic, copy=pick(True, False),
                                copy_pad=pick(0, 8), layout=pick(0, 1, 2), rule=pick(0, 0, 1), kind=pick("gauss", "edge", "wide"), grouping=pick(NONE, ENDS, MASKED),
                                limit=pick(0.0, 10.0, 7.0), alpha=pick(1.0, 1.702, -0.5), beta=pick(0.0, 1.0), wild=wild, sm_count=pick(1, 132))
    # What bfloat16 computes approximately first: every gate, and a million pairs.
    for alpha, beta, limit in ((1.0, 0.0, 0.0), (1.702, 1.0, 0.0), (1.702, 1.0, 7.0), (-0.5, 0.0, 7.1), (0.1, 0.0, 0.0), (1.0, 1e-30, 10.0)):
        for kind, copy in (("gauss", True), ("wide", True), ("edge", False)):
            for scope, dynamic in ((TENSOR, False), (ROW, True)):
                yield q(f"gated gates {kind} {alpha} {beta} {limit} scope {scope}", rows=256, cols=256, producer=SWIGLU, every_gate=True, kind=kind, copy=copy,
                        alpha=alpha, beta=beta, limit=limit, scope=scope, dynamic=dynamic, g=1.0)
    for copy in (True, False):
        yield q(f"gated million copy {copy}", rows=1024, cols=1024, producer=SWIGLU, copy=copy, g=0.01)
    for dtype in range(3):
        for grouping in (NONE, ENDS, MASKED, STRIDED):
            for scope in (TENSOR, GROUP, ROW) if grouping else (TENSOR, ROW):
                yield q(f"amax {DTYPES[dtype]} grouping {grouping} scope {scope}", rows=pick(0, 3, 90), cols=pick(16, 272), dtype=dtype, grouping=grouping,
                        scope=scope, amax=True, kind="edge", pad=pick(0, 16, 1))
    for dtype in range(3):
        for layout in range(3):
            for grouping in (NONE, ENDS, MASKED, STRIDED):
                yield dequantize_case(rng, f"dequantize {DTYPES[dtype]} {LAYOUTS[layout]} grouping {grouping}", rows=pick(1, 60, 150), cols=pick(16, 80, 272),
                                      dtype=dtype, layout=layout, grouping=grouping, scope=pick(TENSOR, ROW) if grouping == NONE else pick(TENSOR, GROUP, ROW),
                                      pad=pick(0, 16, 1), codes_pad=pick(0, 8, 3), null=pick(True, False), bad=pick(True, False))
    for layout in (1, 2):
        for forward in (True, False):
            for grouping in (NONE, ENDS, MASKED, STRIDED):
                yield move_case(rng, f"scales {LAYOUTS[layout]} forward {forward} grouping {grouping}", rows=pick(1, 60, 300), blocks=pick(1, 3, 4, 67, 300),
                                layout=layout, forward=forward, grouping=grouping, pad=pick(0, 5), bad=pick(True, False))
    for forward in (1, 0):
        for row_bytes in (1, 16, 48, 1040, 33):
            c = Case(f"interleave {forward} {row_bytes}", 3)
            granularity = pick(1, 8, 16)
            half, count = granularity * pick(1, 3), pick(1, 4)
            data = rng.integers(0, 256, count * 2 * half * row_bytes).astype(np.uint8)
            c.words = [c.add("src", data), c.add("dst", size=data.size), count, half, row_bytes, granularity, forward]
            yield c
    # FOUR_OVER_SIX where both candidates err alike, or where their errors leave the range of floats.
    for dtype in range(3):
        for g in (2.0**-9, np.nextafter(np.float32(2**-9), np.float32(1)), np.nextafter(np.float32(2**-9), np.float32(0)), 0.003, 0.37):
            yield q(f"ties {DTYPES[dtype]} g {g}", rows=130, cols=512, dtype=dtype, layout=pick(0, 1, 2), rule=1, kind="ties", g=g)
        for grouping in (ENDS, MASKED):
            yield q(f"ties {DTYPES[dtype]} grouping {grouping}", rows=150, cols=272, dtype=dtype, layout=1, rule=1, kind="ties", grouping=grouping, g=2.0**-8)
        for scope in (TENSOR, ROW):
            yield q(f"ties {DTYPES[dtype]} dynamic {scope}", rows=70, cols=256, dtype=dtype, layout=pick(0, 1), rule=1, kind="ties", scope=scope, dynamic=True)
    for wild in (1e20, 1e-24, 2.0**50, 2.0**-50, 1e30, 1e-36):
        yield q(f"errors out of range {wild}", rows=20, cols=256, rule=1, scope=ROW, g=wild / 500, wild=wild, kind=pick("gauss", "ties"))
    for tokens, routes in ((3, 6), (33, 8), (0, 4)):
        c = quantize_case(rng, f"stage {tokens}", rows=tokens, cols=128, layout=0, g=1.0)
        c.op, n = 4, tokens * routes
        c.words[-1] = 0 if tokens == 3 else c.words[-1]  # NULL: 1
        c.expect_words = {len(c.words) - 1: c.add("one", np.ones(1, np.float32))} if tokens == 3 else {}
        c.words += [n, c.add("ids", rng.integers(-3, 256, n + 1).astype(np.int32)), c.add("ids_out", size=8 * n),
                    c.add("weights", rng.standard_normal(n + 1).astype(np.float32)), c.add("weights_out", size=4 * n)]
        yield c


# ---------------------------------------------------------------- the comparison


def load_kit(kit):
    lib = C.CDLL(os.path.join(os.path.abspath(kit), "libplan_rows.so"))
    lib.kit_plan.restype = lib.kit_step_bytes.restype = C.c_size_t
    lib.kit_cpu.restype = C.c_uint64
    assert lib.kit_step_bytes() == C.sizeof(Step), "Step differs from tests/gpu/plan_rows.rs"
    return lib


def plan(lib, case, words, fault, sm_count=None):
    steps = (Step * 6)()
    n = lib.kit_plan(C.c_uint32(case.op), words, C.c_size_t(len(words)), C.c_uint32(sm_count or case.sm_count), C.c_uint64(fault), steps, C.c_size_t(6))
    return [steps[i] for i in range(n)]


def check(device, lib, case, show):
    """Texts of what differs."""
    problems, used = [], []
    for poison in (0xA5, 0x5A):
        expected = case.arena(poison)
        words = case.resolve(expected.ctypes.data)
        for i, name in getattr(case, "expect_words", {}).items():
            words[i] = expected.ctypes.data + next(at for n, at, _, _ in case.buffers if n == name)
        faults = lib.kit_cpu(C.c_uint32(case.op), words, C.c_size_t(len(words)))
        memory, fault = device.alloc(case.size), device.alloc(16)
        device.upload(memory, case.arena(poison))
        device.upload(fault, np.zeros(16, np.uint8))
        steps = plan(lib, case, case.resolve(memory), fault)
        used = [s.name.decode() for s in steps if s.kind]
        device.run(steps)
        device.sync()
        got, seen = device.download(memory, case.size), int(device.download(fault, 8).view(np.uint64)[0])
        device.free(memory)
        device.free(fault)
        if seen != faults:
            problems.append(f"faults {seen:#x}, expected {faults:#x}")
        bad = np.nonzero(got != expected)[0]
        if bad.size:
            first = " ".join(f"{case.locate(int(i))}:{got[i]:02x}/{expected[i]:02x}" for i in bad[:show])
            problems.append(f"poison {poison:02x}: {bad.size} bytes differ (got/expected): {first}")
    return problems, used


def run_tests(device, lib, options):
    rng = np.random.default_rng(options.seed)
    passed, failed, kernels = 0, 0, set()
    part, parts = map(int, options.jobs.split("/"))
    start = time.time()
    for i, case in enumerate(cases(rng)):
        if options.only not in case.name or i % parts != part:
            continue
        problems, used = check(device, lib, case, options.show)
        kernels.update(used)
        if problems:
            failed += 1
            if failed <= 25:
                print(f"FAIL {case.name} [{' '.join(used)}]")
                for text in problems:
                    print("   ", text)
        else:
            passed += 1
    names = {k for file in FILES for k in kernel_names(file)}
    print("kernels not reached:", " ".join(sorted(names - kernels)) or "none")
    print(f"{passed} passed, {failed} failed ({time.time() - start:.1f} s, {device.name}, seed {options.seed})")
    return failed


def kernel_names(file):
    path = os.path.join(HERE, "..", "..", "kernels", file + ".cu")
    with open(path) as f:
        return [line[len("NVFP4_KERNEL("):].split(",")[0] for line in f if line.startswith("NVFP4_KERNEL(")]


# ---------------------------------------------------------------- speed


def copy_rate(gpu):
    """Bytes read and written a second by a copy of 2 GiB."""
    size = 2 << 30
    a, b = gpu.alloc(size), gpu.alloc(size)
    gpu.check(gpu.cu.cuMemsetD32_v2(C.c_uint64(a), 0x3F9D3F8A, C.c_size_t(size // 4)))
    try:
        import torch

        x = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
        y = torch.empty_like(x)
        work, stream = (lambda: y.copy_(x)), None
        times = []
        for _ in range(8):
            s, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            s.record()
            work()
            e.record()
            torch.cuda.synchronize()
            times.append(s.elapsed_time(e))
        how = "torch copy_"
    except ImportError:
        times, how = [], "cuMemcpyDtoD"
        for _ in range(8):
            s, e = gpu.event(), gpu.event()
            gpu.record(s)
            gpu.check(gpu.cu.cuMemcpyDtoDAsync_v2(C.c_uint64(b), C.c_uint64(a), C.c_size_t(size), gpu.stream))
            gpu.record(e)
            gpu.sync()
            times.append(gpu.elapsed(s, e))
    gpu.free(a)
    gpu.free(b)
    return 2 * size / (float(np.median(times)) * 1e-3), how


def time_case(gpu, lib, case, copies, repeats=7, steps_edit=None):
    """Median microseconds of the case's launches, graph-replayed over `copies` arenas so that L2 holds none of them."""
    memories, lists, fault = [], [], gpu.alloc(16)
    gpu.upload(fault, np.zeros(16, np.uint8))
    arena = case.arena(0xA5)
    for _ in range(copies):
        m = gpu.alloc(case.size)
        gpu.upload(m, arena)
        memories.append(m)
        steps = plan(lib, case, case.resolve(m), fault, gpu.sm_count)
        if steps_edit:
            steps_edit(steps)
        lists.append(steps)
    rounds = max(1, 40 // copies)
    graph = gpu.graph(lambda: [gpu.run(s) for _ in range(rounds) for s in lists])
    times = []
    for i in range(repeats + 2):
        a, b = gpu.event(), gpu.event()
        gpu.record(a)
        gpu.replay(graph)
        gpu.record(b)
        gpu.sync()
        if i >= 2:
            times.append(gpu.elapsed(a, b) * 1e3 / (rounds * copies))
    for m in memories + [fault]:
        gpu.free(m)
    return float(np.median(times)), [s.name.decode() if s.kind else "zero" for s in lists[0]]


def run_times(gpu, lib, options):
    rate, how = copy_rate(gpu)
    print(json.dumps({"copy_tb_s": round(rate / 1e12, 3), "how": how}))
    rng = np.random.default_rng(1)
    R, K = 8192, 7168
    noise = {}

    def big(name, **k):
        """quantize_case without drawing a fresh gauss for every entry: one noise array, tiled."""
        key = (k.get("dtype", 0))
        if key not in noise:
            noise[key] = to_dtype(rng.standard_normal(1 << 22).astype(np.float32), key)
        global strided
        old = strided
        strided = lambda _r, rows, cols, stride, dtype, kind: np.resize(noise[dtype] if dtype in noise else noise.setdefault(dtype, to_dtype(rng.standard_normal(1 << 22).astype(np.float32), dtype)), max(rows * stride, 1))
        try:
            return quantize_case(rng, name, **k)
        finally:
            strided = old

    def report(name, case, moved, bar, copies=None, what="ratio", edit=None, note=None):
        if options.only not in name:
            return
        copies = copies or max(2, int(np.ceil((256 << 20) / case.size)))
        us, used = time_case(gpu, lib, case, min(copies, 40), steps_edit=edit)
        line = {"case": name, "us": round(us, 2), "tb_s": round(moved / us / 1e6, 3), "ratio": round(moved / (us * 1e-6) / rate, 3)}
        line["bar"] = bar
        line["kernels"] = " ".join(used)
        if note:
            line["note"] = note
        print(json.dumps(line), flush=True)

    out = lambda r, k: r * k / 2 + r * k / 16
    for dtype in (0, 2):
        b = BYTES[dtype]
        moved = R * K * b + out(R, K)
        report(f"static {DTYPES[dtype]} tiled", big("t", rows=R, cols=K, dtype=dtype), moved, 0.88)
    moved = R * K * 2 + out(R, K)
    for steps in (1, 2, 4):
        def edit(list_, steps=steps):
            shape_steps(list_, steps)
        report(f"static bf16 tiled steps {steps}", big("t", rows=R, cols=K), moved, None, edit=edit)
    def swap(new, steps=None):
        """Times another kernel of tests/gpu/variants.cu in place of the last launch's."""
        def edit(list_):
            if steps:
                shape_steps(list_, steps)
            list_[-1].name = new.encode()
        return edit

    if gpu.has_variants:
        for new, steps in (("try_quantize_2x5", 2), ("try_quantize_2x6", 2), ("try_quantize_4x4", 4), ("try_quantize_4x4", 2)):
            report(f"variant {new} steps {steps}", big("t", rows=R, cols=K), moved, None, edit=swap(new, steps))
    report("static bf16 linear", big("t", rows=R, cols=K, layout=0), moved, None)
    report("static bf16 8x4", big("t", rows=R, cols=K, layout=2), moved, None)
    report("static f16 tiled", big("t", rows=R, cols=K, dtype=1), moved, 0.88)
    report("per row bf16 tiled", big("t", rows=R, cols=K, scope=ROW, dynamic=True), moved, 0.85)
    report("per row bf16 linear", big("t", rows=R, cols=K, scope=ROW, dynamic=True, layout=0), moved, 0.85)
    report("per row bf16 tiled, a row a CTA", big("t", rows=R, cols=K, scope=ROW, dynamic=True), moved, None, edit=one_row)
    report("per row bf16 4096 tiled", big("t", rows=R, cols=4096, scope=ROW, dynamic=True), moved * 4096 / K, None)
    report("per tensor bf16 tiled", big("t", rows=R, cols=K, dynamic=True), moved, 0.5)
    report("four over six bf16", big("t", rows=R, cols=K, rule=1), moved, 0.7)
    case = big("t", rows=R, cols=K, rule=2)
    report("min mse bf16", case, moved, None, note="bar: 117.4 MB of bf16 at 200 GB/s = 587 us")
    report("four over six per row", big("t", rows=R, cols=K, rule=1, scope=ROW, dynamic=True), moved, None)
    report("rmsnorm static", big("t", rows=R, cols=K, producer=NORM), moved, 0.85)
    report("rmsnorm per row", big("t", rows=R, cols=K, producer=NORM, scope=ROW, dynamic=True), moved, 0.85)
    report("rmsnorm per row, residual", big("t", rows=R, cols=K, producer=NORM, scope=ROW, dynamic=True, copy=True), moved + 2 * R * K * 2, 0.85)
    report("hyper 4 streams per row", big("t", rows=2048, cols=K, producer=HYPER, streams=4, scope=ROW, dynamic=True), 2048 * K * 8 + out(2048, K), None)
    report("swiglu static I 7168", big("t", rows=R, cols=K, producer=SWIGLU), moved + R * K * 2, 0.85)
    report("swiglu per row I 3072", big("t", rows=R, cols=3072, producer=SWIGLU, scope=ROW, dynamic=True), (moved + R * K * 2) * 3072 / K, 0.85)
    report("swiglu static I 3072 interleaved", big("t", rows=R, cols=3072, producer=SWIGLU, interleaved=1), (moved + R * K * 2) * 3072 / K, 0.85)
    if gpu.has_variants:
        gated = lambda: big("t", rows=R, cols=K, producer=SWIGLU)
        report("variant try_gated_2x2", gated(), moved + R * K * 2, None, edit=gated_steps("try_gated_2x2", 2))
    report("relu2 static", big("t", rows=R, cols=K, producer=RELU2), moved, None)
    report("grouped ends static tiled", big("t", rows=R, cols=K, grouping=ENDS, count=48), moved, None)
    report("grouped ends per row tiled", big("t", rows=R, cols=K, grouping=ENDS, count=256, scope=ROW, dynamic=True), moved, None)
    report("transposed static", big("t", rows=7168, cols=2048, producer=TRANSPOSED), 7168 * 2048 * 2.5625, None)
    report("general static (odd stride)", big("t", rows=2048, cols=K, pad=1), moved / 4, None)
    for rows in (1, 8, 64, 256):
        m = moved * rows / R
        report(f"small static {rows}", big("t", rows=rows, cols=K), m, "2.2 us", copies=20)
        report(f"small per row {rows}", big("t", rows=rows, cols=K, scope=ROW, dynamic=True), m, "3 us", copies=20)
        report(f"small rmsnorm {rows}", big("t", rows=rows, cols=K, producer=NORM, scope=ROW, dynamic=True, copy=True), m, "3 us", copies=20)
        report(f"small static linear {rows}", big("t", rows=rows, cols=K, layout=0), m, "2.2 us", copies=20)
    case = dequantize_case(rng, "t", rows=R, cols=K)
    report("dequantize bf16", case, moved, None)
    report("tile scales", move_case(rng, "t", rows=R, blocks=K // 16, layout=1, forward=True), 2 * R * K / 16, None, copies=20)


# Offsets inside RowsParams (kernels/params.cuh).
COLS, STEPS = 32, 244


def shape_steps(list_, steps):
    """Rewrites a tile launch for another number of column steps."""
    for s in list_:
        if s.name.startswith(b"nvfp4_quantize_"):
            raw = bytearray(s.params)
            cols = int.from_bytes(raw[COLS:COLS + 8], "little")
            raw[STEPS:STEPS + 4] = steps.to_bytes(4, "little")
            C.memmove(C.addressof(s) + Step.params.offset, bytes(raw), len(raw))
            warps = 16 * -(-(cols // 64) // steps)
            s.grid_x, s.threads = -(-warps // 8), 256


def gated_steps(new, steps):
    def edit(list_):
        s = list_[-1]
        raw = bytearray(s.params)
        cols = int.from_bytes(raw[COLS:COLS + 8], "little")
        raw[STEPS:STEPS + 4] = steps.to_bytes(4, "little")
        C.memmove(C.addressof(s) + Step.params.offset, bytes(raw), len(raw))
        s.grid_x, s.threads, s.name = -(-(16 * -(-(cols // 64) // steps)) // 8), 256, new.encode()
    return edit


def one_row(list_):
    for s in list_:
        if s.name.endswith(b"_x4"):
            s.name = s.name[:-3]
            s.grid_x *= 4


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit", required=True)
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--no-times", action="store_true")
    parser.add_argument("--show", type=int, default=6)
    parser.add_argument("--jobs", default="0/1")
    options = parser.parse_args()
    lib = load_kit(options.kit)
    device = (Emulator if options.emulate else Gpu)(options.kit)
    failed = 0 if options.no_tests else run_tests(device, lib, options)
    if not options.emulate and not options.no_times:
        run_times(device, lib, options)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds the product and weight kernels to a float64 reference, poisons and guard bytes, and times them beside torch.

On a GPU (needs torch, numpy, the driver): kernels_gemm.py DIR [--cases N] [--seed S] [--no-time]; DIR holds gemm.cubin, weights.cubin and, for sm_90a, gemm_sm90_few.cubin.
On a CPU: kernels_gemm.py --emulate LIB.so, LIB built from tests/gpu/emulator. Nothing is compiled here.
Prints JSON lines: a line for each failed check and each timing, and one closing line; exits 1 if anything failed.
"""
import argparse, ctypes, json, math, os, sys, time
import numpy as np

# ---------------------------------------------------------------- the parameter structs, as kernels/params_gemm.cuh

P, I64, U64, U32, F32 = ctypes.c_uint64, ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_float


def struct(name, *fields):
    return type(name, (ctypes.Structure,), {"_fields_": [(n, t) for names, t in fields for n in names.split()]})


GemmParams = struct(
    "GemmParams",
    ("index a a_scales a_decode weights bias out out_scales out_decode partials counters fault", P),
    ("a_row_stride a_group_stride a_scales_row_stride out_row_stride out_group_stride out_scales_row_stride rows", I64),
    ("units_at", U64),
    ("groups grouping weight_rows cols splits a_layout a_scope a_vectors bias_dtype activation out_dtype out_vectors accumulate out_layout out_scope", U32),
    ("limit alpha beta", F32),
    ("reserved0 reserved1", U32),
)
WeightsParams = struct(
    "WeightsParams",
    ("storage codes scales decode values fault", P),
    ("row_stride group_stride", I64),
    ("units_at", U64),
    ("groups rows cols gate_up scale_layout dtype transposed rule decode_step reserved", U32),
)
Sm90Params = struct("Sm90Params", ("gemm", GemmParams), ("token", U64), ("schedule dependent", U32))
assert ctypes.sizeof(GemmParams) == 240 and ctypes.sizeof(WeightsParams) == 112 and ctypes.sizeof(Sm90Params) == 256

BF16, F16, F32D, CODES = 0, 1, 2, 3
NONE, ENDS, MASKED, STRIDED = 0, 1, 2, 3
LINEAR, T128, T8 = 0, 1, 2
TENSOR, GROUP, ROW = 0, 1, 2
SWIGLU, RELU2 = 1, 2
TILE_ROWS = {LINEAR: 1, T128: 128, T8: 8}
# tokens of a block: (threads, stages, blocks of 128 weight rows), as kernels/gemm.cu
SHAPES = {8: (128, 6, 1), 16: (128, 6, 1), 32: (128, 5, 1), 64: (128, 4, 1), 128: (256, 3, 2)}
OPERAND = {BF16: "bf16", F16: "f16", CODES: "codes"}
# kernels/gemm_sm90_few.cu: (tokens, units of 128 rows) of a tile; 4 warps a unit and 4 beside them, stages of 128 k
FEW = (8, 2), (8, 4), (16, 4)
WHOLE_TILES, SPLIT_REMAINDER, SPLIT_TWO_WAVES, SPLIT_ALL = range(4)


def few_shared(tokens, units):
    stages, jobs = 5, 4
    return stages * (2 * units * 4608 + tokens * 272) + jobs * 128 + 4 * units * 640 + 16 * (stages + jobs)


def few_workspace(tokens, units, grid):
    """bytes of partial sums"""
    return grid * 4 * units * tokens * 256


def cdiv(a, b):
    return -(-a // b)


def up(a, b):
    return cdiv(a, b) * b


# ---------------------------------------------------------------- formats in numpy

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
E4M3 = np.array([(b & 7) * 2.0**-9 if b & 0x7F < 8 else (1 + (b & 7) / 8) * 2.0 ** ((b >> 3 & 15) - 7) for b in range(256)], np.float32)
E4M3[128:] = -E4M3[128:]
E4M3[0x7F] = E4M3[0xFF] = np.nan


def bf16_to_f32(u):
    return (u.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(x):
    x = np.ascontiguousarray(x, np.float32)
    b = x.view(np.uint32)
    r = ((b + 0x7FFF + (b >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), r)


def to_bytes(x, dtype):
    x = np.ascontiguousarray(x, np.float32)
    return {BF16: lambda: f32_to_bf16(x), F16: lambda: x.astype(np.float16).view(np.uint16), F32D: lambda: x}[dtype]().view(np.uint8).reshape(*x.shape[:-1], -1)


def from_bytes(b, dtype):
    b = np.ascontiguousarray(b)
    if dtype == F32D:
        return b.view(np.float32)
    u = b.view(np.uint16)
    return bf16_to_f32(u) if dtype == BF16 else u.view(np.float16).astype(np.float32)


SIZE = {BF16: 2, F16: 2, F32D: 4}


def nibbles(codes):
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def tiled_offset(layout, r, c, blocks):
    t = cdiv(blocks, 4)
    if layout == T128:
        return ((r // 128) * t + c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
    return ((r // 8) * t + c // 4) * 32 + (r % 8) * 4 + c % 4


FMAX = np.float32(3.402823466e38)


def e2m1_encode(y):
    m = np.abs(y)
    c = (m > 0.25).astype(np.uint8) + (m >= 0.75) + (m > 1.25) + (m >= 1.75) + (m > 2.5) + (m >= 3.5) + (m > 5.0)
    return (c | (np.signbit(y).astype(np.uint8) << 3)).astype(np.uint8)


def e4m3_encode(t):
    t = np.minimum(t, np.float32(448))
    small = (t + np.float32(24576)).view(np.uint32) & 0xFF
    b = t.view(np.uint32)
    return np.where(t < np.float32(0.015625), small, ((b + 0x7FFFF + (b >> 20 & 1)) >> 20) - 960).astype(np.uint8)


def quantize(x, encode_scale, invalid, rule):
    """x [..., 16] f32; encode_scale, invalid broadcast over blocks → codes [..., 8], scales, flags"""
    one = np.float32(1)
    with np.errstate(all="ignore"):
        inverse, sixth = one / encode_scale, encode_scale * np.float32(1 / 6)
        inverse = np.broadcast_to(inverse, x.shape[:-1])
        bad = ~np.isfinite(x).all(-1)
        t = (np.abs(np.where(bad[..., None], 0, x)).max(-1) * sixth).astype(np.float32)

        def codes_of(s):
            r = np.minimum(one / (E4M3[s] * inverse), FMAX)
            c = e2m1_encode(x * r[..., None])
            return np.where((s == 0)[..., None], 0, c).astype(np.uint8)

        def error(s):
            c = codes_of(s)
            total = np.zeros(x.shape[:-1], np.float32)
            for i in range(16):
                d = E2M1[c[..., i]] * E4M3[s] * inverse - x[..., i]
                total = total + d * d
            return total

        best = e4m3_encode(t)
        if rule == 1:
            wide = e4m3_encode(t * np.float32(1.5))
            best = np.where(error(wide) < error(best), wide, best)
        if rule == 2:
            base, least = best.astype(int), error(best)
            for step in range(1, 8):
                for sign in (-1, 1):
                    c = np.clip(base + sign * step, 0, 126).astype(np.uint8)
                    e = error(c)
                    best, least = np.where(e < least, c, best), np.where(e < least, e, least)
        codes = codes_of(best)
        dead = bad | invalid
        codes = np.where(dead[..., None], 0, codes).astype(np.uint8)
        scales = np.where(dead, 0x7F, best).astype(np.uint8)
        flags = (2 if np.any(invalid) else 0) | (4 if np.any(bad & ~np.broadcast_to(invalid, bad.shape)) else 0) | (8 if np.any((t > 464) & ~dead) else 0)
    return codes[..., ::2] | codes[..., 1::2] << 4, scales, flags


def static_scale(g):
    g = np.asarray(g, np.float32)
    with np.errstate(all="ignore"):
        return np.where(g > 0, np.minimum(np.float32(1) / g, FMAX), np.float32(1)).astype(np.float32), ~(np.isfinite(g) & (g > 0))


# ---------------------------------------------------------------- devices

GUARD = 256


class Buffer:
    """`size` bytes between guards; `fill` is the poison or None for data."""

    def __init__(self, device, size, poison=0xEE, data=None):
        self.device, self.size, self.poison = device, size, poison
        host = np.full(size + 2 * GUARD, poison, np.uint8)
        if data is not None:
            host[GUARD : GUARD + size] = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        self.memory = device.put(host)
        self.ptr = device.address(self.memory) + GUARD
        assert self.ptr % 64 == 0

    def get(self):
        host = self.device.get(self.memory)
        body = host[GUARD : GUARD + self.size]
        self.guarded = bool((host[:GUARD] == self.poison).all() and (host[GUARD + self.size :] == self.poison).all())
        return body


class Emulated:
    gpu = has_few = False

    def __init__(self, path, backwards=False):
        self.lib = ctypes.CDLL(os.path.abspath(path))
        self.backwards = backwards

    def put(self, host):
        raw = np.zeros(host.size + 256, np.uint8)
        start = -raw.ctypes.data % 256
        body = raw[start : start + host.size]
        body[:] = host
        return body

    def address(self, m):
        return m.ctypes.data

    def get(self, m):
        return m.copy()

    def launch(self, name, grid, threads, shared, params):
        assert self.lib.emulate(name.encode(), *[ctypes.c_uint32(g) for g in grid], ctypes.c_uint32(threads), ctypes.byref(params), int(self.backwards)) == 0, name


class Cuda:
    gpu = True

    def __init__(self, folder):
        import torch

        self.torch = torch
        torch.cuda.init()
        torch.zeros(1, device="cuda")
        self.cu = ctypes.CDLL("libcuda.so.1")
        self.functions = {}
        for file in ("gemm", "weights", "gemm_sm90_few"):
            module = ctypes.c_void_p()
            path = os.path.join(folder, file + ".cubin")
            if file.startswith("gemm_") and not os.path.exists(path):
                continue
            image = open(path, "rb").read()
            self.check(self.cu.cuModuleLoadData(ctypes.byref(module), image), file)
            self.functions[file] = module
        self.has_few = "gemm_sm90_few" in self.functions
        self.cache = {}

    def check(self, rc, what):
        if rc:
            raise RuntimeError(f"driver error {rc}: {what}")

    def function(self, name, shared):
        if name not in self.cache:
            f = ctypes.c_void_p()
            file = "gemm_sm90_few" if "_few_" in name else "gemm" if name.startswith("nvfp4_gemm") else "weights"
            module = self.functions[file]
            self.check(self.cu.cuModuleGetFunction(ctypes.byref(f), module, name.encode()), name)
            self.cache[name] = f
        f = self.cache[name]
        if shared > 48 * 1024:
            self.check(self.cu.cuFuncSetAttribute(f, 8, shared), f"{shared} bytes of shared memory")
        return f

    def put(self, host):
        return self.torch.from_numpy(host).cuda()

    def address(self, m):
        return m.data_ptr()

    def get(self, m):
        return m.cpu().numpy()

    def launch(self, name, grid, threads, shared, params):
        f = self.function(name, shared)
        args = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
        self.check(self.cu.cuLaunchKernel(f, *grid, threads, 1, 1, shared, stream, args, None), name)


# ---------------------------------------------------------------- prepared weights


def storage_bytes(groups, n, k):
    header = max(128, up(4 * groups, 128))
    return header, header + groups * cdiv(n, 128) * cdiv(k, 64) * 4608


def canonical_scale_bytes(groups, n, k, layout):
    return groups * (n * (k // 16) if layout == LINEAR else up(n, TILE_ROWS[layout]) * up(k // 16, 4))


def lay_out(scales, layout, poison=0):
    """[E, N, blocks] → bytes in a layout, matrix after matrix"""
    e, n, blocks = scales.shape
    if layout == LINEAR:
        return scales.reshape(-1).copy()
    out = np.full((e, up(n, TILE_ROWS[layout]) * up(blocks, 4)), poison, np.uint8)
    r, c = np.meshgrid(np.arange(n), np.arange(blocks), indexing="ij")
    out[:, tiled_offset(layout, r, c, blocks)] = scales
    return out.reshape(-1)


class Weights:
    """Canonical weights, and the same prepared on the device."""

    def __init__(self, device, codes, scales, decode, gate_up, layout=LINEAR):
        self.device, self.gate_up, self.decode = device, gate_up, decode
        self.groups, self.n, half = codes.shape
        self.k, self.codes, self.scales = 2 * half, codes, scales
        self.header, size = storage_bytes(self.groups, self.n, self.k)
        self.storage = Buffer(device, size, 0xA5)
        fault = Buffer(device, 16, 0, np.zeros(16, np.uint8))
        inputs = [Buffer(device, a.size * a.itemsize, 0xEE, a) for a in (codes, lay_out(scales, layout, 0xCC), decode)]
        p = self.params(layout, fault)
        p.codes, p.scales, p.decode = [b.ptr for b in inputs]
        p.decode_step = 1
        device.launch("nvfp4_weights_pack", self.grid(), 128, 0, p)
        self.fault = int(fault.get().view(np.uint32)[0])

    def grid(self):
        return (cdiv(self.k, 64), cdiv(self.n, 128), self.groups)

    def params(self, layout, fault):
        p = WeightsParams()
        p.storage, p.units_at, p.fault = self.storage.ptr, self.header, fault.ptr
        p.groups, p.rows, p.cols, p.gate_up, p.scale_layout = self.groups, self.n, self.k, self.gate_up, layout
        return p

    def export(self, layout, poison):
        fault = Buffer(self.device, 16, 0, np.zeros(16, np.uint8))
        outs = [Buffer(self.device, s, poison) for s in (self.codes.size, canonical_scale_bytes(self.groups, self.n, self.k, layout), 4 * self.groups)]
        p = self.params(layout, fault)
        p.codes, p.scales, p.decode = [b.ptr for b in outs]
        self.device.launch("nvfp4_weights_unpack", self.grid(), 128, 0, p)
        got = [b.get() for b in outs]
        return got, all(b.guarded for b in outs)

    def values(self):
        """e2m1 · e4m3 as float64 [E, N, K]"""
        return E2M1[nibbles(self.codes)].astype(np.float64) * np.repeat(E4M3[self.scales].astype(np.float64), 16, -1)


def random_weights(rng, e, n, k, nan=0.0):
    scales = rng.integers(0x20, 0x50, (e, n, k // 16), dtype=np.uint8)
    kind = rng.random(scales.shape)
    scales = np.where(kind < 0.03, 0, np.where(kind < 0.08, rng.integers(1, 127, scales.shape), scales)).astype(np.uint8)
    scales = np.where(rng.random(scales.shape) < nan, 0x7F, scales).astype(np.uint8)
    codes = rng.integers(0, 256, (e, n, k // 2), dtype=np.uint8)
    return codes, scales, (rng.random(e) * 0.9 + 0.1).astype(np.float32) / np.float32(64)


def canonicalised(codes, scales):
    zero = np.repeat(scales == 0, 8, -1)
    return np.where(zero, 0, codes).astype(np.uint8)


# ---------------------------------------------------------------- products


class Case:
    def __init__(self, **kw):
        self.__dict__.update(kw)

    def __repr__(self):
        return json.dumps({k: (v.tolist() if isinstance(v, np.ndarray) else v) for k, v in self.__dict__.items() if k != "index" or len(v) <= 16}, default=str)


def spans(c):
    """(group, first_row, rows, first scale row by tile height) and the first clamped group"""
    out, row, bad = [], 0, None
    scale = {1: 0, 8: 0, 128: 0}
    for g in range(c.e):
        if c.grouping == ENDS:
            end = min(max(int(c.index[g]), row), c.t)
            if end != c.index[g] and bad is None:
                bad = g
            first, rows = row, end - row
            row = end
        elif c.grouping == MASKED:
            rows = min(max(int(c.index[g]), 0), c.t)
            if rows != c.index[g] and bad is None:
                bad = g
            first = g * c.t
            scale = {h: g * up(c.t, h) for h in scale}
        else:
            first, rows = g * c.t, c.t
        out.append((g, first, rows, dict(scale)))
        scale = {h: s + up(rows, h) for h, s in scale.items()}
    return out, bad


def total_rows(c):
    return c.t if c.grouping in (NONE, ENDS) else c.e * c.t


def scale_rows(c, h):
    return up(c.t, h) if c.grouping == NONE else up(c.t + (h - 1) * min(c.e, c.t), h) if c.grouping == ENDS else c.e * up(c.t, h)


def token_tiles(c, tokens):
    """a bound for any split of the rows"""
    if c.grouping == ENDS:
        return (c.t + (tokens - 1) * min(c.e, c.t)) // tokens
    return (1 if c.grouping == NONE else c.e) * cdiv(c.t, tokens)


class Run:
    """One product on the device, its operands and what it must give."""

    launches = 0

    def __init__(self, device, c, rng):
        self.device, self.c = device, c
        codes, scales, decode = random_weights(rng, c.e, c.n, c.k, 0.002 if c.nan else 0)
        self.weights = Weights(device, codes, scales, decode, c.activation == SWIGLU, c.w_layout)
        self.cols = c.n // 2 if c.activation == SWIGLU else c.n
        rows, blocks = total_rows(c), c.k // 16
        stored = c.t if c.shared else rows
        self.a_group_stride = 0 if c.shared or c.grouping != STRIDED else c.t * (c.k // (2 if c.a == CODES else 1) + c.a_gap) + c.group_gap
        self.a_decode = (rng.random(max(stored, c.e, 1)) + 0.5).astype(np.float32)
        if c.a == CODES:
            stride = c.k // 2 + c.a_gap
            extent = c.e * self.a_group_stride if self.a_group_stride else stored * stride
            self.a = rng.integers(0, 256, max(extent, 1), dtype=np.uint8)
            h = TILE_ROWS[c.a_layout]
            shape = Case(**{**c.__dict__, "e": 1, "grouping": NONE}) if c.shared else c
            width = blocks + c.scale_gap if c.a_layout == LINEAR else up(blocks, 4)
            n_scales = (stored if c.a_layout == LINEAR else scale_rows(shape, h)) * width
            self.a_scales = rng.integers(0x20, 0x50, max(n_scales, 1), dtype=np.uint8)
            kind = rng.random(self.a_scales.shape)
            self.a_scales = np.where(kind < 0.05, rng.integers(0, 127, kind.shape), self.a_scales).astype(np.uint8)
            if c.nan:
                self.a_scales[rng.random(kind.shape) < 0.001] = 0x7F
            self.a_stride = stride
        else:
            self.a_stride = c.k + c.a_gap
            extent = c.e * self.a_group_stride if self.a_group_stride else stored * self.a_stride
            x = rng.standard_normal(max(extent, 1)) * np.exp2(rng.integers(-3, 4, max(extent, 1)))
            if c.positive:
                x = np.abs(x)
            self.a = to_bytes(x, c.a)
        self.bias = (rng.standard_normal((c.e, c.n)) * 4).astype(np.float32) if c.bias is not None else None
        self.out_decode = (rng.random(max(rows, c.e, 1)) * 0.05 + 0.01).astype(np.float32)
        self.out_stride = self.cols + c.out_gap
        self.out_group_stride = c.t * self.out_stride + c.group_gap if c.grouping == STRIDED else 0

    def launch(self, out_dtype, poison, tokens=None, splits=None):
        c, d = self.c, self.device
        few = c.few if tokens is None else None
        tokens, splits = tokens or c.tokens, splits or c.splits
        threads, stages, units = SHAPES[tokens]
        p = GemmParams()
        keep = []

        def buffer(data):
            b = Buffer(d, data.size * data.itemsize, 0xEE, data)
            keep.append(b)
            return b.ptr

        if c.grouping in (ENDS, MASKED):
            p.index = buffer(np.asarray(c.index, np.int32))
        p.a = buffer(self.a)
        if c.a == CODES:
            p.a_scales = buffer(self.a_scales)
        if c.a_scope is not None:
            p.a_decode, p.a_scope = buffer(self.a_decode), c.a_scope
        p.weights, p.units_at = self.weights.storage.ptr, self.weights.header
        if self.bias is not None:
            p.bias, p.bias_dtype = buffer(to_bytes(self.bias, c.bias)), c.bias
        rows, blocks = total_rows(c), self.cols // 16
        outs = []
        if out_dtype == CODES:
            self.code_stride = self.cols // 2 + c.code_gap
            self.scale_stride = blocks + c.scale_gap
            outs.append(Buffer(d, rows * self.code_stride, poison))
            size = rows * self.scale_stride if c.out_layout == LINEAR else scale_rows(c, TILE_ROWS[c.out_layout]) * up(blocks, 4)
            outs.append(Buffer(d, size, poison))
            p.out, p.out_scales, p.out_decode = outs[0].ptr, outs[1].ptr, buffer(self.out_decode)
            p.out_layout, p.out_scope = c.out_layout, c.out_scope
            p.out_row_stride, p.out_scales_row_stride = self.code_stride, self.scale_stride
            p.out_vectors = int(self.code_stride % 8 == 0)
        else:
            extent = c.e * self.out_group_stride if self.out_group_stride else rows * self.out_stride
            outs.append(Buffer(d, extent * SIZE[out_dtype], poison))
            p.out, p.out_row_stride, p.out_group_stride = outs[0].ptr, self.out_stride, self.out_group_stride
            p.out_vectors = int(self.out_stride % 4 == 0 and self.out_group_stride % 4 == 0)
            p.accumulate = int(c.accumulate)
        fault = Buffer(d, 16, 0, np.zeros(16, np.uint8))
        p.fault = fault.ptr
        p.a_row_stride, p.a_group_stride = self.a_stride, self.a_group_stride
        p.a_layout, p.a_scales_row_stride = c.a_layout, c.k // 16 + c.scale_gap
        unit = 8 if c.a == CODES else 8
        p.a_vectors = int(self.a_stride % unit == 0 and self.a_group_stride % unit == 0)
        assert p.a_vectors or tokens < 128
        p.rows, p.groups, p.grouping, p.weight_rows, p.cols, p.splits = c.t, c.e, c.grouping, c.n, c.k, splits
        p.activation, p.out_dtype, (p.limit, p.alpha, p.beta) = c.activation, out_dtype, c.swiglu
        if few:
            partials, counters = self.launch_few(p, poison, **few)
        else:
            tiles = token_tiles(c, tokens) * cdiv(c.n, 128 * units)
            partials = Buffer(d, tiles * splits * tokens * 128 * 4 if splits > 1 else 0, poison)
            counters = Buffer(d, 4 * tiles, poison, np.zeros(tiles, np.uint32))
            p.partials, p.counters = partials.ptr, counters.ptr
            totals = tokens * units * 512 if cdiv(cdiv(c.k, 64), splits) > 32 else 0
            shared = stages * (tokens * 128 + units * 4608) + totals
            d.launch(f"nvfp4_gemm_{OPERAND[c.a]}_{tokens}", (max(tiles, 1) * splits, 1, 1), threads, shared, p)
        got = [o.get() for o in outs]
        partials.get(), counters.get()
        ok = all(b.guarded for b in outs + [partials, counters])
        return got, ok, fault.get().view(np.uint32)

    def launch_few(self, p, poison, shape, schedule, grid):
        """the form for few tokens; its workspace starts as poison"""
        sums = Buffer(self.device, few_workspace(*shape, grid), poison)
        p.partials, p.splits = sums.ptr, 1
        q = Sm90Params()
        q.gemm, q.schedule = p, schedule
        Run.launches += 1
        q.token = Run.launches * 0x9E3779B97F4A7C15 & (1 << 64) - 1
        tokens, units = shape
        self.device.launch(f"nvfp4_gemm_few_{OPERAND[self.c.a]}_{tokens}x{units}", (grid, 1, 1), 128 * (units + 1), few_shared(*shape), q)
        return sums, sums

    # ---- the reference

    def a_values(self, first, rows, scale_row):
        c = self.c
        r = np.arange(rows)
        group, base = (0, 0) if c.shared else (first // max(c.t, 1), first)
        at = r * self.a_stride + (group * self.a_group_stride if c.grouping == STRIDED else first * self.a_stride)
        if c.a != CODES:
            return from_bytes(self.a, c.a)[at[:, None] + np.arange(c.k)].astype(np.float64)
        codes = self.a[at[:, None] + np.arange(c.k // 2)]
        blocks = c.k // 16
        cc = np.arange(blocks)[None]
        if c.a_layout == LINEAR:
            where = (base + r)[:, None] * (blocks + c.scale_gap) + cc
        else:
            where = tiled_offset(c.a_layout, ((0 if c.shared else scale_row[TILE_ROWS[c.a_layout]]) + r)[:, None], cc, blocks)
        return E2M1[nibbles(codes)].astype(np.float64) * np.repeat(E4M3[self.a_scales[where]].astype(np.float64), 16, -1)

    def exact(self):
        """per group (first_row, rows, scale rows, v [rows, N], bound)"""
        c, w = self.c, self.weights.values()
        all_spans, bad = spans(c)
        for g, first, rows, scale in all_spans:
            if rows == 0:
                yield g, first, 0, scale, None, None
                continue
            a = self.a_values(first, rows, scale)
            b = w[g].T
            if c.a_scope is None:
                g_a = np.ones((rows, 1))
            elif c.a_scope == ROW:
                g_a = self.a_decode[(0 if c.shared else first) + np.arange(rows)][:, None].astype(np.float64)
            else:
                g_a = np.full((rows, 1), self.a_decode[0 if c.a_scope == TENSOR else g], np.float64)
            scale_ab = g_a * float(self.weights.decode[g])
            with np.errstate(all="ignore"):
                v = a @ b * scale_ab
                bound = 2.0**-15 * max(1, c.k / 8192) * (np.abs(a) @ np.abs(b)) * scale_ab
            v, bound = v.copy(), bound + np.abs(v) * 2.0**-22
            if self.bias is not None:
                bias = from_bytes(to_bytes(self.bias[g][None], c.bias), c.bias).reshape(-1)
                v = v + bias
                bound = bound + np.abs(v) * 2.0**-23
            yield g, first, rows, scale, v, bound

    def check(self, poison):
        """None, or what is wrong"""
        c = self.c
        dtype = c.out
        got, ok, fault = self.launch(dtype, poison)
        _, bad = spans(c)
        if not ok:
            return "a guard was overwritten"
        if bool(fault[0] & 1) != (bad is not None) or fault[1] != (0 if bad is None else bad + 1):
            return f"fault {fault.tolist()}, bad group {bad}"
        if dtype == CODES:
            return self.check_codes(got, poison)
        values = from_bytes(got[0], dtype).reshape(-1)
        old = float(from_bytes(np.full(4, poison, np.uint8), dtype)[0]) if c.accumulate else 0.0
        raw = got[0].reshape(-1, SIZE[dtype])
        used = np.zeros(len(values), bool)
        half = {BF16: 2.0**-8, F16: 2.0**-11, F32D: 2.0**-24}[dtype]
        inner = 2.0**-11 if dtype == F16 else 2.0**-8
        self.worst = 0.0
        for g, first, rows, _, v, bound in self.exact():
            if rows == 0:
                continue
            base = g * self.out_group_stride if c.grouping == STRIDED else first * self.out_stride
            at = base + np.arange(rows)[:, None] * self.out_stride + np.arange(self.cols)
            used[at] = True
            have = values[at].astype(np.float64)
            with np.errstate(all="ignore"):
                if c.activation == 0:
                    want, tol = v + old, bound + np.abs(v + old) * half
                elif c.activation == RELU2:
                    x = np.where(np.isnan(v), v, np.maximum(v, 0))
                    d = bound + np.abs(v) * inner
                    want, tol = x * x, 2 * np.abs(v) * d + d * d + x * x * 2 * inner
                else:
                    gate, upv = v[:, : self.cols], v[:, self.cols :]
                    dg, du = bound[:, : self.cols] + np.abs(gate) * inner, bound[:, self.cols :] + np.abs(upv) * inner
                    limit, alpha, beta = c.swiglu
                    if limit > 0:
                        gate = np.where(np.isnan(gate), gate, np.minimum(gate, limit))
                        upv = np.where(np.isnan(upv), upv, np.clip(upv, -limit, limit))
                    want = gate / (1 + np.exp(-np.clip(alpha * gate, -87, 87))) * (upv + beta)
                    tol = 1.1 * max(alpha, 1) * dg * (np.abs(upv) + beta + du) + du * np.abs(gate) + np.abs(want) * 4 * inner
                tol = tol + 1e-7
                err = np.abs(have - want)
                good = (err <= tol) | (np.isnan(have) & np.isnan(want))
                if dtype == F16:
                    good |= (np.abs(want) + tol > 65000) & ~np.isnan(have)
                    if c.activation == SWIGLU:  # an infinite gate that the limit lets pass
                        good |= (np.abs(v[:, : self.cols]) + dg > 65000) & ~np.isnan(have)
                finite = np.isfinite(err) & np.isfinite(bound[:, : self.cols]) & (bound[:, : self.cols] > 0)
                if c.activation == 0 and dtype == F32D and not c.accumulate and finite.any():
                    self.worst = max(self.worst, float((err / bound[:, : self.cols])[finite].max()))
            if not good.all():
                r, col = np.argwhere(~good)[0]
                return f"group {g} row {r} of {rows} column {col}: {have[r, col]} instead of {want[r, col]} ± {tol[r, col]}; {int((~good).sum())} of {good.size} wrong"
            nan_bits = {BF16: b"\xc0\x7f", F16: b"\x00\x7e", F32D: b"\x00\x00\xc0\x7f"}[dtype]
            nans = raw[at[np.isnan(have)]]
            if len(nans) and not (nans == np.frombuffer(nan_bits, np.uint8)).all():
                return f"group {g}: a NaN that is not canonical: {nans[0].tolist()}"
        if not (raw[~used] == poison).all():
            return f"element {int(np.argwhere(~used & (raw != poison).any(-1))[0][0])} outside the rows was written"
        return None

    def check_codes(self, got, poison):
        """bit-exact functions of the same product in bfloat16"""
        c = self.c
        plain, ok, _ = self.launch(BF16, poison)
        values = from_bytes(plain[0], BF16)
        want_codes = np.full(got[0].shape, poison, np.uint8)
        want_scales = np.full(got[1].shape, poison, np.uint8)
        blocks, h = self.cols // 16, TILE_ROWS[c.out_layout]
        for g, first, rows, scale in spans(c)[0]:
            if rows == 0:
                continue
            base = g * self.out_group_stride if c.grouping == STRIDED else first * self.out_stride
            x = values[base + np.arange(rows)[:, None] * self.out_stride + np.arange(self.cols)].reshape(rows, blocks, 16)
            index = {TENSOR: np.zeros(rows, int), GROUP: np.full(rows, g), ROW: first + np.arange(rows)}[c.out_scope]
            enc, invalid = static_scale(self.out_decode[index])
            codes, scales, _ = quantize(x, enc[:, None], invalid[:, None], 0)
            r = np.arange(rows)[:, None]
            want_codes[(first + r) * self.code_stride + np.arange(self.cols // 2)] = codes.reshape(rows, -1)
            if c.out_layout == LINEAR:
                want_scales[(first + r) * self.scale_stride + np.arange(blocks)] = scales
            else:
                rr, cc = np.meshgrid(np.arange(up(rows, h)), np.arange(up(blocks, 4)), indexing="ij")
                want_scales[tiled_offset(c.out_layout, scale[h] + rr, cc, blocks)] = 0
                want_scales[tiled_offset(c.out_layout, scale[h] + r, np.arange(blocks)[None], blocks)] = scales
        for name, want, have in (("codes", want_codes, got[0]), ("scales", want_scales, got[1])):
            if not (want == have).all():
                at = int(np.argwhere(want != have)[0][0])
                return f"{name} byte {at}: {have[at]:#x} instead of {want[at]:#x}; {int((want != have).sum())} of {want.size} wrong"
        return None


def random_case(rng, big, few):
    pick = lambda *a: a[rng.integers(len(a))]
    grouping = pick(NONE, ENDS, ENDS, ENDS, MASKED, STRIDED)
    e = 1 if grouping == NONE else int(pick(1, 2, 3, 5, 9))
    if grouping == ENDS and rng.random() < 0.08:
        e = int(pick(513, 1100, 2049))
    t = int(pick(0, 1, 2, 7, 8, 9, 15, 17, 33, 64, 65, 130)) if e < 100 else int(pick(5, 40))
    if grouping in (MASKED, STRIDED):
        t = max(1, min(t, 40))
    activation = int(pick(0, 0, SWIGLU, RELU2))
    out = int(pick(BF16, BF16, F16, F32D, CODES))
    n = int(pick(1, 3, 16, 30, 100, 127, 128, 129, 200, 256, 257, 384) if e < 100 else pick(2, 32))
    if activation == SWIGLU:
        n = up(n, 2)
    if out == CODES:
        n = up(n, 32 if activation == SWIGLU else 16)
    k = int(pick(16, 32, 48, 64, 80, 128, 144, 320, 528)) if e < 100 else int(pick(16, 80))
    if big and rng.random() < 0.1:
        k = int(pick(2048, 7168))
    a = int(pick(BF16, F16, CODES))
    if grouping == ENDS:
        if e > 100 or rng.random() < 0.3:
            rows = rng.multinomial(t, np.ones(e) / e)
        else:
            rows = np.diff(np.concatenate([[0], np.sort(rng.integers(0, t + 1, e))]))
        index = np.cumsum(rows)
        if rng.random() < 0.12 and e > 1:
            index[rng.integers(e)] = pick(-5, t + 1, 0, 2**31 - 1)
    else:
        index = rng.integers(0, t + 1, e)
        if rng.random() < 0.12:
            index[rng.integers(e)] = pick(-1, t + 7)
    # alignments: whole vectors, whole words, single elements
    gap = lambda: int(pick(0, 0, 8, 16, 2, 1, 3))
    shared = bool(grouping == STRIDED and rng.random() < 0.5)
    a_gap, group_gap = gap(), int(pick(0, 8, 1)) if grouping == STRIDED and not shared else 0
    aligned = (k // (2 if a == CODES else 1) + a_gap) % 8 == 0 and group_gap % 8 == 0
    tokens = int(pick(8, 16, 32, 64, 128) if aligned else pick(8, 16, 32, 64))
    steps = cdiv(k, 64)
    splits = 1 if tokens == 128 else int(min(steps, pick(1, 1, 2, 3, 7)))
    few = few and rng.random() < 0.7
    if few and e < 100 and rng.random() < 0.3:
        k = int(pick(2048, 2064, 4096, 7168))
    few = dict(shape=pick(*FEW), schedule=int(rng.integers(4)), grid=int(pick(1, 2, 7, 131, 264))) if few else None
    return Case(
        grouping=grouping, e=e, t=t, n=n, k=k, a=a, index=index, shared=shared, activation=activation, out=out, nan=bool(rng.random() < 0.4),
        a_gap=a_gap, out_gap=gap(), group_gap=group_gap, code_gap=int(pick(0, 0, 8, 1)), scale_gap=int(pick(0, 0, 1, 4)),
        a_layout=int(pick(LINEAR, T128, T8)) if a == CODES else LINEAR, w_layout=int(pick(LINEAR, T128, T8)),
        out_layout=int(pick(LINEAR, T128, T8)), a_scope=pick(None, TENSOR, ROW) if grouping == NONE else pick(None, TENSOR, GROUP, ROW),
        out_scope=pick(TENSOR, ROW) if grouping == NONE else pick(TENSOR, GROUP, ROW), bias=pick(None, None, BF16, F16, F32D),
        accumulate=bool(out != CODES and activation == 0 and rng.random() < 0.3), swiglu=pick((0.0, 1.0, 0.0), (7.0, 1.702, 1.0)),
        tokens=tokens, splits=splits, few=few, positive=bool(rng.random() < 0.15),
    )


# ---------------------------------------------------------------- the checks


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def result(self, what, problem, **more):
        if problem is None:
            self.passed += 1
        else:
            self.failed += 1
            if self.failed <= 40:
                print(json.dumps({"failed": what, "problem": problem, **more}, default=str), flush=True)


def check_weights(device, report, rng):
    for e, n, k, gate_up in [(1, 1, 16, 0), (2, 2, 64, 1), (3, 130, 80, 1), (1, 128, 64, 0), (2, 129, 208, 0), (1, 256, 512, 1), (5, 40, 1040, 0), (0, 8, 16, 0)]:
        codes, scales, decode = random_weights(rng, e, n, k, 0.05)
        if e:
            scales.reshape(-1)[: min(128, scales.size)] = np.arange(min(128, scales.size))
            for into in (LINEAR, T128, T8):
                w = Weights(device, codes, scales, decode, gate_up, into)
                for layout in (LINEAR, T128, T8):
                    got, guarded = w.export(layout, 0x5A if layout == T8 else 0xA5)
                    want = [canonicalised(codes, scales).reshape(-1), lay_out(scales, layout), decode.view(np.uint8)]
                    w.storage.get()
                    problem = None if guarded and w.storage.guarded else "a guard was overwritten"
                    for name, a, b in zip(("codes", "scales", "decode"), want, got):
                        if not (a == b).all():
                            at = int(np.argwhere(a != b)[0][0])
                            problem = f"{name} byte {at}: {b[at]:#x} instead of {a[at]:#x}; {int((a != b).sum())} wrong"
                    if w.fault:
                        problem = f"fault {w.fault}"
                    report.result("export", problem, shape=[e, n, k, gate_up], layouts=[into, layout])
            bad = scales.copy()
            bad.reshape(-1)[-1] |= 0x80
            report.result("signed scale", None if Weights(device, codes, bad, decode, gate_up).fault == 2 else "no fault")
            report.result("bad decode scale", None if Weights(device, codes, scales, decode * np.float32(-1), gate_up).fault == 2 else "no fault")
    # from values
    for e, n, k, gate_up, transposed, dtype, rule, given in [
        (1, 1, 16, 0, 0, BF16, 0, 0), (2, 130, 80, 1, 0, BF16, 0, 0), (2, 130, 80, 1, 1, F32D, 1, 0), (3, 40, 144, 0, 1, F16, 2, 1), (1, 256, 320, 0, 0, F32D, 2, 0), (2, 64, 64, 0, 0, F16, 1, 1),
    ]:
        x = rng.standard_normal((e, n, k)).astype(np.float32) * np.exp2(rng.integers(-4, 4, (e, n, 1))).astype(np.float32)
        if rule == 0:
            x.reshape(-1)[5] = np.nan
        gap = 3
        stored = np.swapaxes(x, 1, 2) if transposed else x
        padded = np.zeros((e, stored.shape[1], stored.shape[2] + gap), np.float32)
        padded[..., : stored.shape[2]] = stored
        raw = to_bytes(padded, dtype)
        x = from_bytes(raw, dtype).reshape(padded.shape)[..., : stored.shape[2]]
        x = np.ascontiguousarray(np.swapaxes(x, 1, 2) if transposed else x)
        w = Weights.__new__(Weights)
        w.device, w.gate_up, w.groups, w.n, w.k = device, gate_up, e, n, k
        w.codes = np.zeros((e, n, k // 2), np.uint8)
        w.header, size = storage_bytes(e, n, k)
        w.storage = Buffer(device, size, 0xA5, np.concatenate([np.zeros(w.header, np.uint8), np.full(size - w.header, 0xA5, np.uint8)]))
        fault = Buffer(device, 16, 0, np.zeros(16, np.uint8))
        values = Buffer(device, raw.size, 0xEE, raw)
        amax = np.array([np.abs(m[np.isfinite(m)]).max() for m in x], np.float32)
        decode = (amax / np.float32(2688)).astype(np.float32)
        p = w.params(LINEAR, fault)
        p.values, p.row_stride, p.group_stride, p.dtype, p.transposed, p.rule = values.ptr, padded.shape[2], padded.shape[1] * padded.shape[2], dtype, transposed, rule
        if given:
            decode = (decode * np.float32(1.1)).astype(np.float32)
            given_buffer = Buffer(device, 4 * e, 0xEE, decode)
            p.decode = given_buffer.ptr
            encode, invalid = static_scale(decode)
        else:
            encode, invalid = np.minimum(np.float32(2688) / amax, FMAX), np.zeros(e, bool)
            device.launch("nvfp4_weights_amax", (7, e, 1), 256, 0, p)
        device.launch("nvfp4_weights_quantize", w.grid(), 128, 0, p)
        if not given:
            device.launch("nvfp4_weights_finish", (cdiv(e, 256), 1, 1), 256, 0, p)
        got, guarded = w.export(LINEAR, 0x5A)
        codes, scales, _ = quantize(x.reshape(e, n, k // 16, 16), encode[:, None, None], invalid[:, None, None], rule)
        problem = None if guarded else "a guard was overwritten"
        for name, a, b in zip(("codes", "scales", "decode"), (codes.reshape(-1), scales.reshape(-1), decode.view(np.uint8)), got):
            if not (a == b).all():
                at = int(np.argwhere(a != b)[0][0])
                problem = f"{name} byte {at}: {b[at]:#x} instead of {a[at]:#x}; {int((a != b).sum())} wrong"
        report.result("values", problem, shape=[e, n, k, gate_up, transposed, dtype, rule, given])


def check_decode(device, report):
    """every code with every finite scale at every place of a unit, through an identity: equal, not near"""
    k = n = 256
    index = np.arange(n * (k // 16)).reshape(n, k // 16)
    scales = (index % 127).astype(np.uint8)
    nib = ((np.arange(n)[:, None] * 7 + np.arange(k)[None]) % 16).astype(np.uint8)
    codes = (nib[:, ::2] | nib[:, 1::2] << 4)[None]
    base = dict(grouping=NONE, e=1, t=k, n=n, k=k, index=[], shared=False, activation=0, out=F32D, nan=False, a_gap=0, out_gap=0, group_gap=0, code_gap=0, scale_gap=0,
                a_layout=LINEAR, w_layout=LINEAR, out_layout=LINEAR, a_scope=None, out_scope=TENSOR, bias=None, accumulate=False, swiglu=(0.0, 1.0, 0.0), splits=1, few=None, positive=False)
    rng = np.random.default_rng(1)
    for a in (BF16, F16, CODES):
        for tokens, few in [(8, None), (128, None)] + [(8, dict(shape=shape, schedule=SPLIT_ALL, grid=5)) for shape in FEW if device.has_few]:
            run = Run(device, Case(**{**base, "few": few}, a=a, tokens=tokens), rng)
            run.weights = Weights(device, codes, scales[None], np.ones(1, np.float32), 0)
            if a == CODES:
                eye = np.eye(k, dtype=np.uint8) * 2
                run.a, run.a_scales = (eye[:, ::2] | eye[:, 1::2] << 4).reshape(-1), np.full(k * k // 16, 0x38, np.uint8)
            else:
                run.a = to_bytes(np.eye(k, dtype=np.float32).reshape(-1), a)
            got, _, _ = run.launch(F32D, 0xA5)
            have, want = from_bytes(got[0], F32D).reshape(k, n), run.weights.values()[0].T.astype(np.float32)
            wrong = np.argwhere(have != want)
            problem = None if len(wrong) == 0 else f"k {wrong[0][0]} row {wrong[0][1]}: {have[tuple(wrong[0])]} instead of {want[tuple(wrong[0])]}; {len(wrong)} wrong"
            report.result("decode", problem, a=OPERAND[a], tokens=tokens, few=few)


def check_products(device, report, rng, cases, big, backwards_device=None):
    worst = 0.0
    for i in range(cases):
        c = random_case(rng, big, device.has_few)
        run = Run(device, c, rng)
        for poison in (0xA5, 0x5A) if i % 4 == 0 else (0xA5,):
            try:
                problem = run.check(poison)
            except Exception as error:  # a broken launch ends everything: say which case it was
                print(json.dumps({"failed": "product", "case": str(c), "problem": repr(error)}), flush=True)
                raise
            report.result("product", problem, number=i, case=str(c), poison=poison)
        worst = max(worst, getattr(run, "worst", 0.0))
        # the same bits again, and without splits from every tile that takes the rows
        if problem is None and c.out != CODES:
            first = run.launch(c.out, 0xA5)[0][0]
            other = backwards_device or device
            run.device, keep = other, run.device
            again = run.launch(c.out, 0xA5)[0][0]
            run.device = keep
            report.result("determinism", None if (first == again).all() else "other bits", number=i, case=str(c))
            if i % 3 == 0:
                bits = [run.launch(c.out, 0xA5, tokens, 1)[0][0] for tokens in (8, 64) + ((128,) if run.a_stride % 8 == 0 and run.a_group_stride % 8 == 0 and (c.a != CODES or c.k <= 2048) else ())]
                report.result("invariance", None if all((b == bits[0]).all() for b in bits) else "bits differ between tiles", number=i, case=str(c))
    return worst


def check_long(device, report, rng):
    """the bound on long sums of one sign: what truncation in the tensor cores would show in"""
    whole = lambda shape: dict(shape=shape, schedule=WHOLE_TILES, grid=132)
    portable = [(8192, a, t, None) for a in (BF16, F16, CODES) for t in (8, 16, 32, 64, 128) if (a, t) != (CODES, 128)] + [(32768, F16, 32, None), (65536, CODES, 32, None)]
    few = [(k, a, 8, whole(shape)) for k in (8192, 32768) for a in (BF16, F16, CODES) for shape in FEW] if device.has_few else []
    for k, a, tokens, few in portable + few:
        base = dict(grouping=NONE, e=1, t=20, n=200, k=k, index=[], shared=False, activation=0, out=F32D, nan=False, a_gap=0, out_gap=0, group_gap=0, code_gap=0, scale_gap=0,
                    a_layout=LINEAR, w_layout=LINEAR, out_layout=LINEAR, a_scope=None, out_scope=TENSOR, bias=None, accumulate=False, swiglu=(0.0, 1.0, 0.0), splits=1, few=None, positive=True)
        run = Run(device, Case(**{**base, "few": few}, a=a, tokens=tokens), rng)
        codes, scales, decode = random_weights(rng, 1, 200, k)
        run.weights = Weights(device, codes & 0x77, np.maximum(scales, 0x20), decode, 0)
        if a == CODES:
            run.a = run.a & 0x77
        problem = run.check(0xA5)
        report.result("long", problem, k=k)
        print(json.dumps({"long": k, "a": OPERAND[a], "tile": few["shape"] if few else tokens, "share_of_bound": round(run.worst, 5)}), flush=True)


# ---------------------------------------------------------------- the planner, as src/backend/cuda/gemm.rs


def plan(t, e_active, n, k, sms, grouping_rows=None):
    average = cdiv(t, max(e_active, 1))
    tokens = 8 if average <= 4 else 16 if average <= 16 else 32 if average <= 32 else 64 if average <= 64 else 128
    units = SHAPES[tokens][2]
    tiles = max(1, (t + (tokens - 1) * e_active) // tokens) * cdiv(n, 128 * units)
    steps = cdiv(k, 64)
    splits = 1
    resident = {8: 4, 16: 4, 32: 4, 64: 3}.get(tokens)
    if resident:
        while splits < 16 and tiles * splits * 2 <= sms * resident and steps // (splits * 2) >= 8:
            splits *= 2
    return tokens, splits, tiles


def timing(device, report):
    torch = device.torch
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    print(json.dumps({"device": torch.cuda.get_device_name(0), "sms": sms, "torch": torch.__version__}), flush=True)
    fault = torch.zeros(8, dtype=torch.uint8, device="cuda")

    def graph_time(body, copies, reps):
        body(0)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for i in range(reps):
                    body(i % copies)
            graph.replay()
            times = []
            for _ in range(7):
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record(stream), graph.replay(), b.record(stream)
                b.synchronize()
                times.append(a.elapsed_time(b) * 1e3 / reps)
        return sorted(times)[len(times) // 2]

    # bytes a second that a launch which only reads weights could have: copy of a gigabyte, read + written
    x = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    us = graph_time(lambda i: y.copy_(x), 1, 4)
    print(json.dumps({"copy_tb_s": round(2 * x.numel() / us / 1e6, 3)}), flush=True)
    del x, y
    for name, e, k, n, dense in (("48x7168-6144", 48, 7168, 6144, 0), ("128x2048-1536", 128, 2048, 1536, 0), ("8x8192-1536", 8, 8192, 1536, 0), ("dense-8192", 1, 8192, 8192, 1)):
        header, size = storage_bytes(e, n, k)
        copies = max(1, min(4, cdiv(300 << 20, size)))
        storages = []
        for _ in range(copies):
            s = torch.empty(size, dtype=torch.uint8, device="cuda")
            c = torch.randint(0, 256, (e * n * k // 2,), dtype=torch.uint8, device="cuda")
            sc = torch.randint(0x30, 0x40, (e * n * k // 16,), dtype=torch.uint8, device="cuda")
            g = torch.full((e,), 1 / 64, device="cuda")
            p = WeightsParams()
            p.storage, p.units_at, p.fault, p.codes, p.scales, p.decode = s.data_ptr(), header, fault.data_ptr(), c.data_ptr(), sc.data_ptr(), g.data_ptr()
            p.groups, p.rows, p.cols = e, n, k
            device.launch("nvfp4_weights_pack", (cdiv(k, 64), cdiv(n, 128), e), 128, 0, p)
            torch.cuda.synchronize()
            storages.append(s)
        wp = p
        us = graph_time(lambda i: device.launch("nvfp4_weights_pack", (cdiv(k, 64), cdiv(n, 128), e), 128, 0, wp), 1, 2)
        print(json.dumps({"pack": name, "us": round(us, 1), "gb_s": round(2 * e * n * k * 0.5625 / us / 1e3)}), flush=True)
        del c, sc
        bf16_copies = max(1, min(2, cdiv(300 << 20, e * n * k * 2)))
        w16 = [torch.randn(e, n, k, device="cuda", dtype=torch.bfloat16) for _ in range(bf16_copies)]
        counts = (1, 16, 64, 512) if not dense else (1, 16, 64, 512, 4096)
        variants = [(m, BF16, e) for m in counts] + [(16, F16, e), (16, CODES, e), (512, CODES, e)]
        if e == 48:
            variants += [(1, BF16, 6)]
        for m, a, active in variants:
            t = m * active
            ends = torch.zeros(e, dtype=torch.int32, device="cuda")
            rows = torch.zeros(e, dtype=torch.int64)
            rows[torch.arange(active) * (e // active)] = m
            ends.copy_(torch.cumsum(rows, 0))
            x16 = torch.randn(t, k, device="cuda", dtype=torch.bfloat16)
            out = torch.empty(t, n, device="cuda", dtype=torch.bfloat16)
            if a == CODES:
                ax = torch.randint(0, 256, (t, k // 2), dtype=torch.uint8, device="cuda")
                asc = torch.randint(0x30, 0x40, (t, k // 16), dtype=torch.uint8, device="cuda")
            else:
                ax = x16 if a == BF16 else x16.half()

            def launcher(tokens, splits):
                threads, stages, units = SHAPES[tokens]
                tiles = max(1, (t + (tokens - 1) * min(e, t)) // tokens) * cdiv(n, 128 * units)
                partials = torch.empty(tiles * splits * tokens * 128 if splits > 1 else 1, dtype=torch.float32, device="cuda")
                counters = torch.zeros(tiles, dtype=torch.int32, device="cuda")
                totals = tokens * units * 512 if cdiv(cdiv(k, 64), splits) > 32 else 0
                params = []
                for s in storages:
                    p = GemmParams()
                    p.index, p.a, p.weights, p.out, p.units_at, p.fault = ends.data_ptr(), ax.data_ptr(), s.data_ptr(), out.data_ptr(), header, fault.data_ptr()
                    if a == CODES:
                        p.a_scales, p.a_scales_row_stride = asc.data_ptr(), k // 16
                    p.partials, p.counters = partials.data_ptr(), counters.data_ptr()
                    p.a_row_stride, p.out_row_stride, p.rows = k // 2 if a == CODES else k, n, t
                    p.groups, p.grouping, p.weight_rows, p.cols, p.splits, p.a_vectors, p.out_vectors = e, ENDS, n, k, splits, 1, 1
                    params.append(p)

                def body(i):
                    if splits > 1:
                        counters.zero_()
                    device.launch(f"nvfp4_gemm_{OPERAND[a]}_{tokens}", (tiles * splits, 1, 1), threads, stages * (tokens * 128 + units * 4608) + totals, params[i % len(params)])

                return body, (partials, counters, params)

            reps = 12 if m < 512 else 4
            tokens, splits, _ = plan(t, min(e, t), n, k, sms)
            body, keep = launcher(tokens, splits)
            ours = graph_time(body, copies, reps)
            others = {}
            if a == BF16 and m <= 64:
                for tk in (8, 16, 32, 64, 128):
                    for sp in (1, 2, 4, 8):
                        tiles = max(1, (t + (tk - 1) * min(e, t)) // tk) * cdiv(n, 128 * SHAPES[tk][2])
                        if (tk, sp) == (tokens, splits) or tk > max(2 * m, 16) or (tk == 128 and sp > 1) or (sp > 1 and (tiles * sp > 2500 or cdiv(k, 64) // sp < 8)):
                            continue
                        b, kp = launcher(tk, sp)
                        others[f"{tk}/{sp}"] = round(graph_time(b, copies, reps), 1)
            line = {"time": name, "tokens_per_group": m, "groups": active, "a": OPERAND[a], "tile": tokens, "splits": splits, "us": round(ours, 1)}
            weight_bytes = active * n * k * 0.5625
            flops = 2.0 * t * n * k
            line["weights_tb_s"] = round(weight_bytes / ours / 1e6, 2)
            line["tflops"] = round(flops / ours / 1e6, 1)
            if a == BF16:
                if dense:
                    peer = lambda i: torch.matmul(x16, w16[i % bf16_copies][0].t(), out=out)
                    line["peer"] = "torch.matmul bf16"
                else:
                    bt = [w.transpose(1, 2) for w in w16]
                    peer = lambda i: torch._grouped_mm(x16, bt[i % bf16_copies], offs=ends)
                    line["peer"] = "torch._grouped_mm bf16"
                try:
                    line["peer_us"] = round(graph_time(peer, bf16_copies, reps), 1)
                except Exception as error:
                    line["peer_error"] = str(error)[:120]
            if others:
                line["other_tiles_us"] = others
            print(json.dumps(line), flush=True)
            del keep, body
        del w16, storages
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--emulate")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    o = parser.parse_args()
    device = Emulated(o.emulate) if o.emulate else Cuda(o.folder)
    backwards = Emulated(o.emulate, True) if o.emulate else None
    report, rng, start = Report(), np.random.default_rng(o.seed), time.time()
    worst = 0.0
    if not o.no_check:
        check_weights(device, report, rng)
        print(json.dumps({"weights": [report.passed, report.failed], "s": round(time.time() - start, 1)}), flush=True)
        check_decode(device, report)
        print(json.dumps({"decode": [report.passed, report.failed], "s": round(time.time() - start, 1)}), flush=True)
        worst = check_products(device, report, rng, o.cases, device.gpu, backwards)
        print(json.dumps({"products": [report.passed, report.failed], "s": round(time.time() - start, 1)}), flush=True)
        if device.gpu:
            check_long(device, report, rng)
    checked = time.time() - start
    if device.gpu and not o.no_time:
        try:
            timing(device, report)
        except Exception as error:
            report.result("timing", repr(error))
    print(json.dumps({"passed": report.passed, "failed": report.failed, "worst_share_of_bound_f32": round(worst, 5), "checks_s": round(checked, 1), "total_s": round(time.time() - start, 1)}))
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()

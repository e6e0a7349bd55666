"""What the oracle says a call must give: splits into groups, scopes, layouts, bounds."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import oracle

import nvfp4
from nvfp4 import ScaleLayout, Scope

RULES = {0: "amax", 1: "four_over_six", 2: "min_mse"}
TILE_ROWS = {ScaleLayout.TILED_128X4: 128, ScaleLayout.TILED_8X4: 8}


@dataclass
class Split:
    """Rows in groups: none, ends, masked or strided."""

    kind: str
    sizes: list[int]
    max_tokens: int = 0
    tail: int = 0  # rows past the last group

    @property
    def rows(self) -> int:
        return len(self.sizes) * self.max_tokens if self.kind in ("masked", "strided") else sum(self.sizes) + self.tail

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first row, rows) of each group."""
        if self.kind in ("masked", "strided"):
            return [(e * self.max_tokens, n) for e, n in enumerate(self.sizes)]
        starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(int)
        return [(int(s), n) for s, n in zip(starts, self.sizes)]

    @property
    def used(self) -> np.ndarray:
        mask = np.zeros(self.rows, bool)
        for first, n in self.spans:
            mask[first : first + n] = True
        return mask

    def groups(self, device) -> nvfp4.Groups | None:
        if self.kind == "none":
            return None
        if self.kind == "ends":
            return nvfp4.Groups.by_ends(device.put(np.cumsum(self.sizes).astype(np.int32)))
        if self.kind == "masked":
            return nvfp4.Groups.masked(device.put(np.array(self.sizes, np.int32)), self.max_tokens)
        return nvfp4.Groups.strided(len(self.sizes), self.max_tokens)


def single(rows: int) -> Split:
    return Split("none", [rows])


def strided(count: int, rows: int) -> Split:
    return Split("strided", [rows] * count, rows)


SPLITS = {
    "none": single(33),
    "one_row": single(1),
    "no_rows": single(0),
    "ends": Split("ends", [5, 0, 130, 1, 8], tail=3),
    "ends_empty": Split("ends", [0, 0]),
    "no_groups": Split("ends", [], tail=4),
    "masked": Split("masked", [3, 0, 20, 9], 20),
    "strided": strided(3, 17),
}


def scope_rows(scope: int, split: Split) -> np.ndarray:
    """Index of each row's decode scale; -1 for rows of no group."""
    if scope == Scope.TENSOR:
        return np.zeros(split.rows, int)
    if scope == Scope.ROW:
        return np.arange(split.rows)
    index = np.full(split.rows, -1)
    for e, (first, n) in enumerate(split.spans):
        index[first : first + n] = e
    return index


def scope_count(scope: int, split: Split) -> int:
    return {Scope.TENSOR: 1, Scope.ROW: split.rows, Scope.GROUP: len(split.sizes)}[Scope(scope)]


def encode(x: np.ndarray, scope: int, split: Split, static: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(encode scale of each row, decode scales by scope)."""
    index, used = scope_rows(scope, split), split.used
    if static is not None:
        big, g = oracle.encode_from_static(static), static
    else:
        amax = np.zeros(scope_count(scope, split), np.float32)
        if x.size:
            rows = oracle.finite_amax(x, axis=1)
            np.maximum.at(amax, index[used], rows[used])
        big, g = oracle.encode_from_amax(amax)
    return np.where(index >= 0, np.atleast_1d(big)[np.maximum(index, 0)] if len(np.atleast_1d(big)) else 1, np.float32(1)), np.atleast_1d(g)


def quantize(x: np.ndarray, scope: int = 0, rule: int = 0, split: Split | None = None, static: np.ndarray | None = None):
    """(codes, linear scales, decode scales) of rows x, float32."""
    split = split or single(len(x))
    big, g = encode(x, scope, split, static)
    if not len(x):
        return np.zeros((0, x.shape[1] // 2), np.uint8), np.zeros((0, x.shape[1] // 16), np.uint8), g
    codes, scales = oracle.quantize(x, big, RULES[rule])
    return codes, scales, g


def layout(scales: np.ndarray, split: Split, kind: int, before: np.ndarray) -> np.ndarray:
    """The bytes of a tiled scale buffer, over what was there before."""
    tile = TILE_ROWS[ScaleLayout(kind)]
    swizzle = oracle.swizzle if tile == 128 else oracle.swizzle_8x4
    width = -(-scales.shape[1] // 4) * 4
    out, start = before.reshape(-1).copy(), 0
    for e, (first, n) in enumerate(split.spans):
        if split.kind in ("masked", "strided"):
            start = e * (-(-split.max_tokens // tile) * tile) * width
        if n:
            part = swizzle(scales[first : first + n])
            out[start : start + len(part)] = part
            start += len(part)
    return out


def values(rng: np.random.Generator, shape: tuple, dtype: np.dtype, nasty: bool = False) -> np.ndarray:
    """Gaussian rows of very different size; `nasty`: ties, signed zeros, NaN, infinities, tiny and huge among them."""
    x = rng.standard_normal(shape).astype(np.float32)
    if x.size == 0:
        return x.astype(dtype)
    x *= np.exp2(rng.integers(-6, 7, (*shape[:-1], 1))).astype(np.float32)
    if nasty:
        flat = x.reshape(-1, 16)
        pick = rng.integers(0, len(flat), 6)
        ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0], np.float32)
        flat[pick[0]] = np.concatenate([ties, -ties])
        flat[pick[1]] = -0.0
        flat[pick[2], rng.integers(16)] = np.nan
        flat[pick[3], rng.integers(16)] = rng.choice([np.inf, -np.inf])
        flat[pick[4]] *= 1e-7
        flat[pick[5]] *= 100
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


def same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    """Bit for bit."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    assert a.dtype == b.dtype, f"{what}: dtype {a.dtype}, expected {b.dtype}"
    if a.tobytes() != b.tobytes():
        bits = f"u{a.dtype.itemsize}"
        where = np.argwhere(a.view(bits) != b.view(bits))
        first = tuple(where[0])
        raise AssertionError(f"{what}: {len(where)} of {a.size} differ, first at {first}: {a[first]!r}, expected {b[first]!r}")


def check_output(codes, scales, decode, expected, split: Split, kind: int, poison: int, scope: int, size: int) -> None:
    """Compares numpy arrays of an NVFP4 output with the oracle's; rows of no group hold poison."""
    want_codes, want_scales, want_decode = expected
    used = split.used
    same(codes.reshape(want_codes.shape)[used], want_codes[used], "codes")
    assert (codes.reshape(want_codes.shape)[~used] == poison).all(), "codes of rows of no group were written"
    if kind == ScaleLayout.LINEAR:
        same(scales.reshape(want_scales.shape)[used], want_scales[used], "scales")
        assert (scales.reshape(want_scales.shape)[~used] == poison).all(), "scales of rows of no group were written"
    else:
        same(scales.reshape(-1), layout(want_scales, split, kind, np.full(size, poison, np.uint8)), "tiled scales")
    if decode is not None:
        if scope == Scope.ROW:
            same(decode[used], want_decode[used], "decode scales")
            assert (decode[~used].view(np.uint8) == poison).all(), "decode scales of rows of no group were written"
        else:
            same(decode, want_decode, "decode scales")


def product_bound(a, b, ga, gb) -> np.ndarray:
    """The contract's bound of v, from dequantized operands with decode scales 1 [T, K], [N, K]."""
    k = a.shape[1]
    return 2.0**-15 * max(1, k / 8192) * np.abs(ga)[:, None] * abs(gb) * (np.abs(a) @ np.abs(b).T)


EPS = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}


def rounding(v: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Half an ulp, generously: what one rounding to dtype may add."""
    return np.abs(v) * EPS[np.dtype(dtype)] + (2.0**-25 if dtype == np.float16 else 1e-38)

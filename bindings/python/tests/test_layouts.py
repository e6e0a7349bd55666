"""Scale layouts, interleaving and group ends against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import nvfp4
import reference as ref
from devices import DTYPES, Guarded
from nvfp4 import FaultFlags, Groups, ScaleLayout

TILED = [ScaleLayout.TILED_128X4, ScaleLayout.TILED_8X4]


def test_scales_size(device) -> None:
    assert nvfp4.scales_size(5, 64) == 20
    assert nvfp4.scales_size(5, 64, scales_row_stride=7) == 4 * 7 + 4
    assert nvfp4.scales_size(129, 80, scale_layout=ScaleLayout.TILED_128X4) == 256 * 8
    ends = Groups.by_ends(device.put(np.array([4, 4, 10], np.int32)))
    assert nvfp4.scales_size(10, 64, scale_layout=ScaleLayout.TILED_128X4, groups=ends) == 512 * 4
    assert nvfp4.scales_size(40, 64, scale_layout=ScaleLayout.TILED_8X4, groups=Groups.strided(2, 20)) == 48 * 4
    assert nvfp4.scales_size(0, 16) == 0


@pytest.mark.parametrize("layout", TILED)
@pytest.mark.parametrize("blocks", [1, 3, 4, 5, 64])
@pytest.mark.parametrize("name", ref.SPLITS)
def test_tile_and_untile(device, context, rng, layout, blocks, name) -> None:
    split = ref.SPLITS[name]
    linear = rng.integers(0, 127, (split.rows, blocks), np.uint8)
    groups = split.groups(device)
    size = nvfp4.scales_size(split.rows, blocks * 16, scale_layout=layout, groups=groups)
    tiled = Guarded(device, (size,), np.uint8, 0xA5)
    nvfp4.tile_scales(context, device.put(linear, blocks + 5), scale_layout=layout, groups=groups, tiled=tiled.array)
    want = ref.layout(linear, split, layout, np.full(size, 0xA5, np.uint8))
    ref.same(tiled.check(), want, "tiled")
    back = Guarded(device, (split.rows, blocks), np.uint8, 0x5A, blocks + 3)
    nvfp4.untile_scales(context, tiled.array, split.rows, blocks, scale_layout=layout, groups=groups, linear=back.array)
    got, used = back.check(), split.used
    ref.same(got[used], linear[used], "linear")
    assert (got[~used] == 0x5A).all()


@pytest.mark.parametrize(("rows", "blocks"), [(127, 3), (128, 4), (129, 5), (300, 11)])
def test_made_outputs(device, context, rng, rows, blocks) -> None:
    linear = rng.integers(0, 127, (rows, blocks), np.uint8)
    for layout, swizzle in zip(TILED, (oracle.swizzle, oracle.swizzle_8x4)):
        tiled = nvfp4.tile_scales(context, device.put(linear), scale_layout=layout)
        ref.same(device.get(tiled), swizzle(linear), "tiled")
        ref.same(device.get(nvfp4.untile_scales(context, tiled, rows, blocks, scale_layout=layout)), linear, "linear")


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), *DTYPES.values()])
@pytest.mark.parametrize(("count", "half", "granularity"), [(1, 32, 8), (3, 16, 8), (2, 6, 2), (0, 8, 8)])
def test_interleave_gate_up(device, context, rng, dtype, count, half, granularity) -> None:
    src = rng.integers(0, 100, (count, 2 * half, 24)).astype(dtype)
    dst = Guarded(device, src.shape, dtype, 0xA5)
    nvfp4.interleave_gate_up(context, device.put(src), granularity=granularity, dst=dst.array)
    want = np.stack([oracle.interleave_gate_up(w, granularity) for w in src]) if count else src
    ref.same(dst.check(), want, "interleaved")
    ref.same(device.get(nvfp4.deinterleave_gate_up(context, dst.array, granularity=granularity)), src, "back")


def test_interleave_of_one_matrix(device, context, rng) -> None:
    src = rng.integers(0, 256, (64, 24), np.uint8)
    ref.same(device.get(nvfp4.interleave_gate_up(context, device.put(src))), oracle.interleave_gate_up(src), "interleaved")


@pytest.mark.parametrize("counts", [[5, 0, 130, 1], [], [0], [1] * 300])
def test_group_ends(device, context, counts) -> None:
    given = np.array(counts, np.int32)
    ends = Guarded(device, (len(counts),), np.int32, 0xA5)
    nvfp4.group_ends(context, device.put(given), ends=ends.array)
    ref.same(ends.check(), np.cumsum(given).astype(np.int32), "ends")
    inplace = device.put(given)
    nvfp4.group_ends(context, inplace, ends=inplace)
    ref.same(device.get(inplace), np.cumsum(given).astype(np.int32), "ends in place")
    assert not context.faults()


def test_bad_counts(device, context) -> None:
    ends = nvfp4.group_ends(context, device.put(np.array([3, -2, 5], np.int32)))
    assert device.get(ends).tolist() == [3, 3, 8]
    assert context.faults().flags == FaultFlags.BAD_GROUP and context.faults().bad_group == 1
    context.clear_faults()
    ends = nvfp4.group_ends(context, device.put(np.array([2**31 - 1, 1, 5], np.int32)))
    assert device.get(ends).tolist() == [2**31 - 1] * 3
    assert context.faults().bad_group == 1

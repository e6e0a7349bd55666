"""Fixtures: a device (array library and context) to run parity tests on, and its context.

NVFP4_TEST_DEVICES lists devices to run on: numpy, torch (CPU tensors), cuda (torch tensors on GPU 0), cupy. Default: numpy,
and torch where it is installed. A device that was named and is missing is skipped with the reason.
NVFP4_TEST_ISA picks the instruction set of the CPU contexts: PORTABLE, AVX2, AVX512; default BEST.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
for folder in (HERE, HERE.parent, ROOT / "tests" / "vectors"):
    sys.path.insert(0, str(folder))

import nvfp4  # noqa: E402
from devices import DEVICES, Device  # noqa: E402

HAS_TORCH = importlib.util.find_spec("torch") is not None
NAMES = os.environ.get("NVFP4_TEST_DEVICES", "numpy,torch" if HAS_TORCH else "numpy").split(",")


@pytest.fixture(scope="session", params=NAMES)
def device(request: pytest.FixtureRequest) -> Device:
    made = DEVICES[request.param]()
    yield made
    made.context.close()


@pytest.fixture
def context(device: Device) -> nvfp4.Context:
    device.context.clear_faults()
    return device.context


@pytest.fixture
def cpu() -> nvfp4.Context:
    """A context of its own, for tests that close it or read its fault word and pool."""
    with nvfp4.Context(threads=2) as made:
        yield made


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Seeded by the test's own name: the same numbers at every run."""
    return np.random.default_rng(list(request.node.name.encode()))

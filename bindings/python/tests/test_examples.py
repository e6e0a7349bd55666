"""Every example runs, checks itself, and stays short."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import HERE, ROOT
from nvfp4._library import library

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "NVFP4_LIBRARY": library().path}
    done = subprocess.run([sys.executable, "-W", "error", path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert done.stderr == ""


def test_engine_hook() -> None:
    """It says what it did not check where torch or vLLM is missing."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "NVFP4_LIBRARY": library().path}
    path = ROOT / "examples" / "engines" / "vllm_hook.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "torch is not installed" in done.stdout or done.stdout.count("relative error") == 2

"""Loading, versions, statuses, messages, logs, queries."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

import nvfp4
from conftest import HERE
from nvfp4 import Backend, Feature, Isa, LibraryError, LogLevel, NvFp4Error, Status, errors
from nvfp4._library import Library, candidates, library


def test_versions() -> None:
    major, minor, patch = nvfp4.version()
    assert nvfp4.version_string() == f"{major}.{minor}.{patch}" == nvfp4.__version__
    assert nvfp4.abi_version() == 1


def test_every_status_has_a_name_and_a_class() -> None:
    for status in Status:
        assert nvfp4.status_name(status) == f"NVFP4_STATUS_{status.name}"
        if status:
            made = errors.from_status(status, "why")
            assert made.status == status and str(made) == made.message == "why" and isinstance(made, NvFp4Error)
    assert nvfp4.status_name(99) is None and nvfp4.status_name(-1) is None
    assert type(errors.from_status(99, "why")) is NvFp4Error


def test_last_message() -> None:
    with pytest.raises(NvFp4Error) as raised:
        nvfp4.scales_size(4, 17)
    assert nvfp4.last_message() == str(raised.value)


def test_backend_query() -> None:
    info = nvfp4.backend_query()
    assert info.available and info.backend == Backend.CPU and info.threads >= 1 and info.isa != Isa.BEST
    assert "CPU" in info.name
    with pytest.raises(NvFp4Error, match="device = 7"):
        nvfp4.backend_query(Backend.CPU, 7)


def test_context_info(cpu) -> None:
    info = cpu.info()
    assert info.threads == 2 and info.available and info.isa != Isa.BEST
    assert cpu.feature_supported(Feature.GRAPH) and cpu.feature_supported(Feature.ALWAYS_BATCH_INVARIANT)
    assert not cpu.feature_supported(Feature.NATIVE_FP4)
    cpu.prepare()


def test_the_portable_isa_gives_the_same_bits(rng) -> None:
    x = rng.standard_normal((33, 272)).astype(np.float32)
    results = []
    for isa in (Isa.PORTABLE, Isa.BEST):
        with nvfp4.Context(threads=1, isa=isa) as context:
            q = nvfp4.quantize(context, x, scale_rule=nvfp4.ScaleRule.MIN_MSE, scope=nvfp4.Scope.ROW)
            results.append((q.codes.tobytes(), q.scales.tobytes(), q.decode_scales.tobytes()))
    assert results[0] == results[1]


def test_log_callback(cpu) -> None:
    seen: list[tuple[int, str]] = []
    nvfp4.set_log_callback(lambda level, message: seen.append((level, message)), LogLevel.INFO)
    try:
        with pytest.raises(NvFp4Error):
            nvfp4.scales_size(4, 17)
        with nvfp4.Context(threads=1):
            pass
    finally:
        nvfp4.set_log_callback(None)
    assert any("17" in message for _, message in seen), seen
    count = len(seen)
    with pytest.raises(NvFp4Error):
        nvfp4.scales_size(4, 17)
    assert len(seen) == count


def test_struct_sizes_are_checked() -> None:
    from nvfp4 import _abi

    args, size = _abi.nvfp4_scales_size_args(rows=4, cols=64), ctypes.c_size_t(77)
    args.struct_size = 8
    with pytest.raises(NvFp4Error, match="struct_size = 8"):
        library().call("nvfp4_scales_size", ctypes.byref(args), ctypes.byref(size))
    with pytest.raises(NvFp4Error, match="NULL"):
        library().call("nvfp4_scales_size", None, ctypes.byref(size))
    assert size.value == 77


def test_the_environment_names_the_library(monkeypatch) -> None:
    monkeypatch.setenv("NVFP4_LIBRARY", "/nowhere/libnvfp4.so")
    assert list(candidates()) == ["/nowhere/libnvfp4.so"]
    monkeypatch.delenv("NVFP4_LIBRARY")
    assert len(list(candidates())) >= 1


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(HERE.parent), **environment})


def test_a_missing_library_is_an_import_error_at_first_use() -> None:
    done = python(
        "import nvfp4\ntry: nvfp4.version()\nexcept ImportError as e: print(type(e).__name__, e)", NVFP4_LIBRARY="/nowhere/libnvfp4.so"
    )
    assert done.returncode == 0 and done.stdout.startswith("LibraryError") and "NVFP4_LIBRARY" in done.stdout


def test_another_library_is_refused() -> None:
    with pytest.raises(LibraryError, match="nvfp4_version"):
        Library("libc", ctypes.CDLL(None))


def test_everything_exported_is_documented() -> None:
    for name in nvfp4.__all__:
        item = getattr(nvfp4, name)
        if callable(item):
            assert item.__doc__, name

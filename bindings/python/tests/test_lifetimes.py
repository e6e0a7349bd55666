"""Handles: closing, use after close, ends of Python, forks; faults, pool, buffers, events, threads."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import nvfp4
import reference as ref
from conftest import HERE, ROOT
from nvfp4 import (
    CaptureError, Event, ForkedError, Graph, InvalidArgumentError, InvalidHandleError, Stream, Weights,
)
from nvfp4._library import library

X = np.ones((4, 64), np.float32)


def make(context, kind):
    """A handle of each kind, and a call with it."""
    if kind == "stream":
        stream = Stream(context)
        return stream, lambda: nvfp4.quantize(context, X, stream=stream)
    if kind == "event":
        event = Event(context)
        return event, event.record
    if kind == "buffer":
        buffer = nvfp4.Buffer(context, 64)
        return buffer, lambda: buffer.upload(np.zeros(4, np.uint8))
    if kind == "weights":
        weights = Weights.prepare(context, X)
        return weights, lambda: weights.info
    with Graph.capture(context.stream) as recording:
        nvfp4.quantize(context, X)
    return recording.graph, lambda: recording.graph.launch(context.stream)


KINDS = ["stream", "event", "buffer", "weights", "graph"]


@pytest.mark.parametrize("kind", KINDS)
def test_use_after_close(cpu, kind) -> None:
    handle, use = make(cpu, kind)
    use()
    assert not handle.closed and "closed" not in repr(handle)
    raw = handle.handle
    handle.close()
    handle.close()
    assert handle.closed and "closed" in repr(handle)
    with pytest.raises(InvalidHandleError, match=f"the {kind} is closed"):
        use()
    with pytest.raises(InvalidHandleError):
        with handle:
            pass
    with pytest.raises(InvalidHandleError, match=kind):  # and so does the library refuse the stale number
        library().call(f"nvfp4_{kind}_destroy", raw)


@pytest.mark.parametrize("kind", KINDS)
def test_use_after_the_context_was_closed(kind) -> None:
    context = nvfp4.Context(threads=1)
    handle, use = make(context, kind)
    context.close()
    context.close()
    if kind != "weights":
        with pytest.raises(InvalidHandleError):
            use()
    handle.close()


def test_a_closed_context_is_refused() -> None:
    context = nvfp4.Context(threads=1)
    context.close()
    for use in (context.faults, context.info, context.pool_stats, context.synchronize, context.prepare, lambda: context.stream,
                lambda: nvfp4.quantize(context, X), lambda: Stream(context)):
        with pytest.raises(InvalidHandleError, match="context is closed"):
            use()


@pytest.mark.parametrize("number", [0, 1, 0xDEADBEEF])
def test_numbers_that_are_no_handles(cpu, number) -> None:
    for call in (
        lambda: library().call("nvfp4_context_destroy", number),
        lambda: library().call("nvfp4_stream_synchronize", number),
        lambda: library().call("nvfp4_graph_launch", number, cpu.stream.handle),
        lambda: library().call("nvfp4_stream_destroy", cpu.handle),
    ):
        with pytest.raises(InvalidHandleError):
            call()


def test_a_dropped_handle_is_destroyed(cpu) -> None:
    before = cpu.pool_stats().bytes_in_use
    buffer = nvfp4.Buffer(cpu, 1000)
    assert cpu.pool_stats().bytes_in_use > before
    del buffer
    gc.collect()
    assert cpu.pool_stats().bytes_in_use == before


def test_pool_statistics(cpu) -> None:
    with nvfp4.Buffer(cpu, 1000) as buffer:
        assert buffer.size == 1000 and buffer.data % 256 == 0
    with nvfp4.Buffer(cpu, 1000):
        pass
    stats = cpu.pool_stats()
    assert stats.allocations == 2 and stats.reuses == 1 and stats.bytes_in_use == 0
    assert stats.bytes_reserved >= 1000 and stats.peak_bytes_in_use >= 1000
    cpu.pool_trim()
    assert cpu.pool_stats().bytes_reserved == 0


def test_buffers(cpu, rng) -> None:
    data = rng.integers(0, 256, 100, np.uint8)
    a, b = nvfp4.Buffer(cpu, 100), nvfp4.Buffer(cpu, 64)
    a.upload(data)
    b.copy_from(a, 32, dst_offset=8, src_offset=16)
    back = np.zeros(32, np.uint8)
    b.download(back, offset=8)
    ref.same(back, data[16:48], "bytes")
    ref.same(np.asarray(a), data, "the buffer as an array")
    with pytest.raises(InvalidArgumentError, match="src_offset"):
        b.copy_from(a, 32, src_offset=90)
    with pytest.raises(InvalidArgumentError, match="read-only"):
        back.flags.writeable = False
        b.download(back)
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        a.upload(data[::2])
    assert not hasattr(a, "__cuda_array_interface__")


def test_a_buffer_is_an_output(cpu, rng) -> None:
    x = ref.values(rng, (4, 64), np.dtype(np.float32))
    codes = np.asarray(nvfp4.Buffer(cpu, 128)).reshape(4, 32)
    gc.collect()  # the array keeps the buffer
    nvfp4.quantize(cpu, x, codes=codes)
    ref.same(codes, ref.quantize(x)[0], "codes")


def test_events_and_streams(cpu) -> None:
    start, end, stream = Event(cpu), Event(cpu), Stream.borrow(cpu)
    assert start.query()
    with pytest.raises(InvalidArgumentError, match="never recorded"):
        start.elapsed_ms(end)
    start.record(stream)
    nvfp4.quantize(cpu, X, stream=stream)
    end.record(stream)
    end.wait()
    end.synchronize()
    stream.synchronize()
    cpu.synchronize()
    assert stream.query() and end.query() and start.elapsed_ms(end) >= 0
    with pytest.raises(InvalidArgumentError, match="native"):
        Stream.borrow(cpu, 64)


def test_weights_keep_their_storage(cpu, rng) -> None:
    x = rng.standard_normal((32, 64)).astype(np.float32)
    storage = np.zeros(Weights.storage_size(cpu, 1, 32, 64) + 64, np.uint8)
    storage = storage[-storage.ctypes.data % 64 :][: Weights.storage_size(cpu, 1, 32, 64)]
    watch = weakref.ref(storage)
    weights = Weights.prepare(cpu, x, storage=storage)
    del storage
    gc.collect()
    assert watch() is not None
    ref.same(weights.export().codes[0], ref.quantize(x)[0], "codes")
    weights.close()
    del weights
    gc.collect()
    assert watch() is None


def run_python(code: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(str(p) for p in (HERE, HERE.parent, ROOT / "tests" / "vectors"))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)


def test_the_end_of_python_is_quiet() -> None:
    done = run_python("""
import numpy as np, nvfp4
c = nvfp4.Context(threads=2)
b, e, s = nvfp4.Buffer(c, 10), nvfp4.Event(c), nvfp4.Stream(c)
w = nvfp4.Weights.prepare(c, np.ones((32, 64), np.float32))
with nvfp4.Graph.capture(s) as r:
    q = nvfp4.quantize(c, np.ones((4, 64), np.float32), stream=s)
g = r.graph
nvfp4.set_log_callback(lambda level, message: None, 2)
cycle = [c, b]; cycle.append(cycle)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_capture_left_open_at_the_end_is_quiet() -> None:
    done = run_python("""
import nvfp4
c = nvfp4.Context(threads=1)
manager = nvfp4.Graph.capture(c.stream)
manager.__enter__()
""")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_are_detected() -> None:
    done = run_python("""
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, nvfp4
c = nvfp4.Context(threads=2)
s = c.stream
x = np.ones((4, 64), np.float32)
nvfp4.quantize(c, x)
child = os.fork()
if child == 0:
    code = 1
    try:
        nvfp4.quantize(c, x)
    except nvfp4.ForkedError as refused:
        with nvfp4.Context(threads=2) as own:
            nvfp4.quantize(own, x)
        c.close()
        code = 0 if "fork" in str(refused) and c.closed else 2
    os._exit(code)
assert os.waitpid(child, 0)[1] == 0
nvfp4.quantize(c, x)
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert ForkedError.status == nvfp4.Status.FORKED


def test_many_threads_share_a_context(cpu, rng) -> None:
    """Each thread its own data, some their own stream; every result is the oracle's; messages do not mix."""
    jobs = [ref.values(rng, (40, 128), np.dtype(np.float32)) for _ in range(8)]
    expected = [ref.quantize(x, 2) for x in jobs]
    problems: list[BaseException] = []
    gate = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        try:
            stream = Stream(cpu) if i % 2 else None
            gate.wait()
            for _ in range(20):
                q = nvfp4.quantize(cpu, jobs[i], scope=2, stream=stream)
                ref.same(q.codes, expected[i][0], "codes")
                ref.same(q.scales, expected[i][1], "scales")
                with pytest.raises(InvalidArgumentError, match=f"= {17 + i} "):
                    nvfp4.scales_size(4, 17 + i if (17 + i) % 16 else 33)
                assert f"{17 + i}" in nvfp4.last_message()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]


def test_products_in_many_threads(cpu, rng) -> None:
    weights = Weights.prepare(cpu, (rng.standard_normal((2, 64, 256)) * 0.1).astype(np.float32))
    groups = nvfp4.Groups.by_ends(np.array([10, 40], np.int32))
    inputs = [nvfp4.quantize(cpu, rng.standard_normal((40, 256)).astype(np.float32), scope=2) for _ in range(6)]
    expected = [nvfp4.grouped_gemm(cpu, a, weights, groups=groups) for a in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(10):
            if nvfp4.grouped_gemm(cpu, inputs[i], weights, groups=groups).tobytes() != expected[i].tobytes():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_that_captures_is_not_closed(cpu) -> None:
    stream = Stream(cpu)
    with Graph.capture(stream):
        with pytest.raises(CaptureError):
            stream.close()
        assert not stream.closed
    stream.close()

"""Capture and replay."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import nvfp4
import reference as ref
from devices import BF16
from nvfp4 import CaptureError, CaptureMode, DType, Event, Graph, Groups, NotPreparedError, Scope, Stream, UnsupportedError, Weights


def layer(context, device, x, stream, weights, groups):
    """quantize -> product -> swiglu -> quantize, as one stream's work."""
    q = nvfp4.quantize(context, x, scope=Scope.ROW, groups=groups, stream=stream)
    v = nvfp4.grouped_gemm(context, q, weights, groups=groups, out_dtype=DType.BF16, stream=stream)
    return nvfp4.swiglu_quantize(context, v, scope=Scope.ROW, groups=groups, activated=True, stream=stream)


def test_replay_gives_the_bits_of_eager_calls(device, context, rng) -> None:
    weights = Weights.prepare(context, device.put((rng.standard_normal((3, 64, 96)) * 0.1).astype(np.float32)))
    ends = device.put(np.array([4, 4, 10], np.int32))
    groups, stream = Groups.by_ends(ends), Stream(context)
    inputs = [rng.standard_normal((10, 96)).astype(BF16) for _ in range(3)]
    x = device.put(inputs[0])
    with Graph.capture(stream, CaptureMode.RELAXED) as recording:
        with pytest.raises(RuntimeError, match="not ended"):
            recording.graph
        result = layer(context, device, x, stream, weights, groups)
    graph = recording.graph
    assert graph.node_count == 3
    for data, sizes in zip(inputs, ([4, 0, 6], [0, 0, 10], [1, 8, 1])):
        device.assign(x, data)
        device.assign(ends, np.cumsum(sizes).astype(np.int32))  # routing may change between launches
        graph.launch(stream)
        stream.synchronize()
        eager = layer(context, device, device.put(data), None, weights, Groups.by_ends(device.put(np.cumsum(sizes).astype(np.int32))))
        for name in ("codes", "scales", "decode_scales", "activated"):
            ref.same(device.get(getattr(result, name)), device.get(getattr(eager, name)), name)


def test_nothing_runs_while_recording(cpu) -> None:
    codes = np.full((4, 32), 0xA5, np.uint8)
    with Graph.capture(cpu.stream) as recording:
        nvfp4.quantize(cpu, np.ones((4, 64), np.float32), codes=codes)
    assert (codes == 0xA5).all()
    recording.graph.launch(cpu.stream)
    assert (codes != 0xA5).all()


def test_a_graph_keeps_the_arrays_of_its_calls(cpu, rng) -> None:
    x = ref.values(rng, (4, 64), np.dtype(np.float32))
    source, static = x.copy(), np.array([0.01], np.float32)
    watch = weakref.ref(source)
    with Graph.capture(cpu.stream) as recording:
        q = nvfp4.quantize(cpu, source, static_decode_scales=static)
        weights = Weights.prepare(nvfp4.Context(threads=1), x)  # of another context: not part of the capture
    del source, static, weights
    gc.collect()
    assert watch() is not None
    recording.graph.launch(cpu.stream)
    ref.same(q.codes, ref.quantize(x, static=np.array([0.01], np.float32))[0], "codes")
    recording.graph.close()
    del recording
    gc.collect()
    assert watch() is None


def test_products_work_after_their_weights_were_closed(cpu, rng) -> None:
    size = Weights.storage_size(cpu, 1, 32, 64)
    storage = np.zeros(size + 64, np.uint8)
    storage = storage[-storage.ctypes.data % 64 :][:size]
    watch = weakref.ref(storage)
    weights = Weights.prepare(cpu, (rng.standard_normal((32, 64)) * 0.1).astype(np.float32), storage=storage)
    a = rng.standard_normal((4, 64)).astype(BF16)
    want = nvfp4.gemm(cpu, a, weights)
    with Graph.capture(cpu.stream) as recording:
        got = nvfp4.gemm(cpu, a, weights)
    weights.close()
    del weights, storage
    gc.collect()
    assert watch() is not None
    recording.graph.launch(cpu.stream)
    ref.same(got, want, "values")
    del recording
    gc.collect()
    assert watch() is None


def test_an_exception_inside_ends_the_capture(cpu) -> None:
    x = np.ones((4, 64), np.float32)
    with pytest.raises(ZeroDivisionError):
        with Graph.capture(cpu.stream):
            nvfp4.quantize(cpu, x)
            1 / 0
    nvfp4.quantize(cpu, x)
    with Graph.capture(cpu.stream) as recording:
        nvfp4.quantize(cpu, x)
    assert recording.graph.node_count == 1


def test_what_cannot_be_captured(cpu) -> None:
    x = np.ones((4, 64), np.float32)
    with Graph.capture(cpu.stream):
        for call in (lambda: nvfp4.Buffer(cpu, 64), lambda: Weights.prepare(cpu, x), cpu.stream.synchronize, cpu.stream.query,
                     lambda: Graph.capture(cpu.stream).__enter__()):
            with pytest.raises(CaptureError) as raised:
                call()
            assert raised.value.status == nvfp4.Status.CAPTURE and isinstance(raised.value, RuntimeError)


def test_instantiate(cpu) -> None:
    with Graph.capture(cpu.stream, instantiate=False) as recording:
        nvfp4.quantize(cpu, np.ones((4, 64), np.float32))
    with pytest.raises(NotPreparedError, match="instantiate"):
        recording.graph.launch(cpu.stream)
    recording.graph.instantiate()
    recording.graph.launch(cpu.stream)


def test_update(cpu, rng) -> None:
    inputs = [ref.values(rng, (4, 64), np.dtype(np.float32)) for _ in range(2)]
    graphs, results = [], []
    for x in inputs:
        with Graph.capture(cpu.stream) as recording:
            results.append(nvfp4.quantize(cpu, x))
        graphs.append(recording.graph)
    graphs[0].update(graphs[1])
    graphs[1].close()
    graphs[0].launch(cpu.stream)
    ref.same(results[1].codes, ref.quantize(inputs[1])[0], "codes")
    with Graph.capture(cpu.stream) as recording:
        nvfp4.dequantize(cpu, results[1])
    with pytest.raises(UnsupportedError, match="other calls"):
        graphs[0].update(recording.graph)


def test_streams_join_by_events_and_graphs_nest(cpu, rng) -> None:
    x, y = (ref.values(rng, (4, 64), np.dtype(np.float32)) for _ in range(2))
    first, second = Stream(cpu), Stream(cpu)
    fork, join = Event(cpu), Event(cpu)
    source = x.copy()
    watch = weakref.ref(source)
    with Graph.capture(first) as recording:
        fork.record(first)
        fork.wait(second)
        a = nvfp4.quantize(cpu, source, stream=first)
        b = nvfp4.quantize(cpu, y.copy(), stream=second)
        join.record(second)
        join.wait(first)
    with Graph.capture(first) as outer:
        recording.graph.launch(first)
        recording.graph.launch(first)
    recording.graph.close()
    del recording, source
    gc.collect()
    assert outer.graph.node_count == 2 and watch() is not None
    outer.graph.launch(second)
    ref.same(a.codes, ref.quantize(x)[0], "first stream")
    ref.same(b.codes, ref.quantize(y)[0], "second stream")
    with pytest.raises(CaptureError, match="joined back"):
        with Graph.capture(first):
            fork.record(first)
            fork.wait(second)
            nvfp4.quantize(cpu, x, stream=second)
    nvfp4.quantize(cpu, x, stream=second)


def test_copies_are_recorded(cpu) -> None:
    buffer, host, back = nvfp4.Buffer(cpu, 16), np.arange(16, dtype=np.uint8), np.zeros(16, np.uint8)
    with Graph.capture(cpu.stream) as recording:
        buffer.upload(host)
        buffer.download(back)
    assert not back.any()
    for start in (1, 50):
        host[:] = np.arange(start, start + 16)
        recording.graph.launch(cpu.stream)
        ref.same(back, host, "bytes")

"""Graphs: a sequence of calls, recorded once and launched often."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import _abi
from ._library import library
from .context import Capture, Stream
from .enums import CaptureMode
from .errors import NvFp4Error
from .handles import Handle, create


class Graph(Handle):
    """A recorded sequence of calls. It keeps the arrays of its calls alive; launches of one graph run one after another.

        with Graph.capture(stream) as recording:
            nvfp4.quantize(context, x, stream=stream)
        graph = recording.graph
        graph.launch(stream)
    """

    kind = "graph"

    def __init__(self, handle: int, keep: list[Any]) -> None:
        super().__init__(handle)
        self._keep: tuple[Any, ...] = tuple(keep)

    @staticmethod
    @contextmanager
    def capture(stream: Stream, mode: int = CaptureMode.THREAD_LOCAL, instantiate: bool = True) -> Iterator[Recording]:
        """Records instead of carries out what is submitted to `stream` inside the block.

        The graph is in the yielded object's `graph` once the block has ended. An exception inside ends the capture, drops
        the graph and goes on.
        """
        library().call("nvfp4_graph_begin_capture", stream.handle, mode)
        recording = Recording()
        capture = stream.capture = Capture(stream)
        try:
            yield recording
        except BaseException:
            capture.end()
            try:
                Graph(create("nvfp4_graph_end_capture", _abi.nvfp4_graph, stream.handle), []).close()
            except NvFp4Error:
                pass  # the stream was closed, or a stream was not joined back: there is no graph to drop
            raise
        keep = capture.end()
        graph = Graph(create("nvfp4_graph_end_capture", _abi.nvfp4_graph, stream.handle), keep)
        if instantiate:
            graph.instantiate()
        recording._graph = graph

    def instantiate(self) -> None:
        """Makes the graph ready for launches; `capture` has done so unless told otherwise."""
        library().call("nvfp4_graph_instantiate", self.handle)

    def update(self, other: Graph) -> None:
        """Takes over the arguments of a graph of the same calls."""
        library().call("nvfp4_graph_update", self.handle, other.handle)
        self._keep = other._keep

    def launch(self, stream: Stream) -> None:
        """Carries out all its calls; into a stream that captures, records it as one node."""
        library().call("nvfp4_graph_launch", self.handle, stream.handle)
        if stream.capture is not None:
            stream.capture.keep.append(self._keep)

    @property
    def node_count(self) -> int:
        count = ctypes.c_size_t()
        library().call("nvfp4_graph_node_count", self.handle, ctypes.byref(count))
        return int(count.value)


class Recording:
    """Where the graph of a capture block appears when the block has ended."""

    def __init__(self) -> None:
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        if self._graph is None:
            raise RuntimeError("the capture block has not ended yet")
        return self._graph

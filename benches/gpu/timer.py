"""Times work on a GPU: replayed graphs between events, operands rotated beyond the L2 cache, medians."""

import statistics

import torch


class Timer:
    """Holds the stream that work is captured on; `native` of nvfp4's borrowed stream."""

    def __init__(self):
        self.stream = torch.cuda.Stream()
        self.l2 = torch.cuda.get_device_properties(0).L2_cache_size

    def copies(self, byte_count, most=64):
        """How many sets of operands keep a rotation of them out of the cache."""
        return max(2, min(most, -(-3 * self.l2 // max(byte_count, 1))))

    def us(self, calls, replays=7, least_us=200.0):
        """Microseconds of one of `calls`, functions that submit work to the current stream, one after another in a graph."""
        with torch.cuda.stream(self.stream):
            for call in calls[: max(2, min(len(calls), 4))]:
                call()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            for call in calls:
                call()
        once = self._replay(graph, 1)
        repeat = max(1, min(20, int(least_us / max(once, 1.0))))
        times = [self._replay(graph, repeat) for _ in range(replays)]
        return statistics.median(times) / len(calls)

    def _replay(self, graph, count):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream):
            start.record()
            for _ in range(count):
                graph.replay()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / count


def copy_ceiling(timer):
    """Bytes a second, read and written, of torch's copy_ of two gigabytes."""
    a = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda").normal_()
    b = torch.empty_like(a)
    times = []
    for _ in range(12):  # not in a graph: a copy node there is slower
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * a.numel() * 2 / statistics.median(times[2:]) * 1e3

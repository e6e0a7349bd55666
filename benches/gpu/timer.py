"""Times work on a GPU: replayed graphs between events, operands rotated beyond the L2 cache, medians."""

import statistics

import torch


#: A graph is made so long that its start does not count, and no longer than so many calls.
LEAST_US, MOST_CALLS = 2000.0, 256


class Run:
    """Calls that were captured, one after another, and are replayed. Keeps what they work on."""

    def __init__(self, timer, calls):
        self.stream, self.calls = timer.stream, calls
        torch.cuda.synchronize()  # operands are made on another stream
        with torch.cuda.stream(self.stream):
            for call in calls[: max(2, min(len(calls), 4))]:
                call()
        self.stream.synchronize()
        self._capture(1)
        self.replay(1)
        times = min(MOST_CALLS // len(calls), int(LEAST_US / max(self.replay(1), 1.0)) + 1)
        if times > 1:
            self._capture(times)
        self.once = self.replay(1)

    def _capture(self, times):
        self.graph, self.count = torch.cuda.CUDAGraph(), times * len(self.calls)
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            for _ in range(times):
                for call in self.calls:
                    call()

    def replay(self, count):
        """Microseconds of one replay of `count`."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self.stream):
            start.record()
            for _ in range(count):
                self.graph.replay()
            end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / count


class Timer:
    """Holds the stream that work is captured on; `native` of nvfp4's borrowed stream."""

    def __init__(self):
        self.stream = torch.cuda.Stream()
        properties = torch.cuda.get_device_properties(0)
        self.l2, self.processors = properties.L2_cache_size, properties.multi_processor_count

    def copies(self, byte_count, most=64):
        """How many sets of operands keep a rotation of them out of the cache."""
        return max(2, min(most, -(-3 * self.l2 // max(byte_count, 1))))

    def capture(self, calls):
        """Functions that submit work to the current stream, as a graph."""
        return Run(self, calls)

    def compare(self, runs, rounds=7, least_us=LEAST_US):
        """Microseconds of one call of each run, turn by turn: all see the same card."""
        repeat = [max(1, min(20, int(least_us / max(run.once, 1.0)))) for run in runs]
        times = [[run.replay(count) for run, count in zip(runs, repeat)] for _ in range(rounds)]
        return [statistics.median(column) / run.count for run, column in zip(runs, zip(*times))]

    def us(self, calls, rounds=7, least_us=LEAST_US):
        """Microseconds of one of `calls`."""
        return self.compare([self.capture(calls)], rounds, least_us)[0]

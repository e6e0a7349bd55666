"""What the machine can do, in the same run: copying, reading, and multiplying by cuBLAS."""

import ctypes
import pathlib
import statistics
import time

import torch

#: As read.cu has them.
CHUNK, STAGES = 18432, 10
#: Bytes that reads rotate over.
SPREAD = 3 << 30
SIDE = 8192


def copy_rate():
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


class Reader:
    """Launches of read.cu, whose image stands beside this file in a pack."""

    def __init__(self, timer):
        image = pathlib.Path(__file__).with_name("read.fatbin").read_bytes()
        self.timer, self.driver = timer, ctypes.CDLL("libcuda.so.1")
        self.source = torch.empty(SPREAD // 4, dtype=torch.int32, device="cuda").random_()
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self._must("cuModuleLoadData", ctypes.byref(module), image)
        self._must("cuModuleGetFunction", ctypes.byref(self.function), module, b"nvfp4_bench_read")
        most_dynamic_shared = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._must("cuFuncSetAttribute", self.function, most_dynamic_shared, CHUNK * STAGES)

    def _must(self, name, *arguments):
        status = getattr(self.driver, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gives {status}")

    def launch(self, at, byte_count):
        source, size = ctypes.c_uint64(self.source.data_ptr() + at), ctypes.c_uint64(byte_count)
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(source), ctypes.addressof(size))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._must("cuLaunchKernel", self.function, self.timer.processors, 1, 1, 32, 1, 1, CHUNK * STAGES, stream, arguments, None)

    def calls(self, byte_count):
        """Launches that read so many bytes, other ones each."""
        size = max(1, round(byte_count / CHUNK)) * CHUNK
        return [lambda i=i: self.launch(i * size, size) for i in range(max(1, min(24, SPREAD // size)))]


class Cublas:
    """torch.matmul of 8192 x 8192 x 8192 in bfloat16, and the heat that it makes."""

    def __init__(self):
        self.a, self.b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self.c = torch.empty_like(self.a)
        self.rate = self.tflops() * 1e12

    def multiply(self, times):
        """Microseconds of one."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            torch.matmul(self.a, self.b.t(), out=self.c)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / times

    def tflops(self):
        return 2 * SIDE**3 / statistics.median(self.multiply(4) for _ in range(3)) / 1e6

    def heat(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.multiply(8)

"""A safetensors file -> its tensors as numpy arrays on a memory map: no copy, and no package beyond numpy."""
import json

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64, "I64": np.int64, "I32": np.int32,
    "U8": np.uint8, "F8_E4M3": np.uint8,  # scale bytes go to the library as they are
}


class Checkpoint:
    def __init__(self, path):
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:start]))
        self.bytes = data.size
        self.metadata = header.pop("__metadata__", {})
        self.tensors = {}
        for name, info in header.items():
            begin, end = (start + offset for offset in info["data_offsets"])
            # Copied where the file's header moved the tensor off its type's alignment; those of `nvfp4 quantize` never are.
            raw = data[begin:end]
            dtype = np.dtype(DTYPES[info["dtype"]])
            self.tensors[name] = (raw if begin % dtype.itemsize == 0 else raw.copy()).view(dtype).reshape(info["shape"])

    def __getitem__(self, name):
        return self.tensors[name]

    def __contains__(self, name):
        return name in self.tensors

    def floats(self, name):
        return np.asarray(self.tensors[name], np.float32)

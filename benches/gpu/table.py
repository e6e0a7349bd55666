"""Shapes that are measured, and what is asked for at each. Pure: no device is asked."""

from dataclasses import dataclass

TOKENS = (1, 4, 16, 32, 64, 128, 512, 1024)
BATCHES = (1, 8, 16, 64, 256, 1024, 4096, 16384)
#: Bytes of prepared weights: units of 128 rows x 64 k.
UNIT_ROWS, UNIT_COLS, UNIT_BYTES = 128, 64, 4608


@dataclass(frozen=True)
class Shape:
    """kind: grouped (ends), batched (every token to every group), dense. topk: of a router, 0 where there is none."""

    name: str
    groups: int
    k: int
    n: int
    kind: str = "grouped"
    topk: int = 0

    @property
    def group_bytes(self):
        return -(-self.n // UNIT_ROWS) * -(-self.k // UNIT_COLS) * UNIT_BYTES

    @property
    def title(self):
        size = f"{self.k} to {self.n}"
        return f"{self.name}, {size}" if self.kind == "dense" else f"{self.name}, {self.groups} x {size}"


SHAPES = [
    Shape("DeepSeek-V4-Pro L1", 48, 7168, 6144, topk=6),
    Shape("DeepSeek-V4-Pro L2", 48, 3072, 7168, topk=6),
    Shape("Qwen3-30B L1", 128, 2048, 1536, topk=8),
    Shape("output projection 8192", 8, 8192, 1536, "batched"),
    Shape("DeepSeek-V4-Flash L1", 32, 4096, 4096, topk=6),
    Shape("DeepSeek-V4-Flash L2", 32, 2048, 4096, topk=6),
    Shape("dense", 1, 8192, 8192, "dense"),
    Shape("DeepSeek-V3 L1", 32, 7168, 4096, topk=8),
    Shape("DeepSeek-V3 L2", 32, 2048, 7168, topk=8),
    Shape("Qwen3-30B L2", 128, 768, 2048, topk=8),
    Shape("output projection 4096", 8, 4096, 1024, "batched"),
    Shape("Qwen3-235B L1", 64, 4096, 3072, topk=8),
    Shape("Qwen3-235B L2", 64, 1536, 4096, topk=8),
    Shape("Nemotron-3 Nano L1", 128, 2688, 1856, topk=6),
    Shape("Nemotron-3 Nano L2", 128, 1856, 2688, topk=6),
    Shape("gpt-oss-20b L1", 32, 2880, 5760, topk=4),
    Shape("gpt-oss-20b L2", 32, 2880, 2880, topk=4),
]
#: Where comparisons of forms are made (the first of SHAPES), and all 'M tokens top-k' batches.
COMPARED, ROUTED = 6, ("DeepSeek-V4-Pro L1", "DeepSeek-V4-Pro L2", "Qwen3-30B L1", "DeepSeek-V4-Flash L1")
#: A single token with dependent launches: six groups of 48, and the share of the read ceiling asked for.
SINGLE = [
    (Shape("6 of 48 groups, 149 MB", 48, 7168, 6144, topk=6), 0.92),
    (Shape("6 of 48 groups, 74 MB", 48, 3072, 7168, topk=6), 0.84),
    (Shape("6 of 48 groups, 57 MB", 48, 4096, 4096, topk=6), 0.80),
]

#: 'M tokens top-k' on the same card (driver 580.159.04, 2026-11-21) but in another run, microseconds: vLLM 0.26's Marlin NVFP4.
MARLIN = {
    "DeepSeek-V4-Pro L1": {1: 58.1, 16: 367.9, 64: 427.8, 256: 752.8, 1024: 2232, 4096: 7622, 16384: 30809},
    "DeepSeek-V4-Pro L2": {1: 34.0, 64: 229, 1024: 1228, 16384: 16053},
    "Qwen3-30B L1": {1: 11.6, 64: 92, 1024: 305, 16384: 3167},
}


def asked(shape, tokens):
    """What is asked of an even split: (ceiling, least share of it) each. Ceilings: read, cuBLAS, roof (the later of both)."""
    found = []
    if tokens <= 4 and shape.groups * shape.group_bytes >= 200e6:
        found.append(("read", 0.92))
    if tokens == 16 and shape.k == 7168:
        found.append(("read", 0.85))
    if tokens in (32, 64) and shape.k == 7168:
        found.append(("roof", 0.80))
    if tokens == 128 and (shape.k >= 7168 or shape.k == 2048):
        found.append(("cuBLAS", 0.97 if shape.k >= 7168 else 0.92))
    if tokens >= 512:
        for k, share in ((7168, 1.00), (3072, 0.97), (2048, 0.95)):
            if shape.k == k or k == 7168 < shape.k:
                found.append(("cuBLAS", share))
    return found


def ceiling_us(ceiling, read_us, flops, tflops):
    """Microseconds that a ceiling takes for a product."""
    multiply_us = flops / tflops / 1e6
    return {"read": read_us, "cuBLAS": multiply_us, "roof": max(read_us, multiply_us)}[ceiling]


def portable_choice(shape, tokens, processors):
    """(kernel, splits) that the portable kernel takes by itself for an even split, as src/plan/gemm_cuda.rs has it."""
    tile = sum(tokens > most for most in (4, 16, 32, 64))
    width, units, resident = [(8, 1, 4), (16, 1, 4), (32, 1, 4), (64, 1, 3), (128, 2, 1)][tile]
    rows = tokens * shape.groups
    token_tiles = {"grouped": (rows + (width - 1) * shape.groups) // width, "dense": -(-tokens // width)}
    tiles = token_tiles.get(shape.kind, shape.groups * -(-tokens // width)) * -(-shape.n // (units * UNIT_ROWS))
    splits, steps = 1, -(-shape.k // UNIT_COLS)
    while width <= 64 and splits < 16 and tiles * splits * 2 <= processors * resident and steps // (splits * 2) >= 8:
        splits *= 2
    return f"nvfp4_gemm_bf16_{width}", splits


def tuning_line(shape, tokens, choice):
    """A line of a tuning file (src/plan/tuning.rs) that gives an even split this kernel."""
    kernel, splits = choice
    power = 1 << (tokens - 1).bit_length()
    return f"gemm bf16 groups={shape.groups} tokens={power} n={shape.n} k={shape.k} plain {kernel} splits={splits}\n"


def sealed(text):
    """A tuning file's text under its checksum (FNV-1a)."""
    total = 0xCBF29CE484222325
    for byte in text.encode():
        total = (total ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{text}checksum {total:016x}\n"

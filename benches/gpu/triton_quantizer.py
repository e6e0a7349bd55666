"""A plain NVFP4 quantizer in Triton, the peer: linear scales, AMAX, static or per row. It is not bit-exact."""

import torch
import triton
import triton.language as tl


@triton.jit
def _encode(x, encode_scale):
    """[B, 16] values -> [B, 8] bytes and [B] scales."""
    amax = tl.max(tl.abs(x), 1)
    scale = (amax * encode_scale * (1.0 / 6.0)).to(tl.float8e4nv)
    wide = scale.to(tl.float32)
    factor = tl.where(wide > 0, encode_scale / wide, 0.0)
    y = x * factor[:, None]
    m = tl.abs(y)
    code = (m > 0.25).to(tl.uint8) + (m >= 0.75).to(tl.uint8) + (m > 1.25).to(tl.uint8) + (m >= 1.75).to(tl.uint8)
    code += (m > 2.5).to(tl.uint8) + (m >= 3.5).to(tl.uint8) + (m > 5.0).to(tl.uint8)
    code += tl.where(y < 0, 8, 0).to(tl.uint8)
    low, high = tl.split(tl.reshape(code, (x.shape[0], 8, 2)))
    return low | (high << 4), scale


@triton.jit
def _static(src, codes, scales, decode, BLOCKS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    block = first + tl.arange(0, BLOCKS)
    x = tl.load(src + block[:, None] * 16 + tl.arange(0, 16)[None, :]).to(tl.float32)
    packed, scale = _encode(x, 1.0 / tl.load(decode))
    tl.store(codes + block[:, None] * 8 + tl.arange(0, 8)[None, :], packed)
    tl.store(scales + block, scale)


@triton.jit
def _rows(src, codes, scales, decode, blocks, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    b = tl.arange(0, BLOCKS)
    inside = (b < blocks)[:, None]
    block = row * blocks + b
    x = tl.load(src + block[:, None] * 16 + tl.arange(0, 16)[None, :], mask=inside, other=0.0).to(tl.float32)
    amax = tl.max(tl.max(tl.abs(x), 1), 0)
    g = tl.where(amax > 0, amax * (1.0 / 2688.0), 1.0)
    tl.store(decode + row, g)
    packed, scale = _encode(x, 1.0 / g)
    tl.store(codes + block[:, None] * 8 + tl.arange(0, 8)[None, :], packed, mask=inside)
    tl.store(scales + block, scale, mask=b < blocks)


def quantize_static(src, codes, scales, decode):
    blocks = src.numel() // 16
    per_program = 128 if blocks % 128 == 0 else 16
    _static[(blocks // per_program,)](src, codes, scales, decode, per_program, num_warps=4)


def quantize_rows(src, codes, scales, decode):
    rows, cols = src.shape
    _rows[(rows,)](src, codes, scales, decode, cols // 16, triton.next_power_of_2(cols // 16), num_warps=8)


def outputs(rows, cols):
    return (
        torch.empty(rows, cols // 2, dtype=torch.uint8, device="cuda"),
        torch.empty(rows, cols // 16, dtype=torch.float8_e4m3fn, device="cuda"),
    )

"""Device code: load and store blocks of rows."""

import triton
import triton.language as tl


@triton.jit
def row_pointers(tensor, b, h, start, COUNT: tl.constexpr, cfg):
    """Addresses of the rows start .. start + COUNT - 1 of one head, the rows' numbers, and the columns."""
    base = (
        tensor.pointer
        + tl.cast(b, tl.int64) * tensor.stride_b
        + tl.cast(h, tl.int64) * tensor.stride_h
        + tl.cast(start, tl.int64) * tensor.stride_m
    )
    offs = tl.arange(0, COUNT)[:, None]  # (COUNT, 1)
    offs_d = tl.arange(0, cfg.BLOCK_D)[None, :]  # (1, BLOCK_D)
    return base + offs * tensor.stride_m + offs_d, start + offs, offs_d


@triton.jit
def load_rows(tensor, b, h, start, length, COUNT: tl.constexpr, cfg, RAGGED: tl.constexpr):
    """Rows start .. start + COUNT - 1 of one head, (COUNT, BLOCK_D). 0 beyond D, and outside 0 .. length - 1 if RAGGED."""
    pointers, row, offs_d = row_pointers(tensor, b, h, start, COUNT, cfg)
    if RAGGED:
        return tl.load(pointers, mask=(row >= 0) & (row < length) & (offs_d < cfg.D), other=0.0)
    elif cfg.BLOCK_D != cfg.D:
        return tl.load(pointers, mask=offs_d < cfg.D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_rows(tensor, block, b, h, start, length, COUNT: tl.constexpr, cfg):
    """Write a block (COUNT, BLOCK_D) to the rows start .. start + COUNT - 1 of one head, as far as they exist."""
    pointers, row, offs_d = row_pointers(tensor, b, h, start, COUNT, cfg)
    tl.store(pointers, block.to(tensor.pointer.dtype.element_ty), mask=(row < length) & (offs_d < cfg.D))


@triton.jit
def load_cached(pointers, cfg):
    """Load values of 32 or 16 bits that are likely in the L1 cache.

    On NVIDIA by an inline ld.global.nc, which keeps the layout of the matrix product: Triton would stage a tl.load through
    shared memory, either copied ahead, 4 bytes at a time, or converted from a coalesced layout.
    """
    if not cfg.NVIDIA:
        return tl.load(pointers)
    else:
        address = pointers.to(tl.int64, bitcast=True)
        if pointers.dtype.element_ty == tl.float32:
            return tl.inline_asm_elementwise("ld.global.nc.f32 $0, [$1];", "=f,l", [address], tl.float32, True, 1)
        else:
            half = tl.inline_asm_elementwise("ld.global.nc.b16 $0, [$1];", "=h,l", [address], tl.int16, True, 1)
            return half.to(pointers.dtype.element_ty, bitcast=True)

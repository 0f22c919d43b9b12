"""Device code: load and store blocks of rows."""

import triton
import triton.language as tl


@triton.jit
def row_pointers(tensor, b, h, start, COUNT: tl.constexpr, cfg):
    """Of the rows start .. start + COUNT - 1 of one head: addresses (COUNT, BLOCK_D), row numbers (COUNT, 1) and columns
    (1, BLOCK_D).
    """
    base = tensor.pointer + tl.cast(b, tl.int64) * tensor.stride_b + tl.cast(h, tl.int64) * tensor.stride_h
    offs = tl.arange(0, COUNT)[:, None]  # (COUNT, 1)
    offs_d = tl.arange(0, cfg.BLOCK_D)[None, :]  # (1, BLOCK_D)
    # `start` last: what comes before it leaves the loop.
    pointers = base + offs * tensor.stride_m + offs_d + tl.cast(start, tl.int64) * tensor.stride_m
    return pointers, start + offs, offs_d


@triton.jit
def load_rows(tensor, b, h, start, length, COUNT: tl.constexpr, cfg, RAGGED: tl.constexpr):
    """The rows start .. start + COUNT - 1 of one head, (COUNT, BLOCK_D): 0 beyond column D, and, if RAGGED, for rows
    outside 0 .. length - 1.
    """
    pointers, row, offs_d = row_pointers(tensor, b, h, start, COUNT, cfg)
    if RAGGED:
        return tl.load(pointers, mask=(row >= 0) & (row < length) & (offs_d < cfg.D), other=0.0)
    elif cfg.BLOCK_D != cfg.D:
        return tl.load(pointers, mask=offs_d < cfg.D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_rows(tensor, block, b, h, start, length, COUNT: tl.constexpr, cfg):
    """Write a block (COUNT, BLOCK_D) to the rows start .. start + COUNT - 1 of one head, those below `length`."""
    pointers, row, offs_d = row_pointers(tensor, b, h, start, COUNT, cfg)
    tl.store(pointers, block.to(tensor.pointer.dtype.element_ty), mask=(row < length) & (offs_d < cfg.D))


@triton.jit
def diagonal_pointers(base, origin, tile):
    """base + origin - offs_m + offs_n, in the shape of the tile.

    In 64 bits and in this order, what a row takes leaves the loop, and each address is a register plus an immediate offset.
    """
    return base - tile.offs_m.to(tl.int64) + (tile.offs_n.to(tl.int64) + origin)


@triton.jit
def load_cached(pointers, cfg):
    """Load values of 32 or 16 bits that are likely in the L1 cache, in the shape of `pointers`.

    On NVIDIA, an inline ld.global.nc keeps the MMA layout: one base register plus immediate offsets. tl.load would stage
    through shared memory: by asynchronous copies of 4 bytes each, or to convert from a coalesced layout.
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


@triton.jit
def load_inside(pointers, last, offs, count, cfg):
    """`load_cached` in float32 where 0 <= last - offs < count, and 0 elsewhere, where nothing is read.

    The inline difference is no loop variable of its own for each element, as Triton's compiler would make of it; and the 0
    has 32 bits, which takes half as many instructions as one of 16.
    """
    if not cfg.NVIDIA:
        return tl.load(pointers, mask=(last - offs >= 0) & (last - offs < count), other=0.0).to(tl.float32)
    else:
        INSIDE: tl.constexpr = (
            "{\n.reg .pred %inside; .reg .b32 %step;\nsub.s32 %step, $2, $3; setp.lt.u32 %inside, %step, $4; mov.b32 $0, 0; "
        )
        address = pointers.to(tl.int64, bitcast=True)
        if pointers.dtype.element_ty == tl.float32:
            return tl.inline_asm_elementwise(
                INSIDE + "@%inside ld.global.nc.f32 $0, [$1];\n }",
                "=&f,l,r,r,r",
                [address, last, offs, count],
                tl.float32,
                True,
                1,
            )
        else:
            half = tl.inline_asm_elementwise(
                INSIDE + "@%inside ld.global.nc.u16 $0, [$1];\n }",
                "=&r,l,r,r,r",
                [address, last, offs, count],
                tl.int32,
                True,
                1,
            )
            if pointers.dtype.element_ty == tl.bfloat16:
                return (half << 16).to(tl.float32, bitcast=True)
            else:
                return half.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)

"""Device code: which probabilities dropout keeps, by the function that `falloff.ops.dropout` defines."""

import triton
import triton.language as tl


@triton.jit
def mix(x):
    """The mixer of `falloff.ops.dropout`, on uint32."""
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0xD35A2D97
    return x ^ (x >> 15)


@triton.jit
def absorb(state, x):
    """Mix an index into a state."""
    return mix(state + tl.cast(x, tl.uint32) * 0x9E3779B9)


@triton.jit
def keep_factor(dropout, tile):
    """The factor of each probability, in the shape of the tile: 0 if dropout drops it, else 1 / (1 - dropout_p)."""
    seed = tl.load(dropout.seed)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    i = tile.start_m + tile.offs_m
    start = absorb(absorb(absorb(mix(low), tile.b), tile.h), i)  # one state per row, the shape of offs_m
    step = absorb(absorb(absorb(mix(high), tile.b), tile.h), i) | 1
    bits = mix(start + tl.cast(tile.start_n + tile.offs_n, tl.uint32) * step) ^ 0x80000000  # the shape of the tile
    return tl.where(bits.to(tl.int32, bitcast=True) >= dropout.threshold, dropout.factor, 0.0)

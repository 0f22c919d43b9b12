"""Device code: the bias of a tile of scores for each form, in base 2.

A tile of a strip is a strided view: with the strip stored by falling offset, the bias of row i and key j is at
origin - i + j. A tile of a band is a strided view with row stride E - 1. There is no bucket lookup and no (N, M) tensor.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import LOG2E, PAD
from falloff.ops.triton.kernels.memory import diagonal_pointers, load_cached, load_inside
from falloff.ops.triton.kernels.warp import add_warp


@triton.jit
def add_bias(scores, scale, inputs, dims, tile, cfg, EDGE: tl.constexpr):
    """Add the bias to scale times the scores = q k^T of a tile. Only a tile at an EDGE may reach beyond a strip's padding.

    Returns (sums, unit, constant): the result is sums * unit + constant, which takes the caller no more instructions than
    sums alone. The unit is above 0. The constant has the shape of tile.h, or is 0.
    """
    if cfg.BIAS == "strip":
        return scores * scale + strip_tile(inputs, dims, tile, cfg, EDGE), 1.0, 0.0
    elif cfg.BIAS == "band":
        pointers, last, count = band_pointers(inputs.bias.band, dims, tile)
        band = load_inside(pointers, last, tile.offs_n, count, cfg)  # the shape of the tile
        return scores * inputs.softmax_scale + band, LOG2E, 0.0
    elif cfg.BIAS == "warp":
        return add_warp(scores, scale, inputs, dims, tile, cfg)
    else:
        return scores * scale, 1.0, 0.0


@triton.jit
def strip_tile(inputs, dims, tile, cfg, EDGE: tl.constexpr):
    """The bias of a tile of a strip, in the shape of the tile."""
    width = dims.extent + 2 * PAD
    origin = dims.extent - 1 + PAD - dims.shift - tile.start_m + tile.start_n
    if EDGE:  # a tile moved into the padding reads the same values
        BLOCK_M: tl.constexpr = tile.offs_m.shape[0] * tile.offs_m.shape[1]
        BLOCK_N: tl.constexpr = tile.offs_n.shape[0] * tile.offs_n.shape[1]
        origin = tl.minimum(tl.maximum(origin, BLOCK_M - 1), width - BLOCK_N)
    base = inputs.bias.padded + tl.cast(tile.h, tl.int64) * width
    return load_cached(diagonal_pointers(base, origin, tile), cfg)  # the shape of the tile


@triton.jit
def band_pointers(values, dims, tile):
    """Addresses of a band's values, in the shape of the tile; and of each row, the `last` key inside the band, relative to
    the tile, and the `count` of keys inside. An address outside may be invalid.
    """
    offset = dims.shift + tile.start_m - tile.start_n + tile.offs_m  # of the first key, the shape of offs_m
    beyond = tl.maximum(offset - (dims.seqlen_k - 1 - tile.start_n), 0)  # keys of the band that do not exist
    count = tl.where(tile.start_m + tile.offs_m < dims.seqlen_q, tl.maximum(dims.extent - beyond, 0), 0)
    row = (tl.cast(tile.b, tl.int64) * dims.heads + tile.h) * dims.seqlen_q + tile.start_m
    # In 64 bits from here, each address is one register plus an immediate offset.
    first = values + ((row + tile.offs_m) * dims.extent + offset)  # the shape of offs_m
    return first - tile.offs_n.to(tl.int64), offset - beyond, count


@triton.jit
def store_band(values, block, dims, tile):
    """Write a block in the shape of the tile to the entries of a band that exist.

    Triton stores in a layout of many rows per thread: here a row takes an addition, where `band_pointers` takes many more.
    """
    offset = dims.shift + tile.start_m - tile.start_n
    row = (tl.cast(tile.b, tl.int64) * dims.heads + tile.h) * dims.seqlen_q + tile.start_m
    first = values + (row * dims.extent + offset) - tile.offs_n.to(tl.int64)  # the shape of offs_n
    index = (offset - tile.offs_n) + tile.offs_m  # the shape of the tile
    inside = (index.to(tl.uint32) < dims.extent.to(tl.uint32)) & (tile.offs_n < dims.seqlen_k - tile.start_n)
    inside &= tile.offs_m < dims.seqlen_q - tile.start_m
    # The shift is 0: it keeps the products, two registers each, within the loop over keys.
    stride = (dims.extent + 1 + (tile.start_n >> 31)).to(tl.int64)
    pointers = first + tile.offs_m.to(tl.int64) * stride  # the shape of the tile
    tl.store(pointers, block.to(values.dtype.element_ty), mask=inside)


@triton.jit
def add_potential(scores, inputs, dims, tile, cfg):
    """Add the potentials of rows and keys to the scores of a tile, in base 2. Those that do not exist add any number."""
    head = tl.cast(tile.b, tl.int64) * dims.heads + tile.h
    i = tl.minimum(tile.start_m + tile.offs_m, dims.seqlen_q - 1)  # the shape of offs_m
    j = tl.minimum(tl.maximum(tile.start_n + tile.offs_n, 0), dims.seqlen_k - 1)  # the shape of offs_n
    row = load_cached(inputs.potential.row + (head * dims.seqlen_q + i), cfg)  # the shape of offs_m
    key = load_cached(
        inputs.potential.key + (head * dims.seqlen_k + j), cfg
    )  # that of offs_n; of the tile, for heads by row
    return scores + (row + key) * LOG2E


@triton.jit
def far_biases(inputs, dims, h, cfg):
    """The constant bias of the far past and of the far future: the ends of a strip, 0 for other forms."""
    if cfg.BIAS == "strip":
        width = dims.extent + 2 * PAD
        padded = inputs.bias.padded + tl.cast(h, tl.int64) * width
        return tl.load(padded), tl.load(padded + width - 1)
    else:
        return 0.0, 0.0

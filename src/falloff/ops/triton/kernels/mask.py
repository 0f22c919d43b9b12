"""Device code: which keys a query row sees."""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.memory import load_rows, row_pointers


@triton.jit
def key_seen(inputs, b, key, seqlen_k):
    """Whether keys exist and key_mask, if given, does not hide them, in the shape of `key`."""
    seen = (key >= 0) & (key < seqlen_k)
    if inputs.key_mask is not None:
        seen &= tl.load(inputs.key_mask + tl.cast(b, tl.int64) * seqlen_k + key, mask=seen, other=0) != 0
    return seen


@triton.jit
def load_seen(inputs, tensor, b, g, start, seqlen_k, COUNT: tl.constexpr, cfg, RAGGED: tl.constexpr):
    """`load_rows` of keys or values, (COUNT, BLOCK_D), with 0 for keys that key_mask hides: they may be NaN, and 0 * NaN
    is NaN.
    """
    if inputs.key_mask is None:
        return load_rows(tensor, b, g, start, seqlen_k, COUNT, cfg, RAGGED)
    else:
        pointers, row, offs_d = row_pointers(tensor, b, g, start, COUNT, cfg)
        seen = key_seen(inputs, b, row, seqlen_k)  # (COUNT, 1)
        return tl.load(pointers, mask=seen & (offs_d < cfg.D), other=0.0)


@triton.jit
def visible(inputs, dims, tile, cfg, EDGE: tl.constexpr):
    """Whether a row sees a key, in the shape of the tile. Causal and window hide keys only of tiles at an EDGE."""
    i = tile.start_m + tile.offs_m  # the shape of offs_m
    j = tile.start_n + tile.offs_n  # the shape of offs_n
    # The first and last key of each row, relative to the tile: one comparison with a constant for each element.
    last = dims.seqlen_k - 1 - tile.start_n
    if EDGE and cfg.CAUSAL:
        last = tl.minimum(tile.offs_m + (tile.start_m + dims.right - tile.start_n), last)  # the shape of offs_m
    seen = tile.offs_n <= last
    if EDGE and cfg.WINDOW:
        seen &= tile.offs_n >= tile.offs_m + (tile.start_m + dims.left - tile.start_n)
    if inputs.key_mask is not None:
        seen &= key_seen(inputs, tile.b, j, dims.seqlen_k)
    exists = (j >= 0) & (j < dims.seqlen_k)
    if inputs.document_ids is not None:
        ids = inputs.document_ids
        of_row = tl.load(ids + tl.cast(tile.b, tl.int64) * dims.seqlen_q + i, mask=i < dims.seqlen_q, other=0)
        of_key = tl.load(ids + tl.cast(tile.b, tl.int64) * dims.seqlen_k + j, mask=exists, other=0)
        seen &= of_key == of_row
    return seen

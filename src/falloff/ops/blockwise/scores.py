"""The scores of a tile: product, bias and mask; and what dropout makes of its weights."""

import torch
from torch import Tensor

from falloff.ops.blockwise.bias import OfTile
from falloff.ops.blockwise.tile import Tile, by_head, indices
from falloff.ops.call import Call
from falloff.ops.dropout import keep_mask
from falloff.ops.mask import visible


def scores(q: Tensor, k: Tensor, biases: list[OfTile], tile: Tile, call: Call) -> Tensor:
    """The scores (b, g, h / g * n, m) of rows (b, g, h / g * n, D), scaled already, and keys (b, g, m, D)."""
    s = q @ k.mT
    for bias in biases:
        by_head(s, tile)[..., bias.keys].add_(bias.bias)
    seen = visible(
        indices(tile.rows, q.device).flip(0),
        indices(tile.keys, q.device),
        query_start=call.query_start,
        causal=call.causal and tile.bottom < 0,  # a mask that hides nothing of the tile is left out
        window=call.window if call.window is not None and tile.top >= call.window else None,
        key_mask=None if call.key_mask is None else call.key_mask[tile.batch],
        document_ids=None if call.document_ids is None else call.document_ids[tile.batch],
    )
    if seen is not None:
        by_head(s, tile).masked_fill_(~seen, -torch.inf)
    return s


def dropout_factors(tile: Tile, call: Call, dtype: torch.dtype) -> Tensor | None:
    """1 / (1 - p) where dropout keeps a weight and 0 where not, like the scores; None without dropout."""
    if call.seed is None:
        return None
    batch, heads, keys = (indices(part, call.seed.device) for part in (tile.batch, tile.heads, tile.keys))
    rows = indices(tile.rows, call.seed.device).flip(0)
    kept = keep_mask(call.seed, call.dropout_p, batch, heads, rows, keys)  # (b, h, n, m)
    kept = kept.reshape(kept.shape[0], tile.groups.stop - tile.groups.start, -1, tile.num_keys)
    return kept.to(dtype) / (1.0 - call.dropout_p if call.dropout_p < 1.0 else 1.0)

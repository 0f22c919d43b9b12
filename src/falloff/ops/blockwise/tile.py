"""The tiles of a call, and how they are read and written.

A tile is a block of query rows and a block of keys, for some batch entries and heads at once. It holds its rows in *reverse*
order: torch has no negative strides, and with the rows reversed the offset `top - r - c` of row r and key c falls by one
along both axes, so that a bias that depends on the offset alone is a strided view of one vector (both strides 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from falloff.forms import Form, Warp
from falloff.ops.call import Call, sum_dtype

# Tiles of at most 64 x 1024 (the query heads of a GQA group count as rows; there is at least one row of each), and as many
# heads and batch entries at once as keep the scores within 2 MB of float32: a tile stays in cache through the dozen
# elementwise passes of plain torch, and what a form works out for a tile serves many heads. `benchmarks/blockwise.md` has
# the figures.
_ROWS, _KEYS, _SCORES = 64, 1024, 1 << 19

_FEATURES = 1 << 22  # entries of a warp's features at once: all segments of a network of width 32 over a whole tile


@dataclass(frozen=True)
class Tile:
    """Where a tile lies: slices of the batch, the GQA groups, their query heads, the query rows and the keys.

    A q tile is one with all keys that `causal` and `window` let its rows see; its kv tiles are parts of it.
    """

    batch: slice
    groups: slice
    heads: slice
    rows: slice
    keys: slice
    query_start: int

    @property
    def num_rows(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def num_keys(self) -> int:
        return self.keys.stop - self.keys.start

    @property
    def top(self) -> int:
        """The largest offset of the tile: of its last query row, which comes first, and its first key."""
        return self.query_start + self.rows.stop - 1 - self.keys.start

    @property
    def bottom(self) -> int:
        """The smallest offset of the tile."""
        return self.top - (self.num_rows - 1) - (self.num_keys - 1)


def q_tiles(query: Tensor, key: Tensor, call: Call) -> Iterator[Tile]:
    """The q tiles of a call, without rows from which `causal` and `window` hide every key."""
    (batch, heads, num_queries, _), (groups, num_keys) = query.shape, key.shape[1:3]
    group = heads // groups  # query heads that share a key head
    sizes = zip((batch, groups, num_queries), _at_once(group, groups, num_queries, num_keys, call.form), strict=True)
    for b, g, rows in product(*(_parts(*size) for size in sizes)):
        first = 0 if call.window is None else max(call.query_start + rows.start - call.window + 1, 0)
        last = min(call.query_start + rows.stop, num_keys) if call.causal else num_keys
        if first < last:
            heads_of = slice(g.start * group, g.stop * group)
            yield Tile(b, g, heads_of, rows, slice(first, last), call.query_start)


def kv_tiles(q_tile: Tile) -> Iterator[Tile]:
    """A q tile in parts by keys."""
    return (replace(q_tile, keys=keys) for keys in _parts(q_tile.keys.stop, _KEYS, q_tile.keys.start))


def _at_once(group: int, groups: int, num_queries: int, num_keys: int, form: Form | None) -> tuple[int, int, int]:
    """How many batch entries, GQA groups and query rows a q tile takes."""
    rows, keys = max(min(num_queries, _ROWS // group), 1), max(min(num_keys, _KEYS), 1)
    warp = next((part for part in form.parts if isinstance(part, Warp)), None) if form is not None else None
    most = rows if warp is None else _FEATURES // (warp.slope.shape[1] * keys)  # query rows, by their features
    rows = max(min(rows, most), 1)
    heads = max(_SCORES // (group * rows * keys), 1)
    entries = max(heads // groups, 1)
    if warp is not None and warp.a.dim() == 2:
        entries = max(min(entries, most // rows), 1)
    return entries, heads, rows


def _parts(stop: int, step: int, start: int = 0) -> Iterator[slice]:
    return (slice(at, min(at + step, stop)) for at in range(start, stop, step))


def read_rows(tensor: Tensor, tile: Tile) -> Tensor:
    """Rows of a tensor (B, H, N, D) in reverse, those of a GQA group together: (b, g, h / g * n, D)."""
    block = tensor[tile.batch, tile.heads, tile.rows].flip(2).to(sum_dtype(tensor))
    return block.reshape(block.shape[0], tile.groups.stop - tile.groups.start, -1, block.shape[3])


def write_rows(target: Tensor, tile: Tile, block: Tensor) -> None:
    """The inverse of `read_rows`."""
    view = target[tile.batch, tile.heads, tile.rows]
    view.copy_(block.reshape(view.shape).flip(2))


def read_keys(tensor: Tensor, tile: Tile, call: Call) -> Tensor:
    """Keys or values of a tile: (b, g, m, D). Those that `key_mask` hides are zeros: 0 * NaN is NaN."""
    block = tensor[tile.batch, tile.groups, tile.keys].to(sum_dtype(tensor))
    if call.key_mask is None:
        return block
    return block.masked_fill(~call.key_mask[tile.batch, None, tile.keys, None], 0.0)


def by_head(scores: Tensor, tile: Tile) -> Tensor:
    """A view (b, h, n, m) of scores (b, g, h / g * n, m)."""
    return scores.view(scores.shape[0], -1, tile.num_rows, tile.num_keys)


def indices(part: slice, device: torch.device) -> Tensor:
    """The numbers of a slice."""
    return torch.arange(part.start, part.stop, device=device)

"""The bias of one tile of scores, and the gradient of the bias from that tile, for each form, in plain torch.

A tile holds its query rows in *reverse* order. Torch has no negative strides; with the rows reversed, the offset
`top - r - c` falls by one along both axes, so that a tile of anything that depends on the offset alone is a strided view
of one short vector (both strides +1), and its diagonal sums are the column sums of a strided buffer. Nothing is scattered
element by element, and all sums run in a fixed order: the gradients are the same bits on every run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from falloff.forms import Band, Form, Strip, Warp
from falloff.ops.offset_sums import at_distances, at_offsets
from falloff.shapes import Float, Int

_FEATURES = 1 << 22  # entries of a warp's features at once: all segments of a network of width 32 over a whole tile


@dataclass(frozen=True)
class Tile:
    """Where a tile of scores (b, h, n, m) lies: slices of the batch, the heads, the query rows and the keys."""

    batch: slice
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

    def falling_offsets(self, device: torch.device) -> Int[Tensor, " n_plus_m_minus_1"]:
        """top, top - 1, ..., bottom: entry r + c is the offset of row r (reversed) and key c."""
        return torch.arange(self.top, self.bottom - 1, -1, device=device)


def hankel(by_offset: Tensor, tile: Tile) -> Tensor:
    """A view (..., n, m) of contiguous values (..., n + m - 1) given by falling offset: [r, c] is value r + c."""
    shape = (*by_offset.shape[:-1], tile.num_rows, tile.num_keys)
    return by_offset.as_strided(shape, (*by_offset.stride(), 1))


class DiagonalSums:
    """Sums, over all tiles of a call, of what lies at the same offset: (rows, N + M - 1), by falling offset.

    Float64, since the end of a strip may gather nearly all scores of a call, of both signs.
    """

    def __init__(self, rows: int, num_queries: int, num_keys: int, query_start: int, like: Tensor) -> None:
        self.sums = like.new_zeros(rows, max(num_queries + num_keys - 1, 0), dtype=torch.float64)
        self.num_queries = num_queries
        self.highest = query_start + num_queries - 1
        self._buffer = like.new_empty(0)

    def add(self, values: Float[Tensor, "heads n m"], tile: Tile, heads: slice) -> None:
        """Skew the tile so that each diagonal becomes a column of a buffer that is zero elsewhere; sum the columns."""
        count, rows, keys = values.shape
        width = rows + keys - 1
        if self._buffer.shape != (count, rows, width):
            self._buffer = values.new_zeros(count, rows, width)
        self._buffer.as_strided(values.shape, (rows * width, width + 1, 1)).copy_(values)
        first = self.num_queries - tile.rows.stop + tile.keys.start
        self.sums[heads, first : first + width] += self._buffer.sum(1)

    def by_rising_offset(self) -> tuple[Float[Tensor, "rows width"], int]:
        """The sums by rising offset, and the lowest offset."""
        return self.sums.flip(1), self.highest - self.sums.shape[1] + 1


@runtime_checkable
class TileBias(Protocol):
    """The bias of a form, tile by tile; the gradients come in the order of the form's tensors."""

    def add_to(self, scores: Float[Tensor, "b h n m"], tile: Tile) -> None: ...

    def accumulate(self, grad_scores: Float[Tensor, "b h n m"], tile: Tile) -> None: ...

    def gradients(self) -> list[Tensor]: ...


class StripTiles:
    """values[h, clamp(offset - start, 0, K - 1)]: a view of a stretch of the strip."""

    def __init__(self, form: Strip, num_queries: int, num_keys: int, query_start: int, dtype: torch.dtype) -> None:
        self.values, self.start = form.values.to(dtype), form.start
        self.sums = DiagonalSums(form.num_heads, num_queries, num_keys, query_start, self.values)

    def add_to(self, scores: Tensor, tile: Tile) -> None:
        index = (tile.falling_offsets(scores.device) - self.start).clamp(0, self.values.shape[1] - 1)
        scores += hankel(self.values[tile.heads].index_select(1, index), tile)

    def accumulate(self, grad_scores: Tensor, tile: Tile) -> None:
        self.sums.add(grad_scores.sum(0), tile, tile.heads)

    def gradients(self) -> list[Tensor]:
        return [at_offsets(*self.sums.by_rising_offset(), self.start, self.values.shape[1])]


class BandTiles:
    """values[b, h, i, offset] for 0 <= offset < E, else 0: only the keys within the extent are touched."""

    def __init__(self, form: Band, num_queries: int, num_keys: int, query_start: int, dtype: torch.dtype) -> None:
        self.values, self.extent, self.dtype = form.values, form.values.shape[3], dtype
        self.grad_values: Tensor | None = None  # as large as the band: not before it is needed

    def add_to(self, scores: Tensor, tile: Tile) -> None:
        # Keys that some row of the tile has within its extent: top - r - c in 0 .. E - 1.
        first = max(tile.top - (tile.num_rows - 1) - (self.extent - 1), 0)
        last = min(tile.top + 1, tile.num_keys)
        if first >= last:
            return
        offsets = hankel(tile.falling_offsets(scores.device), tile)[:, first:last]
        values = self.values[tile.batch, tile.heads, tile.rows].flip(2).to(scores.dtype)
        picked = values.gather(-1, offsets.clamp(0, self.extent - 1).expand(*values.shape[:2], -1, -1))
        scores[..., first:last] += picked.masked_fill_((offsets < 0) | (offsets >= self.extent), 0.0)

    def accumulate(self, grad_scores: Tensor, tile: Tile) -> None:
        first, last = max(tile.bottom, 0), min(tile.top + 1, self.extent)
        if first >= last:
            return
        # Each entry of the band meets one key at most: fetch its score gradient from there.
        rows = torch.arange(tile.num_rows, device=grad_scores.device)[:, None]
        keys = tile.top - rows - torch.arange(first, last, device=grad_scores.device)
        picked = grad_scores.gather(-1, keys.clamp(0, tile.num_keys - 1).expand(*grad_scores.shape[:2], -1, -1))
        picked = picked.masked_fill_((keys < 0) | (keys >= tile.num_keys), 0.0)
        self.grad_values = self.gradients()[0]
        self.grad_values[tile.batch, tile.heads, tile.rows, first:last] += picked.flip(2)

    def gradients(self) -> list[Tensor]:
        if self.grad_values is None:
            return [self.values.new_zeros(self.values.shape, dtype=self.dtype)]
        return [self.grad_values]


class WarpTiles:
    """slope[h, s] * x + intercept[h, s] with x = g[abs(offset)] * a[r] in segment s.

    Computed as one product: (slope | intercept) of all heads times the features (x in its segment, 0 elsewhere | 1 in its
    segment, 0 elsewhere). The features serve all heads, a tile meets few segments, and the gradient of the lines is the
    product with the features transposed. Looking up the line of each score instead took twice as long.
    """

    def __init__(self, form: Warp, num_queries: int, num_keys: int, query_start: int, dtype: torch.dtype) -> None:
        self.g, self.a, self.knots, self.slope, self.intercept = (tensor.to(dtype).contiguous() for tensor in form.tensors)
        self.grad_a = torch.zeros_like(self.a)
        self.grad_slope, self.grad_intercept = (torch.zeros_like(self.slope, dtype=torch.float64) for _ in range(2))
        self.sums = DiagonalSums(1, num_queries, num_keys, query_start, self.g)

    def _warped(self, tile: Tile) -> Iterator[tuple[slice, slice, "WarpedTile"]]:
        """The tile's x and its segments, for all batch entries at once, or for each where `a` differs among them.

        The tile of a wide network is cut by rows, so that the features have one size whatever the number of segments is.
        """
        distance = tile.falling_offsets(self.g.device).abs().clamp(max=self.g.shape[0] - 1)
        g = hankel(self.g[distance], tile)
        step = max(_FEATURES // (self.slope.shape[1] * tile.num_keys), 1)
        by_entry = self.a[None] if self.a.dim() == 1 else self.a[tile.batch]
        for entry, a in enumerate(by_entry[:, tile.rows].flip(1)):
            entries = slice(None) if self.a.dim() == 1 else slice(entry, entry + 1)
            for start in range(0, tile.num_rows, step):
                rows = slice(start, min(start + step, tile.num_rows))
                yield entries, rows, WarpedTile(g[rows], a[rows], self.knots)

    def add_to(self, scores: Tensor, tile: Tile) -> None:
        for entries, rows, warped in self._warped(tile):
            lines = torch.cat([table[tile.heads, warped.present] for table in (self.slope, self.intercept)], dim=1)
            bias = lines @ torch.cat([warped.indicator * warped.x, warped.indicator])
            scores[entries, :, rows] += bias.view(-1, *warped.g.shape)

    def accumulate(self, grad_scores: Tensor, tile: Tile) -> None:
        grad_g = grad_scores.new_zeros(tile.num_rows, tile.num_keys)
        for entries, rows, warped in self._warped(tile):
            by_head = grad_scores[entries, :, rows].sum(0).flatten(1)
            self.grad_slope[tile.heads, warped.present] += by_head @ (warped.indicator * warped.x).T
            self.grad_intercept[tile.heads, warped.present] += by_head @ warped.indicator.T
            per_segment = self.slope[tile.heads, warped.present].T @ by_head
            grad_x = (per_segment * warped.indicator).sum(0).view(warped.g.shape)
            grad_a = self.grad_a if self.a.dim() == 1 else self.grad_a[tile.batch][entries][0]
            last = tile.rows.stop - rows.start  # rows are held in reverse
            grad_a[last - len(warped.g) : last] += (grad_x * warped.g).sum(-1).flip(-1)
            grad_g[rows] += grad_x * warped.a
        self.sums.add(grad_g[None], tile, slice(0, 1))

    def gradients(self) -> list[Tensor]:
        grad_g = at_distances(*self.sums.by_rising_offset(), self.g.shape[0])[0]
        return [grad_g, self.grad_a, torch.zeros_like(self.knots), self.grad_slope, self.grad_intercept]


class WarpedTile:
    """Rows of a tile of a warp: g (n, m), a (n, 1), x = g * a flattened, and in which segment each x lies."""

    def __init__(self, g: Tensor, a: Tensor, knots: Tensor) -> None:
        self.g, self.a = g.contiguous(), a[:, None]  # else x takes over the unusual strides of a view
        self.x = (self.g * self.a).flatten()
        segment = torch.bucketize(self.x, knots, out_int32=True)
        self.present = slice(int(segment.min()), int(segment.max()) + 1)
        numbers = torch.arange(self.present.start, self.present.stop, device=segment.device)
        self.indicator = (segment == numbers[:, None]).to(g.dtype)


def tile_bias(form: Form, num_queries: int, num_keys: int, query_start: int, dtype: torch.dtype) -> TileBias:
    """The tiles of a form, computed in `dtype`."""
    if isinstance(form, Strip):
        return StripTiles(form, num_queries, num_keys, query_start, dtype)
    if isinstance(form, Band):
        return BandTiles(form, num_queries, num_keys, query_start, dtype)
    assert isinstance(form, Warp)
    return WarpTiles(form, num_queries, num_keys, query_start, dtype)

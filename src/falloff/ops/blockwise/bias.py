"""The bias of a tile, and the sums of its gradient, for each form.

Rows lie in reverse in a tile (see `tile.py`), so that its entry (r, c) has the offset top - (r + c). By falling offset, the
entries of row r therefore begin r numbers later than those of row 0: a bias that depends on the offset alone is a view of
one vector, and the sums along diagonals are the column sums of rows that are shifted back (`Skew`). Nothing is scattered
element by element, and all sums run in a fixed order: the gradients are the same bits on every run.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from falloff.forms import Band, Factored, Form, Potential, Strip, Warp
from falloff.ops.blockwise.tile import Tile
from falloff.ops.call import Call, sum_dtype
from falloff.ops.offset_sums import at_distances, at_offsets
from falloff.shapes import Float, Int


class OfTile(NamedTuple):
    """The bias of a tile, or of those of its keys that it reaches."""

    bias: Float[Tensor, "*b h n m"]
    """Not to be written to."""
    accumulate: Callable[[Tensor], None]
    """Takes dS of the same scores, (b, h, n, m), and adds to the gradients of the form."""
    keys: slice = slice(None)


@runtime_checkable
class TileBias(Protocol):
    """The bias of a form, tile by tile, and the sums of its gradient."""

    def at(self, tile: Tile) -> OfTile | None:
        """The bias of a tile; None where it is 0."""
        ...

    def gradients(self) -> list[Tensor]:
        """The gradients of the form's tensors, in their order."""
        ...


class StripTiles:
    """values[h, clamp(offset - start, 0, K - 1)]."""

    def __init__(self, form: Strip, query: Tensor, key: Tensor, call: Call) -> None:
        self.start, self.size, self.offsets = form.start, form.values.shape[1], Offsets(query, key, call)
        index = (self.offsets.falling - self.start).clamp(0, self.size - 1)
        self.values: Float[Tensor, "H width"] = form.values.to(sum_dtype(query)).index_select(1, index)
        self.skew = Skew()

    @cached_property
    def sums(self) -> Float[Tensor, "H width"]:
        return float64_zeros(self.values)

    def at(self, tile: Tile) -> OfTile:
        at = tile.heads, self.offsets.span(tile)

        def accumulate(ds: Tensor) -> None:
            self.sums[at] += self.skew(ds.sum(0)).sum(-2)

        return OfTile(along_diagonals(self.values[at], tile), accumulate)

    def gradients(self) -> list[Tensor]:
        return [at_offsets(self.sums.flip(1), self.offsets.lowest, self.start, self.size)]


class BandTiles:
    """values[b, h, i, offset] for 0 <= offset < E, else 0."""

    def __init__(self, form: Band, query: Tensor, key: Tensor, call: Call) -> None:
        self.values, self.extent, self.dtype = form.values, form.values.shape[3], sum_dtype(query)
        self.skew = Skew()

    @cached_property
    def grad(self) -> Float[Tensor, "B H N E"]:
        # In the dtype of scores: an entry meets one key at most, so that float64 gains nothing.
        return torch.zeros_like(self.values, dtype=self.dtype)

    def at(self, tile: Tile) -> OfTile | None:
        first = max(tile.top - (tile.num_rows - 1) - (self.extent - 1), 0)
        stop = min(tile.top + 1, tile.num_keys)
        if first >= stop:
            return None
        at, keys = (tile.batch, tile.heads, tile.rows), slice(first, stop)
        tile = replace(tile, keys=slice(tile.keys.start + first, tile.keys.start + stop))
        # By falling offset: zeros, or fewer numbers, where the tile goes further than the band, or less far.
        beside = (tile.top - (self.extent - 1), -tile.bottom)
        rows = pad(self.values[at].to(self.dtype).flip(2, 3), beside)  # (b, h, n, n + m - 1)

        def accumulate(ds: Tensor) -> None:
            self.grad[at] += pad(self.skew(ds), (-beside[0], -beside[1])).flip(2, 3)

        return OfTile(shifted(rows, tile.num_keys), accumulate, keys)

    def gradients(self) -> list[Tensor]:
        return [self.grad]


class WarpTiles:
    """slope[h, s] * x + intercept[h, s] with x = g[abs(offset)] * a[r] in segment s.

    Computed as products of the lines of all heads with features: x in its segment, 0 elsewhere, and 1 in its segment, 0
    elsewhere. The features serve all heads, a tile meets few segments, and the gradient of the lines is the product with
    the features transposed. Looking up the line of each score instead took twice as long.
    """

    def __init__(self, form: Warp, query: Tensor, key: Tensor, call: Call) -> None:
        g, self.a, self.knots, self.slope, self.intercept = (t.to(sum_dtype(query)).contiguous() for t in form.tensors)
        self.offsets, self.size = Offsets(query, key, call), g.shape[0]
        self.g: Float[Tensor, " width"] = g[self.offsets.falling.abs().clamp(max=self.size - 1)]
        self.skew = Skew()

    @cached_property
    def sums(self) -> list[Tensor]:
        """For g by falling offset, a, slope and intercept."""
        return [float64_zeros(tensor) for tensor in (self.g, self.a, self.slope, self.intercept)]

    def at(self, tile: Tile) -> OfTile:
        span, shape = self.offsets.span(tile), (tile.num_rows, tile.num_keys)
        rows = tile.rows if self.a.dim() == 1 else (tile.batch, tile.rows)
        g = along_diagonals(self.g[span], tile).contiguous()  # (n, m); else x takes over the strides of the view
        a = self.a[rows].flip(-1).reshape(-1, tile.num_rows, 1)  # (#b, n, 1)
        x = (g * a).flatten(1)[:, None]  # (#b, 1, n * m)
        segment = torch.bucketize(x, self.knots, out_int32=True)
        first, last = int(segment.min()), int(segment.max()) + 1
        lines = tile.heads, slice(first, last)
        in_segment = segment == torch.arange(first, last, device=x.device)[:, None]  # (#b, s, n * m)
        inside, inside_x = in_segment.to(x.dtype), torch.where(in_segment, x, 0.0)  # not a product: x may be infinite
        slope, intercept = (table[lines].expand(len(x), -1, -1) for table in (self.slope, self.intercept))  # (#b, h, s)
        bias = torch.baddbmm(intercept @ inside, slope, inside_x).unflatten(2, shape)  # (#b, h, n, m)

        def accumulate(ds: Tensor) -> None:
            ds = ds.sum_to_size(bias.shape).flatten(2)  # (#b, h, n * m)
            grad_g, grad_a, grad_slope, grad_intercept = self.sums
            grad_slope[lines] += (ds @ inside_x.mT).sum(0)
            grad_intercept[lines] += (ds @ inside.mT).sum(0)
            grad_x = (slope.mT @ ds).mul_(inside).sum(1).unflatten(1, shape)  # (#b, n, m)
            grad_a[rows] += (grad_x * g).sum(-1).flip(-1).view(self.a[rows].shape)
            grad_g[span] += self.skew((grad_x * a).sum(0)).sum(-2)

        return OfTile(bias, accumulate)

    def gradients(self) -> list[Tensor]:
        by_offset, grad_a, grad_slope, grad_intercept = self.sums
        grad_g = at_distances(by_offset.flip(0)[None], self.offsets.lowest, self.size)[0]
        return [grad_g, grad_a, torch.zeros_like(self.knots), grad_slope, grad_intercept]


class FactoredTiles:
    """states . table[h, offset - start], of the states of query rows or keys.

    The states of a tile, times the rows of the table that it meets by falling offset, are rows as `shifted` takes them. Keys
    are as the rows of the tile transposed: from one to the next, too, the offset falls by one.
    """

    def __init__(self, form: Factored, query: Tensor, key: Tensor, call: Call) -> None:
        self.states, dtype = form.states, sum_dtype(query)
        self.of_keys, self.clamped = form.side == "key", form.outside == "clamp"
        self.start, self.size, self.offsets = form.start, form.table.shape[1], Offsets(query, key, call)
        index = self.offsets.falling - self.start
        rows = form.table.to(dtype).index_select(1, index.clamp(0, self.size - 1))  # (#H, width, R)
        if not self.clamped:
            rows *= ((index >= 0) & (index < self.size))[:, None]
        self.table: Float[Tensor, "#H width R"] = rows
        self.skew = Skew()

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor]:
        """For the states, and for the table by falling offset."""
        # In the dtype of scores where few tiles meet an entry.
        return torch.zeros_like(self.states, dtype=self.table.dtype), float64_zeros(self.table)

    def at(self, tile: Tile) -> OfTile | None:
        if not self.clamped and (tile.top < self.start or tile.bottom >= self.start + self.size):
            return None
        span, shared = self.offsets.span(tile), self.table.shape[0] == 1
        table = self.table[slice(None) if shared else tile.heads, span]  # (#h, n + m - 1, R)
        at = tile.batch, tile.heads, tile.keys if self.of_keys else tile.rows
        states = self.states[at].to(table.dtype)  # (b, h, n or m, R)
        if not self.of_keys:
            states = states.flip(2)
        products = states @ table.mT  # (b, h, n or m, n + m - 1)
        bias = shifted(products, tile.num_rows if self.of_keys else tile.num_keys)

        def accumulate(ds: Tensor) -> None:
            d_products = self.skew(ds.mT if self.of_keys else ds)
            of_states, of_table = self.sums
            d_states = d_products @ table
            of_states[at] += d_states if self.of_keys else d_states.flip(2)
            d_table = (d_products.mT @ states).sum(0)  # (h, n + m - 1, R)
            of_table[slice(None) if shared else tile.heads, span] += d_table.sum_to_size(table.shape)

        return OfTile(bias.mT if self.of_keys else bias, accumulate)

    def gradients(self) -> list[Tensor]:
        of_states, of_table = self.sums
        width = of_table.shape[1]
        first, last = 0, width
        if not self.clamped:  # what lies outside the table is not its ends'
            first = min(max(self.start - self.offsets.lowest, 0), width)
            last = min(max(self.start + self.size - self.offsets.lowest, 0), width)
        by_offset = of_table.flip(1).mT[..., first:last].flatten(0, 1)  # (#H * R, last - first)
        grad = at_offsets(by_offset, self.offsets.lowest + first, self.start, self.size)
        return [of_states, grad.unflatten(0, (of_table.shape[0], -1)).mT]


class PotentialTiles:
    """row[b, h, i] + key[b, h, j]."""

    def __init__(self, form: Potential, query: Tensor, key: Tensor, call: Call) -> None:
        self.row, self.key = (tensor.to(sum_dtype(query)) for tensor in form.tensors)

    @cached_property
    def sums(self) -> list[Tensor]:
        return [float64_zeros(self.row), float64_zeros(self.key)]

    def at(self, tile: Tile) -> OfTile:
        of_row, of_key = (tile.batch, tile.heads, tile.rows), (tile.batch, tile.heads, tile.keys)
        bias = self.row[of_row].flip(2)[..., None] + self.key[of_key][..., None, :]

        def accumulate(ds: Tensor) -> None:
            self.sums[0][of_row] += ds.sum(-1).flip(2)
            self.sums[1][of_key] += ds.sum(-2)

        return OfTile(bias, accumulate)

    def gradients(self) -> list[Tensor]:
        return self.sums


class Offsets:
    """The offsets between a query and a key of a call: the highest first."""

    def __init__(self, query: Tensor, key: Tensor, call: Call) -> None:
        self.num_queries, self.lowest = query.shape[2], call.query_start - (key.shape[2] - 1)
        highest, count = call.query_start + query.shape[2] - 1, max(query.shape[2] + key.shape[2] - 1, 0)
        self.falling: Int[Tensor, " width"] = torch.arange(highest, highest - count, -1, device=query.device)

    def span(self, tile: Tile) -> slice:
        """Those of a tile."""
        start = self.num_queries - tile.rows.stop + tile.keys.start
        return slice(start, start + tile.num_rows + tile.num_keys - 1)


def along_diagonals(values: Float[Tensor, "*h n_plus_m_minus_1"], tile: Tile) -> Float[Tensor, "*h n m"]:
    """Values by falling offset as a tile, a view: entry (r, c) is values[..., r + c]."""
    return values.unfold(-1, tile.num_keys, 1)


def shifted(rows: Float[Tensor, "*b n n_plus_m_minus_1"], num_keys: int) -> Float[Tensor, "*b n m"]:
    """Rows by falling offset as a tile, a view: entry (r, c) is rows[..., r, r + c]."""
    return rows.flatten(-2).unfold(-1, num_keys, rows.shape[-1] + 1)


class Skew:
    """The inverse of `shifted`: a tile (..., n, m) as rows by falling offset (..., n, n + m - 1), with zeros beside it.

    The result is overwritten by the next call: to fill anew what stays 0 would take as long as everything else.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None

    def __call__(self, tile: Float[Tensor, "*b n m"]) -> Float[Tensor, "*b n n_plus_m_minus_1"]:
        *batch, rows, keys = tile.shape
        shape = (*batch, rows, rows + keys - 1)
        if self._rows is None or self._rows.shape != shape:
            self._rows = tile.new_zeros(shape)
        shifted(self._rows, keys).copy_(tile)
        return self._rows


def float64_zeros(tensor: Tensor) -> Tensor:
    """Sums for the gradient of a tensor. The end of a strip may gather nearly all scores of a call, of both signs."""
    return torch.zeros_like(tensor, dtype=torch.float64)


_TILES: dict[type[Form], Callable[..., TileBias]] = {
    Strip: StripTiles,
    Band: BandTiles,
    Warp: WarpTiles,
    Factored: FactoredTiles,
    Potential: PotentialTiles,
}


def tile_biases(query: Tensor, key: Tensor, call: Call) -> list[TileBias]:
    """The biases of a call that are added, computed in the dtype of its scores; none without a form."""
    parts = () if call.form is None else call.form.parts
    return [_TILES[type(part)](part, query, key, call) for part in parts]


def at_tile(biases: list[TileBias], tile: Tile) -> list[OfTile]:
    """Those that are not 0 in the tile."""
    return [found for bias in biases if (found := bias.at(tile)) is not None]

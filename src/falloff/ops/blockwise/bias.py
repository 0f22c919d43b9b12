"""The bias of a tile, for each form, as a function that torch differentiates.

Each form says which parts of its tensors a tile needs and what bias they make. The gradients are derived: the backward asks
`torch.func.vjp`, which works inside an operator, where plain autograd records nothing.

What is given by falling offset lies in a tile along its diagonals, rows being held in reverse (see `tile.py`): entry (r, c)
is value r + c. Nothing is scattered element by element, and all sums run in a fixed order: the gradients are the same bits
on every run.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.functional import pad

from falloff.forms import Band, Form, Strip, Warp
from falloff.ops.blockwise.tile import Tile
from falloff.ops.call import Call, sum_dtype
from falloff.ops.offset_sums import at_distances, at_offsets
from falloff.shapes import Float, Int

Parts = tuple[tuple[slice | int, ...], ...]


class TileBias:
    """The bias of a call tile by tile, and the sums of its gradient. This one is of a call without a form: 0 everywhere."""

    def __init__(self, dtype: torch.dtype, *tensors: Tensor) -> None:
        self.dtype = dtype  # of scores
        self.tensors = tensors  # what the bias is computed from, and what gets gradients

    def parts(self, tile: Tile) -> Parts | None:
        """What of each of `tensors` a tile needs; None where its bias is 0."""
        return None

    def bias(self, tile: Tile, *parts: Tensor) -> Tensor:
        """The bias of a tile, (h, n, m) or (#b, h, n, m), computed from the parts it needs."""
        raise NotImplementedError

    def gradients(self) -> list[Tensor]:
        """The gradients of the form's tensors, in their order."""
        return []

    @cached_property
    def sums(self) -> list[Tensor]:
        """The gradients of `tensors`. Float64: the end of a strip may gather nearly all scores of a call, of both signs."""
        return [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self.tensors]

    def at(self, tile: Tile) -> Float[Tensor, "*b h n m"] | None:
        """The bias of a tile; None where it is 0."""
        parts = self.parts(tile)
        return None if parts is None else self.bias(tile, *self._read(parts))

    def differentiable_at(self, tile: Tile) -> tuple[Tensor | None, Callable[[Tensor], None] | None]:
        """The bias of a tile, and what adds the gradient of its scores (b, h, n, m) to the sums; None where it is 0."""
        parts = self.parts(tile)
        if parts is None:
            return None, None
        bias, derivative = vjp(partial(self.bias, tile), *self._read(parts))[:2]

        def accumulate(grad_scores: Tensor) -> None:
            for total, part, grad in zip(self.sums, parts, derivative(grad_scores.sum_to_size(bias.shape)), strict=True):
                total[part] += grad

        return bias, accumulate

    def _read(self, parts: Parts) -> list[Tensor]:
        return [tensor[part].to(self.dtype) for tensor, part in zip(self.tensors, parts, strict=True)]


def along_diagonals(rows: Float[Tensor, "*b n n_plus_m_minus_1"], num_keys: int) -> Float[Tensor, "*b n m"]:
    """Rows by falling offset as a tile: entry (r, c) is rows[..., r, r + c]."""
    rows = rows.contiguous()  # of a view whose entries share memory, torch has a slow derivative only
    *strides, stride, _ = rows.stride()
    return rows.as_strided((*rows.shape[:-1], num_keys), (*strides, stride + 1, 1))


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


class StripTiles(TileBias):
    """values[h, clamp(offset - start, 0, K - 1)]."""

    def __init__(self, form: Strip, query: Tensor, key: Tensor, call: Call) -> None:
        self.start, self.size, self.offsets = form.start, form.values.shape[1], Offsets(query, key, call)
        index = (self.offsets.falling - self.start).clamp(0, self.size - 1)
        super().__init__(sum_dtype(query), form.values.to(sum_dtype(query)).index_select(1, index))

    def parts(self, tile: Tile) -> Parts:
        return ((tile.heads, self.offsets.span(tile)),)

    def bias(self, tile: Tile, *parts: Tensor) -> Float[Tensor, "h n m"]:
        (values,) = parts  # (h, n + m - 1)
        return along_diagonals(values[:, None].expand(-1, tile.num_rows, -1), tile.num_keys)

    def gradients(self) -> list[Tensor]:
        return [at_offsets(self.sums[0].flip(1), self.offsets.lowest, self.start, self.size)]


class BandTiles(TileBias):
    """values[b, h, i, offset] for 0 <= offset < E, else 0."""

    def __init__(self, form: Band, query: Tensor, key: Tensor, call: Call) -> None:
        super().__init__(sum_dtype(query), form.values)
        self.extent = form.values.shape[3]

    @cached_property
    def sums(self) -> list[Tensor]:
        return [torch.zeros_like(self.tensors[0], dtype=self.dtype)]  # an entry meets one key at most: float64 gains nothing

    def parts(self, tile: Tile) -> Parts | None:
        return None if tile.top < 0 or tile.bottom >= self.extent else ((tile.batch, tile.heads, tile.rows),)

    def bias(self, tile: Tile, *parts: Tensor) -> Float[Tensor, "b h n m"]:
        values = parts[0].flip(2, 3)  # (b, h, n, E)
        beside = (tile.top - (self.extent - 1), -tile.bottom)  # zeros, or where negative offsets that the tile lacks
        return along_diagonals(pad(values, beside), tile.num_keys)

    def gradients(self) -> list[Tensor]:
        return self.sums


class WarpTiles(TileBias):
    """slope[h, s] * x + intercept[h, s] with x = g[abs(offset)] * a[r] in segment s.

    Computed as products of the lines of all heads with features: x in its segment, 0 elsewhere, and 1 in its segment, 0
    elsewhere. The features serve all heads, a tile meets few segments, and the gradient of the lines is the product with
    the features transposed. Looking up the line of each score instead took twice as long.
    """

    def __init__(self, form: Warp, query: Tensor, key: Tensor, call: Call) -> None:
        g, a, self.knots, slope, intercept = (t.to(sum_dtype(query)).contiguous() for t in form.tensors)
        self.offsets, self.size = Offsets(query, key, call), g.shape[0]
        by_offset = g[self.offsets.falling.abs().clamp(max=self.size - 1)]
        super().__init__(sum_dtype(query), by_offset, a, slope, intercept)

    def parts(self, tile: Tile) -> Parts:
        lines = (tile.heads,)
        of_rows = (tile.rows,) if self.tensors[1].dim() == 1 else (tile.batch, tile.rows)
        return ((self.offsets.span(tile),), of_rows, lines, lines)

    def bias(self, tile: Tile, *parts: Tensor) -> Float[Tensor, "#b h n m"]:
        g, a, slope, intercept = parts  # (n + m - 1), (n) or (b, n), (h, S), (h, S)
        a = a.flip(-1).reshape(-1, tile.num_rows, 1)
        x = (along_diagonals(g.expand(tile.num_rows, -1), tile.num_keys) * a).flatten(1)[:, None]  # (b, 1, n * m)
        segment = torch.bucketize(x.detach(), self.knots, out_int32=True)
        first, last = int(segment.min()), int(segment.max()) + 1
        inside = (segment == torch.arange(first, last, device=x.device)[:, None]).to(x.dtype)  # (b, s, n * m)
        slope, intercept = (lines[:, first:last].expand(len(x), -1, -1) for lines in (slope, intercept))
        bias = torch.baddbmm(intercept @ inside, slope, inside * x)  # (b, h, n * m)
        return bias.unflatten(2, (tile.num_rows, tile.num_keys))

    def gradients(self) -> list[Tensor]:
        g, a, slope, intercept = self.sums
        grad_g = at_distances(g.flip(0)[None], self.offsets.lowest, self.size)[0]
        return [grad_g, a, torch.zeros_like(self.knots), slope, intercept]


_TILES: dict[type[Form], Any] = {Strip: StripTiles, Band: BandTiles, Warp: WarpTiles}


def tile_bias(query: Tensor, key: Tensor, call: Call) -> TileBias:
    """The bias of a call, computed in the dtype of its scores."""
    return TileBias(sum_dtype(query)) if call.form is None else _TILES[type(call.form)](call.form, query, key, call)

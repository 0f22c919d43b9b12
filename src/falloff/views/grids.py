"""The grid of a bias: rows are queries, columns keys, each cell a bucket or a value."""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from falloff.offsets import check_count, offset_matrix
from falloff.schemes.base import Scheme
from falloff.schemes.settings import title_of
from falloff.views.buckets import Bucket, Bucketed, bucket_table
from falloff.views.content import refuse_without_content

Cell = int | float | None

_MOST_POSITIONS = 2048
_LONGEST_LABEL = 60
_FIELD = re.compile(r"\{(\w*)\}")
_CELLS_AT_ONCE = 2**16  # FIRE needs `width` numbers for each cell while it computes


@dataclass(frozen=True)
class BiasGrid:
    """The buckets or values of a bias among `length` positions, for one head.

    Attributes:
        title: the scheme and its settings.
        kind: whether the cells are buckets or values.
        cells: row i is query i, column j is key j; None if the key is masked.
        head, num_heads: the head whose values these are, and the number of heads. Buckets are the same for all heads.
        buckets: every bucket with its offsets; empty if the cells are values.
        label_format: the text of each cell instead of its content: see `labelled`.
    """

    title: str
    kind: Literal["bucket", "value"]
    cells: tuple[tuple[Cell, ...], ...]
    head: int
    num_heads: int
    buckets: tuple[Bucket, ...] = ()
    label_format: str | None = None

    @property
    def length(self) -> int:
        return len(self.cells)

    @property
    def visible(self) -> list[int | float]:
        """The contents of the cells that are not masked."""
        return [cell for row in self.cells for cell in row if cell is not None]

    @property
    def legend(self) -> tuple[Bucket, ...]:
        """The buckets that occur in the grid, with their offsets."""
        present = set(self.visible)
        return tuple(bucket for bucket in self.buckets if bucket.bucket in present)

    @property
    def unseen(self) -> int:
        """How many buckets have only offsets that do not occur in the grid."""
        return sum(bool(bucket.ranges) for bucket in self.buckets) - len(self.legend)

    @property
    def caption(self) -> str:
        """A description of the grid in one line."""
        what = "buckets" if self.kind == "bucket" else f"bias of head {self.head} of {self.num_heads}"
        return f"{self.title}: {what}, {self.length} position{'s' if self.length > 1 else ''}"

    def labels(self) -> list[list[str]]:
        """The text of each cell: a bucket, a value with about three digits, or nothing; or as `label_format` says."""
        written = None if self.kind == "bucket" else value_format([float(cell) for cell in self.visible])
        return [
            ["" if cell is None else self._label(query, key, cell, written) for key, cell in enumerate(row)]
            for query, row in enumerate(self.cells)
        ]

    def _label(self, query: int, key: int, cell: int | float, written: str | None) -> str:
        content = str(cell) if written is None else format_value(cell, written)
        if self.label_format is None:
            return content
        fields = {self.kind: content, "query": query, "key": key, "offset": query - key}
        return _FIELD.sub(lambda found: str(fields[found[1]]), self.label_format)


def labelled(grid: BiasGrid, label_format: str) -> BiasGrid:
    """A grid whose cells have labels such as `u_{bucket}`.

    Args:
        grid: from `bias_grid`.
        label_format: text with {bucket} or {value} (whichever the grid has), {offset}, {query} and {key} in it.

    Raises:
        ValueError: for another name in braces, or a text that is too long.

    >>> from falloff import T5Bias
    >>> labelled(bias_grid(T5Bias(1), 2), "q_{query}.k_{key}+u_{bucket}").labels()
    [['q_0.k_0+u_0', ''], ['q_1.k_0+u_1', 'q_1.k_1+u_0']]
    """
    if len(label_format) > _LONGEST_LABEL:
        raise ValueError(f"labels: got {len(label_format)} characters, expected at most {_LONGEST_LABEL}")
    known = (grid.kind, "offset", "query", "key")
    for name in _FIELD.findall(label_format):
        if name not in known:
            names = ", ".join(f"{{{one}}}" for one in known)
            raise ValueError(f"labels: got {{{name}}}, expected of this grid {names}")
    return replace(grid, label_format=label_format)


def value_format(values: list[float]) -> str:
    """One format for a whole grid, so that its cells can be compared: three digits for the largest value."""
    largest = max((abs(value) for value in values), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    return ".1e" if exponent < -3 or exponent > 4 else f".{max(0, 2 - exponent)}f"


def format_value(value: float, written: str) -> str:
    """A value in this format; "0" if it is exactly 0, also for -0.0 (-slope * 0)."""
    return "0" if value == 0 else format(value, written)


def bias_grid(scheme: Scheme, length: int, head: int = 0, *, values: bool = False, future: bool | None = None) -> BiasGrid:
    """The grid of a bias among `length` positions.

    Args:
        scheme: any scheme whose bias does not depend on content.
        length: how many positions, 1 .. 2048.
        head: the head whose values to show, counted from 0.
        values: show the bias itself even if the scheme has buckets.
        future: whether keys in the future are shown; by default only if the scheme is bidirectional.

    Raises:
        ValueError: for a length or head out of range, or a bias that is not finite or depends on content.

    >>> from falloff import ALiBi
    >>> bias_grid(ALiBi(8), 3).labels()
    [['0', '', ''], ['-0.50', '0', ''], ['-1.00', '-0.50', '0']]
    """
    check_count("length", length, 1)
    check_count("head", head, 0)
    if length > _MOST_POSITIONS:
        raise ValueError(f"length: got {length}, expected at most {_MOST_POSITIONS} positions for a grid")
    refuse_without_content(scheme)
    num_heads = scheme.num_heads
    if head >= num_heads:
        raise ValueError(f"head: got {head}, expected 0 .. {num_heads - 1}: the bias has {num_heads} heads")
    offsets = offset_matrix(length, length)
    with_buckets = isinstance(scheme, Bucketed) and not values
    with torch.no_grad():
        cells = scheme.bucket(offsets) if isinstance(scheme, Bucketed) and not values else _values(scheme, length, head)
    if not bool(torch.isfinite(cells).all()):
        raise ValueError(f"bias: got values that are not finite from {title_of(scheme)}, expected finite ones")
    if future is None:
        future = bool(getattr(scheme, "bidirectional", False))
    seen = torch.ones_like(offsets, dtype=torch.bool) if future else offsets >= 0
    return BiasGrid(
        title=title_of(scheme),
        kind="bucket" if with_buckets else "value",
        cells=tuple(
            tuple(cell if is_seen else None for cell, is_seen in zip(row, row_seen, strict=True))
            for row, row_seen in zip(cells.tolist(), seen.tolist(), strict=True)
        ),
        head=head,
        num_heads=num_heads,
        buckets=tuple(bucket_table(scheme)) if with_buckets else (),
    )


def _values(scheme: Scheme, length: int, head: int) -> Tensor:
    """The bias of one head, (length, length), computed a few rows at a time."""
    rows = max(1, _CELLS_AT_ONCE // length)
    parts = [
        scheme.dense(min(rows, length - start), length, query_start=start, dtype=torch.float64)[head]
        for start in range(0, length, rows)
    ]
    return torch.cat(parts)

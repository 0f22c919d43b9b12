"""The grid of a bias: rows are queries, columns keys, each cell a bucket or a value."""

import math
from dataclasses import dataclass
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
    """

    title: str
    kind: Literal["bucket", "value"]
    cells: tuple[tuple[Cell, ...], ...]
    head: int
    num_heads: int
    buckets: tuple[Bucket, ...] = ()

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
        """The text of each cell: a bucket, a value with about three digits, or nothing."""
        if self.kind == "bucket":
            return [["" if cell is None else str(cell) for cell in row] for row in self.cells]
        written = value_format([float(cell) for cell in self.visible])
        return [["" if cell is None else format_value(cell, written) for cell in row] for row in self.cells]


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

"""Buckets given as a list of offsets, as exercises give them: `0,1,2-3,4+`."""

import re

import torch
from torch import Tensor

from falloff.schemes import Scheme

_RANGE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9})|(\+))?", re.ASCII)
_MOST_RANGES = 1024
_MOST_OFFSET = 2**20


class ListedBuckets(Scheme):
    """Buckets 0, 1, ... with the ranges of offsets of a list. It has no values: an exercise gives none.

    Args:
        rule: ranges in rising order without a gap, from offset 0 on, such as 0,1,2-3,4+. The last is open.

    Raises:
        ValueError: for any other text.

    >>> ListedBuckets(rule="0,1,2-3,4+").bucket(torch.arange(6))
    tensor([0, 1, 2, 2, 3, 3])
    """

    name = "buckets"

    def __init__(self, *, rule: str) -> None:
        super().__init__()
        self.rule = ",".join(part.strip() for part in rule.split(","))
        self.starts = _starts(self.rule)
        self.num_heads = 1
        self.num_buckets = len(self.starts)
        self.reach = self.starts[-1]
        self.future_reach = 0

    def bucket(self, offsets: Tensor) -> Tensor:
        """The bucket of each integer offset; keys in the future have that of offset 0."""
        return torch.bucketize(offsets.clamp(min=0), torch.tensor(self.starts), right=True) - 1

    def at(self, offsets: Tensor) -> Tensor:
        raise ValueError("--buckets: a list of buckets has no values, expected a scheme")


def _starts(rule: str) -> tuple[int, ...]:
    """The first offset of each bucket."""

    def refuse(expected: str) -> ValueError:
        shown = rule if len(rule) <= 40 else rule[:40] + "..."
        return ValueError(f"buckets: got {shown!r}, expected {expected}")

    parts = rule.split(",")
    if len(parts) > _MOST_RANGES:
        raise refuse(f"at most {_MOST_RANGES} ranges")
    starts: list[int] = []
    following = 0
    for place, part in enumerate(parts):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise refuse(f"ranges of offsets, as 0,1,2-3,4+: {part[:20]!r} is none")
        first, last = int(found[1]), int(found[2] or found[1])
        is_open, is_last = found[3] is not None, place == len(parts) - 1
        if first != following or last < first:
            raise refuse(f"rising ranges without a gap: a range that starts at {following}, where {part!r} stands")
        if is_open != is_last:
            raise refuse("the last range, and no other, to be open, as 4+")
        if last > _MOST_OFFSET:
            raise refuse(f"offsets of at most {_MOST_OFFSET}")
        starts.append(first)
        following = last + 1
    return tuple(starts)

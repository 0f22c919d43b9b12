"""Which offsets share a bucket."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from falloff.schemes.base import Scheme

_CHUNK = 2**20  # offsets per step, so that a large max_distance takes time but not memory
_WITHOUT_REACH = 4096  # the largest offset for a scheme of the user's own that states no reach


@runtime_checkable
class Bucketed(Protocol):
    """A scheme whose bias is by bucket: T5, per-offset, or one of the user's own with a method `bucket`."""

    def bucket(self, offsets: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class OffsetRange:
    """Offsets from `first` to `last`, both included; None for no bound.

    >>> str(OffsetRange(2, 3)), str(OffsetRange(4, None)), str(OffsetRange(-3, -2)), str(OffsetRange(None, -4))
    ('offsets 2-3', 'offsets 4 and beyond', 'offsets -3 to -2', 'offsets -4 and below')
    """

    first: int | None
    last: int | None

    def __str__(self) -> str:
        if self.first is None or self.last is None:
            if self.first is not None:
                return f"offsets {self.first} and beyond"
            return "every offset" if self.last is None else f"offsets {self.last} and below"
        if self.first == self.last:
            return f"offset {self.first}"
        return f"offsets {self.first}-{self.last}" if self.first >= 0 else f"offsets {self.first} to {self.last}"

    def __contains__(self, offset: int) -> bool:
        return (self.first is None or offset >= self.first) and (self.last is None or offset <= self.last)


@dataclass(frozen=True)
class Bucket:
    """One bucket and the ranges of offsets that share it; no range if it is never used."""

    bucket: int
    ranges: tuple[OffsetRange, ...]

    @property
    def offsets(self) -> str:
        """The ranges in words."""
        return ", ".join(str(part) for part in self.ranges) if self.ranges else "never used"

    @property
    def in_future(self) -> bool:
        """Whether it contains only offsets of keys in the future."""
        return bool(self.ranges) and all(part.last is not None and part.last < 0 for part in self.ranges)


def bucket_table(scheme: Scheme) -> list[Bucket]:
    """Every bucket of a scheme with its ranges of offsets, computed from the scheme's bucket of each offset.

    For a scheme that is not bidirectional only offsets >= 0 are listed: keys in the future have the bucket of offset 0, and
    are masked in a causal model.

    Raises:
        ValueError: for a scheme without buckets.

    >>> from falloff import T5Bias
    >>> for bucket in bucket_table(T5Bias(1, num_buckets=4, max_distance=5)):
    ...     print(bucket.bucket, bucket.offsets)
    0 offset 0
    1 offset 1
    2 offsets 2-3
    3 offsets 4 and beyond
    """
    if not isinstance(scheme, Bucketed):
        raise ValueError(f"scheme: got {scheme.name!r}, expected one with buckets, as t5")
    lowest = 0 if scheme.future_reach is None else -scheme.future_reach
    highest = _WITHOUT_REACH if scheme.reach is None else scheme.reach
    ranges: dict[int, list[OffsetRange]] = {}
    for bucket, first, last in _runs(scheme, lowest, highest):
        unending_past = last == highest and scheme.reach is not None
        unending_future = first == lowest and lowest < 0
        ranges.setdefault(bucket, []).append(
            OffsetRange(None if unending_future else first, None if unending_past else last)
        )
    count = getattr(scheme, "num_buckets", max(ranges) + 1)
    return [Bucket(bucket, tuple(ranges.get(bucket, ()))) for bucket in range(count)]


def _runs(scheme: Bucketed, lowest: int, highest: int) -> list[tuple[int, int, int]]:
    """Runs of neighbouring offsets with the same bucket: (bucket, first offset, last offset), in order of offset."""
    runs: list[tuple[int, int, int]] = []
    for start in range(lowest, highest + 1, _CHUNK):
        offsets = torch.arange(start, min(start + _CHUNK, highest + 1))
        buckets, counts = torch.unique_consecutive(scheme.bucket(offsets), return_counts=True)
        first = start
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            if runs and runs[-1][0] == bucket:
                runs[-1] = (bucket, runs[-1][1], first + count - 1)
            else:
                runs.append((bucket, first, first + count - 1))
            first += count
    return runs

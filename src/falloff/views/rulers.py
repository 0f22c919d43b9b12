"""The ruler of buckets: which stretch of offsets each bucket covers, on a scale where far buckets have room too."""

import math
from dataclasses import dataclass

from falloff.views.buckets import Bucket


@dataclass(frozen=True)
class Stretch:
    """A bucket's stretch of a ruler from `begin` to `end`, in units of `ruler_place`."""

    bucket: Bucket
    begin: float
    end: float


def ruler_place(offset: float) -> float:
    """Where an offset lies on the ruler: 0 at 0, 1 further at each doubling of distance + 1; the future is left of 0.

    >>> [ruler_place(offset) for offset in (0, 1, 3, 7, -1)]
    [0.0, 1.0, 2.0, 3.0, -1.0]
    """
    return math.copysign(math.log2(abs(offset) + 1), offset)


def ruler(buckets: list[Bucket]) -> list[Stretch]:
    """The stretches of all buckets that are used, from left to right. An unending range goes on for half an octave.

    >>> from falloff import T5Bias
    >>> from falloff.views.buckets import bucket_table
    >>> [(part.bucket.bucket, round(part.begin, 2), round(part.end, 2))
    ...  for part in ruler(bucket_table(T5Bias(1, num_buckets=4, max_distance=5)))]
    [(0, 0.0, 1.0), (1, 1.0, 1.58), (2, 1.58, 2.32), (3, 2.32, 2.82)]
    """
    stretches = []
    for bucket in buckets:
        for part in bucket.ranges:
            # Each offset n >= 0 covers n to n + 1, each n < 0 covers n to n - 1 on its side: offset 0 starts at 0.
            first, last = part.first, part.last
            if last is not None and last < 0:
                begin = ruler_place(last) - 0.5 if first is None else ruler_place(first)
                stretches.append(Stretch(bucket, begin, ruler_place(last + 1)))
            else:
                begin = ruler_place(0 if first is None else first)
                stretches.append(Stretch(bucket, begin, begin + 0.5 if last is None else ruler_place(last + 1)))
    return sorted(stretches, key=lambda stretch: stretch.begin)


def ruler_ticks(stretches: list[Stretch]) -> list[int]:
    """Offsets to write below a ruler: 0, and powers of two less one on both sides, as far as it goes."""
    low, high = stretches[0].begin, stretches[-1].end
    future = [1 - 2**power for power in range(1, math.floor(-low) + 1)] if low < 0 else []
    return [*reversed(future), *(2**power - 1 for power in range(math.floor(high) + 1))]

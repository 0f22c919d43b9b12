"""T5: a learned bias for each bucket of offsets: one offset in each near bucket, ever wider ranges in the far ones."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.offsets import check_count, check_offsets
from falloff.schemes.base import check_std
from falloff.schemes.cached import CachedScheme
from falloff.shapes import Int

_BUCKET = "bucket(d) = d if d < e else min(b - 1, e + floor(ln(d / e) / ln(max_distance / e) * (b - e)))"


def _bucket_starts(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The smallest distance of each bucket of one direction, computed in integers.

    With e exact buckets and R = num_buckets - e logarithmic ones, distance n lies in bucket e + k or later if
    ln(n / e) / ln(max_distance / e) * R >= k, that is, if n^R * e^k >= max_distance^k * e^R. In floating point, some of
    these boundaries come out wrong (36 buckets, max_distance 392, distance 84: bucket 26 instead of 27).
    """
    exact = num_buckets // 2
    starts = list(range(exact))
    log_buckets = num_buckets - exact
    for k in range(log_buckets):
        too_near, far_enough = exact - 1, max_distance  # bisection
        while far_enough - too_near > 1:
            middle = (too_near + far_enough) // 2
            if middle**log_buckets * exact**k >= max_distance**k * exact**log_buckets:
                far_enough = middle
            else:
                too_near = middle
        starts.append(far_enough)
    return tuple(starts)


def _check_buckets(num_buckets: object, max_distance: object, bidirectional: object) -> int:
    """Check the arguments of `t5_bucket`, and return the number of buckets of one direction."""
    if not isinstance(bidirectional, bool):
        raise ValueError(f"bidirectional: got {bidirectional!r}, expected True or False")
    check_count("num_buckets", num_buckets, 4 if bidirectional else 2)
    assert isinstance(num_buckets, int)
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets: got {num_buckets}, expected an even number: bidirectional buckets are halved")
    per_direction = num_buckets // 2 if bidirectional else num_buckets
    check_count("max_distance", max_distance, per_direction // 2 + 1)
    return per_direction


def t5_bucket(
    offsets: Int[Tensor, "..."], num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
) -> Int[Tensor, "..."]:
    """The T5 bucket of each offset.

    For an offset n >= 0, with e = num_buckets // 2 exact buckets: bucket n if n < e, else
    min(num_buckets - 1, e + floor(ln(n / e) / ln(max_distance / e) * (num_buckets - e))). Keys in the future (n < 0) share
    the bucket of offset 0. With `bidirectional`, keys not in the future have the lower half of the buckets and keys in the
    future the upper half, each by this formula with half of num_buckets.

    Args:
        offsets: integers of any shape, query position - key position.
        num_buckets: at least 2; with `bidirectional` even and at least 4.
        max_distance: from this distance on at the latest, all share the last bucket; larger than the number of exact
            buckets of one direction.
        bidirectional: whether keys in the future have buckets of their own.

    Returns:
        int64 buckets, 0 .. num_buckets - 1, in the shape of `offsets`.

    Raises:
        ValueError: for arguments out of range, or offsets that are not integers.

    Paper: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

    >>> t5_bucket(torch.arange(6), num_buckets=4, max_distance=5)
    tensor([0, 1, 2, 2, 3, 3])
    """
    per_direction = _check_buckets(num_buckets, max_distance, bidirectional)
    check_offsets(offsets)
    return _buckets(offsets, _bucket_starts(per_direction, max_distance), bidirectional)


def _buckets(offsets: Tensor, starts: tuple[int, ...], bidirectional: bool) -> Tensor:
    distance = offsets.abs() if bidirectional else offsets.clamp(min=0)
    buckets = torch.bucketize(distance, _on_device(starts, offsets.device), right=True) - 1
    return buckets + len(starts) * (offsets < 0) if bidirectional else buckets


def _on_device(starts: tuple[int, ...], device: torch.device) -> Tensor:
    """The starts as a tensor, filled on the device: a copy from the host waits for a GPU, and no CUDA graph captures it."""
    exact = len(starts) // 2
    far = (torch.full((1,), start, device=device) for start in starts[exact:])
    return torch.cat([torch.arange(exact, device=device), *far])


class T5Bias(CachedScheme):
    """A learned bias for each bucket of offsets: weight[bucket(n), h] at offset n, see `t5_bucket`.

    The parameter `weight` is (num_buckets, H), as in Transformers' `relative_attention_bias`. T5 itself does not scale its
    scores (`scale=1.0` in `falloff.attention`), and all its layers share one bias.

    Args:
        num_heads: H, at least 1.
        num_buckets, max_distance, bidirectional: as in `t5_bucket`.
        std: standard deviation of the initial weights, whose mean is 0; at least 0. T5 takes d_model ** -0.5.

    Raises:
        ValueError: for arguments out of range.

    Paper: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

    >>> T5Bias(2, num_buckets=4, max_distance=5).dense(6, 6).shape
    torch.Size([2, 6, 6])
    """

    name = "t5"
    largest_settings: ClassVar[dict[str, int]] = {"num_buckets": 1024}
    depends_on = ("weight",)
    formula = f"weight[bucket(max(n, 0)), h]; {_BUCKET}; b = num_buckets; e = b // 2"
    paper = "Raffel et al. 2020, T5"
    reading = "Learns one value for each range of distances: exact near the query, ever wider ranges further away."

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = False,
        *,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_std(std)
        per_direction = _check_buckets(num_buckets, max_distance, bidirectional)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        if bidirectional:
            self.formula = f"weight[bucket(|n|) + (b if n < 0 else 0), h]; {_BUCKET}; b = num_buckets // 2; e = b // 2"
        self.weight = nn.Parameter(torch.randn(num_buckets, num_heads) * std)
        self._starts = _bucket_starts(per_direction, max_distance)
        self.reach = self._starts[-1]
        self.future_reach = self.reach if bidirectional else 0

    @classmethod
    def from_book(cls, num_heads: int, n_b: int, dist_max: int, std: float = 0.02) -> "T5Bias":
        """The bias in a textbook's notation, whose buckets are 0 .. n_b: num_buckets = n_b + 1, max_distance = dist_max.

        Args:
            num_heads, std: as of the class.
            n_b: the last bucket: odd, at least 1. For an even n_b, the textbook's formula and T5's differ.
            dist_max: larger than the number of exact buckets, (n_b + 1) / 2.

        Raises:
            ValueError: for arguments out of range.

        >>> T5Bias.from_book(1, n_b=3, dist_max=5).bucket(torch.arange(5))
        tensor([0, 1, 2, 2, 3])
        """
        check_count("n_b", n_b, 1)
        if n_b % 2 == 0:
            raise ValueError(
                f"n_b: got {n_b}, expected an odd number: the textbook's formula and T5's agree only if n_b + 1 is even"
            )
        check_count("dist_max", dist_max, (n_b + 1) // 2 + 1)
        return cls(num_heads, num_buckets=n_b + 1, max_distance=dist_max, std=std)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"num_buckets": min(32, trained_length), "max_distance": min(128, trained_length)}

    def bucket(self, offsets: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The bucket of each integer offset, int64, in the shape of `offsets`.

        Raises:
            ValueError: for offsets that are not integers.
        """
        check_offsets(offsets)
        return _buckets(offsets, self._starts, self.bidirectional)

    def _constants(self, offsets: Tensor) -> Tensor:
        return self.bucket(offsets)

    def _bias(self, constants: Tensor) -> Tensor:
        return self._upcast(self.weight)[constants].T

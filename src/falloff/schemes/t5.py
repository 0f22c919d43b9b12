"""T5: a learned bias for each bucket of offsets, exact buckets near, logarithmic ones far."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.offsets import check_count, check_offsets
from falloff.schemes.base import check_std
from falloff.schemes.kept import KeptScheme
from falloff.shapes import Int


def _bucket_starts(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The first offset of each bucket of one direction, in exact integers.

    With e exact buckets and R = num_buckets - e logarithmic ones, offset n lies in bucket e + k or later when
    ln(n / e) / ln(max_distance / e) * R >= k, that is, when n^R * e^k >= max_distance^k * e^R. Floor over float
    logarithms gets some of these boundaries wrong (36 buckets, distance 392, offset 84: 26 instead of 27).
    """
    exact = num_buckets // 2
    starts = list(range(exact))
    log_buckets = num_buckets - exact
    for k in range(log_buckets):
        below, reaches = exact - 1, max_distance  # bisect between an offset that is too near and one far enough
        while reaches - below > 1:
            middle = (below + reaches) // 2
            if middle**log_buckets * exact**k >= max_distance**k * exact**log_buckets:
                reaches = middle
            else:
                below = middle
        starts.append(reaches)
    return tuple(starts)


def _check_buckets(num_buckets: object, max_distance: object, bidirectional: object) -> int:
    """Check the settings of T5's buckets; returns the number of buckets of one direction."""
    if not isinstance(bidirectional, bool):
        raise ValueError(f"bidirectional: got {bidirectional!r}, expected True or False")
    check_count("num_buckets", num_buckets, 4 if bidirectional else 2)
    assert isinstance(num_buckets, int)
    if bidirectional and num_buckets % 2:
        raise ValueError(f"num_buckets: got {num_buckets}, expected an even number: bidirectional buckets are halved")
    one_way = num_buckets // 2 if bidirectional else num_buckets
    check_count("max_distance", max_distance, one_way // 2 + 1)
    return one_way


def t5_bucket(
    offsets: Int[Tensor, "..."], num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
) -> Int[Tensor, "..."]:
    """The T5 bucket of each offset.

    With e = num_buckets // 2 and n = offset >= 0: bucket n where n < e, else
    min(num_buckets - 1, e + floor(ln(n / e) / ln(max_distance / e) * (num_buckets - e))). Keys in the future (offset < 0)
    share the bucket of offset 0; with `bidirectional` the buckets are halved and the future has the upper half.

    Args:
        offsets: integers of any shape, query position - key position.
        num_buckets: at least 2; with `bidirectional` even and at least 4.
        max_distance: more than the number of exact buckets of one direction.
        bidirectional: whether keys in the future have buckets of their own.

    Returns:
        int64 buckets, 0 .. num_buckets - 1, in the shape of `offsets`.

    Raises:
        ValueError: for settings out of range, or offsets that are not integers.

    Paper: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

    >>> t5_bucket(torch.arange(6), num_buckets=4, max_distance=5)
    tensor([0, 1, 2, 2, 3, 3])
    """
    one_way = _check_buckets(num_buckets, max_distance, bidirectional)
    check_offsets(offsets)
    return _buckets(offsets, _bucket_starts(one_way, max_distance), bidirectional)


def _buckets(offsets: Tensor, starts: tuple[int, ...], bidirectional: bool) -> Tensor:
    distance = offsets.abs() if bidirectional else offsets.clamp(min=0)
    buckets = torch.bucketize(distance, _on_device(starts, offsets.device), right=True) - 1
    return buckets + len(starts) * (offsets < 0) if bidirectional else buckets


def _on_device(starts: tuple[int, ...], device: torch.device) -> Tensor:
    """Made there: a copy from the host would wait for a GPU, and cannot be captured in a CUDA graph."""
    exact = len(starts) // 2
    far = (torch.full((1,), start, device=device) for start in starts[exact:])
    return torch.cat([torch.arange(exact, device=device), *far])


class T5Bias(KeptScheme):
    """A learned bias for each bucket of offsets: weight[bucket(offset), h], see `t5_bucket`.

    T5 itself does not scale its logits (`scale=1.0` in `falloff.attention`) and shares one bias among its layers.

    Args:
        num_heads: H.
        num_buckets, max_distance, bidirectional: as in `t5_bucket`.
        std: standard deviation of the normal start values; T5 takes d_model ** -0.5.

    Parameter `weight` (num_buckets, H), as in Transformers' `relative_attention_bias`.

    Raises:
        ValueError: for settings out of range.

    Paper: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer".

    >>> T5Bias(2, num_buckets=4, max_distance=5).dense(6, 6).shape
    torch.Size([2, 6, 6])
    """

    name = "t5"
    largest_settings: ClassVar[dict[str, int]] = {"num_buckets": 1024}
    keeps = ("weight",)
    formula = "weight[bucket(n), h]; bucket(n) = n if n < e, else e + floor(ln(n/e) / ln(max_distance/e) * (buckets - e))"
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
        one_way = _check_buckets(num_buckets, max_distance, bidirectional)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.randn(num_buckets, num_heads) * std)
        self._starts = _bucket_starts(one_way, max_distance)
        self.reach = self._starts[-1]
        self.future_reach = self.reach if bidirectional else 0

    @classmethod
    def from_book(cls, num_heads: int, n_b: int, dist_max: int, std: float = 0.02) -> "T5Bias":
        """The bias in the notation that counts buckets 0 .. n_b, so that there are n_b + 1 of them.

        Raises:
            ValueError: for an even n_b, where that notation's formula and T5's differ.

        >>> T5Bias.from_book(1, n_b=3, dist_max=5).bucket(torch.arange(5))
        tensor([0, 1, 2, 2, 3])
        """
        check_count("n_b", n_b, 1)
        if n_b % 2 == 0:
            raise ValueError(
                f"n_b: got {n_b}, expected an odd number: the book's formula and T5's agree only where n_b + 1 buckets halve"
            )
        check_count("dist_max", dist_max, (n_b + 1) // 2 + 1)
        return cls(num_heads, num_buckets=n_b + 1, max_distance=dist_max, std=std)

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"num_buckets": min(32, trained_length), "max_distance": min(128, trained_length)}

    def bucket(self, offsets: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The bucket of each offset."""
        check_offsets(offsets)
        return _buckets(offsets, self._starts, self.bidirectional)

    def _constants(self, offsets: Tensor) -> Tensor:
        return self.bucket(offsets)

    def _bias(self, constants: Tensor) -> Tensor:
        return self._raised(self.weight)[constants].T

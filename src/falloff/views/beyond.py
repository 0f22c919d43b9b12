"""How a bias goes on beyond the trained length, computed from its values."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from falloff.schemes.base import Scheme
from falloff.views.buckets import Bucketed
from falloff.views.rows import FLOAT32_ROUNDING, column, median, row

_TIMES = 8  # as far as `falloff compare` tests

Verdict = Literal["constant", "falling", "rising", "waving", "mixed", "squeezed", "row-dependent"]


@dataclass(frozen=True)
class Beyond:
    """The bias from the trained length to 8 times it.

    Attributes:
        trained_length: offsets up to trained_length - 1 occur in training.
        length: offsets up to length - 1 were examined.
        verdict: 'constant', 'falling', 'rising' or 'waving' (it changes direction) if all heads agree, else 'mixed'; for a
            bias that depends on the row 'squeezed', if later rows spread the same values over more distance, else
            'row-dependent'.
        before, after: the median head's bias at the last offset of either length.
        same_offset: for a bias that depends on the row, the median head's bias at offset trained_length - 1 in the
            last row of all; None otherwise.
        untrained_buckets: buckets that only offsets beyond the trained length use.
    """

    trained_length: int
    length: int
    verdict: Verdict
    before: float
    after: float
    same_offset: float | None
    untrained_buckets: tuple[int, ...]


def beyond_training(scheme: Scheme, trained_length: int, not_toeplitz_from: int | None) -> Beyond:
    """Follow the bias from `trained_length` to 8 times it.

    >>> from falloff import ALiBi, Sandwich, T5Bias
    >>> [beyond_training(scheme, 512, None).verdict for scheme in (T5Bias(8), ALiBi(8), Sandwich(8))]
    ['constant', 'falling', 'waving']
    """
    length = _TIMES * trained_length
    with torch.no_grad():
        values = column(scheme, 0, length)
        rounding = FLOAT32_ROUNDING * values.abs().amax(dim=1)
        same_offset = None
        if not_toeplitz_from is not None and not_toeplitz_from < length:
            verdict = _verdict_by_row(values[:, not_toeplitz_from:])
            same_offset = median(row(scheme, length - 1)[:, trained_length - 1])
        else:
            later = values[:, trained_length - 1 :]
            verdicts = {_verdict(head, limit) for head, limit in zip(later, rounding.tolist(), strict=True)}
            verdict = verdicts.pop() if len(verdicts) == 1 else "mixed"
    return Beyond(
        trained_length=trained_length,
        length=length,
        verdict=verdict,
        before=median(values[:, trained_length - 1]),
        after=median(values[:, -1]),
        same_offset=same_offset,
        untrained_buckets=_untrained_buckets(scheme, trained_length, length),
    )


def _verdict(values: Tensor, rounding: float) -> Verdict:
    """How the values of one head change with the offset."""
    if (values.max() - values.min()).item() <= rounding:
        return "constant"
    steps = values.diff()
    if bool((steps <= 0).all()):
        return "falling"
    return "rising" if bool((steps >= 0).all()) else "waving"


def _verdict_by_row(farthest_key: Tensor) -> Verdict:
    """Squeezed: the farthest key has the same bias in every row, so a longer row has the same range of values."""
    spread = farthest_key.amax(dim=1) - farthest_key.amin(dim=1)
    # FIRE divides by psi(i) + 1e-6, so its last value is not quite constant.
    return "squeezed" if bool((spread <= 1e-4 * farthest_key.abs().amax(dim=1)).all()) else "row-dependent"


def _untrained_buckets(scheme: Scheme, trained_length: int, length: int) -> tuple[int, ...]:
    if not isinstance(scheme, Bucketed):
        return ()
    buckets = scheme.bucket(torch.arange(length))
    trained = set(buckets[:trained_length].tolist())
    return tuple(sorted(set(buckets[trained_length:].tolist()) - trained))

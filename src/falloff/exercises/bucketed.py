"""The schemes with buckets that exercises are about."""

import torch

from falloff.exercises.draw import Draw
from falloff.schemes import PerOffsetBias, Scheme, T5Bias
from falloff.views.buckets import Bucketed

_T5 = ((4, 5), (4, 6), (4, 8), (6, 8), (6, 12), (8, 12), (8, 16), (8, 20))
_BIDIRECTIONAL_T5 = ((8, 5), (8, 8), (12, 8))


def small_scheme(draw: Draw) -> Scheme:
    """A scheme with few buckets, whose grid is small enough to look at: mostly T5 of one direction, as in textbooks."""
    with torch.random.fork_rng(devices=[]):  # start values are drawn, though no exercise shows them
        which = draw.between(1, 10)
        if which <= 6:
            return T5Bias(1, *draw.one_of(_T5))
        if which <= 8:
            return T5Bias(1, *draw.one_of(_BIDIRECTIONAL_T5), bidirectional=True)
        return PerOffsetBias(1, draw.between(2, 5))


def bucket_of(scheme: Scheme, offset: int) -> int:
    """The bucket of one offset."""
    assert isinstance(scheme, Bucketed)
    return int(scheme.bucket(torch.tensor(offset)))

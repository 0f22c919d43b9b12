"""What outcomes say: the value of a measure and its interval, over windows or problems of one model."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from falloff.lab.tasks.base import Measure, Outcome

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def value(measure: Measure, items: Sequence[float]) -> float:
    """The mean of the items as it is shown: all windows or problems have equal weight.

    >>> nats = Measure("all", "perplexity", exponential=True, lower_is_better=True)
    >>> round(value(nats, np.log([2.0, 8.0])), 6)
    4.0
    """
    mean = float(np.mean(items))
    return float(np.exp(mean)) if measure.exponential else mean


def interval(measure: Measure, outcome: Outcome, resamples: int) -> tuple[float, float]:
    """The 95% bootstrap percentile interval of the value, over windows or problems.

    The same ones are drawn for every scheme and seed, so that they do not differ by the draw.

    Args:
        measure: of the outcome.
        outcome: its items are drawn.
        resamples: the number of bootstrap samples.

    >>> share = Measure("exact", "exact match", exponential=False, lower_is_better=False)
    >>> interval(share, Outcome("exact", 64, (1.0,) * 8), 100)
    (1.0, 1.0)
    """
    items = np.asarray(outcome.items)
    drawn = np.random.default_rng(len(items)).integers(0, len(items), (resamples, len(items)))
    low, high = np.quantile(items[drawn].mean(1), (0.025, 0.975))
    return (float(np.exp(low)), float(np.exp(high))) if measure.exponential else (float(low), float(high))


def difference_interval(losses: list[float], others: list[float], together: int = 1) -> tuple[float, float]:
    """The 95% interval of the mean of `others` - `losses`, two models' losses on the same windows.

    A difficult window raises both losses, but not their difference. So this interval is far narrower than those of the two
    means: it may exclude 0 although those overlap. It is Student's t interval.

    Args:
        losses, others: of each window, in the order of the text.
        together: how many neighbouring windows overlap. They share bytes, so their mean counts as one observation. With
            fewer than two observations the interval is infinite.

    >>> low, high = difference_interval([1.0] * 8, [1.1, 1.2, 1.1, 1.2, 1.1, 1.2, 1.1, 1.2])
    >>> round(low, 4), round(high, 4)
    (0.1053, 0.1947)
    """
    differences = np.asarray(others) - np.asarray(losses)
    whole = len(differences) // together * together
    differences = differences[:whole].reshape(-1, together).mean(1)
    if len(differences) < 2:
        return -math.inf, math.inf
    freedom = len(differences) - 1
    reach = _student(freedom) * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) - reach, float(differences.mean()) + reach


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t, from that of the normal distribution (Abramowitz and Stegun 26.7.5).

    >>> [round(_student(freedom), 2) for freedom in (7, 20, 1000)]
    [2.36, 2.09, 1.96]
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))

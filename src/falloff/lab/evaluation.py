"""What outcomes say: the value of a measure and its interval, over windows or problems of one model."""

from collections.abc import Sequence

import numpy as np

from falloff.lab.tasks.base import Measure, Outcome


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

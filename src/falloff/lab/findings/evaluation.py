"""What outcomes say: the value of a measure and its interval, over windows or problems of one model."""

from collections.abc import Sequence

import numpy as np

from falloff.lab.extras import require
from falloff.lab.tasks.base import Measure, Outcome


def value(measure: Measure, items: Sequence[float]) -> float:
    """The mean of the items as it is shown: all windows or problems have equal weight.

    >>> nats = Measure("all", "perplexity", exponential=True, lower_is_better=True)
    >>> round(value(nats, np.log([2.0, 8.0]).tolist()), 6)
    4.0
    """
    mean = float(np.mean(items))
    return float(np.exp(mean)) if measure.exponential else mean


def interval(measure: Measure, outcome: Outcome, resamples: int) -> tuple[float, float]:
    """The 95% interval of the value, over windows or problems.

    Of losses, it is the bootstrap percentile interval; the same windows are drawn for every scheme and seed, so that they do
    not differ by the draw. Neighbouring windows that share tokens are drawn together, as many as `outcome.together`: drawn
    one by one, they would pass for as many independent windows. Of answers, right or wrong, it is Wilson's: where all are
    right, a bootstrap has no width.

    Args:
        measure: of the outcome.
        outcome: its items are drawn.
        resamples: the number of bootstrap samples.

    >>> share = Measure("exact", "exact match", exponential=False, lower_is_better=False)
    >>> low, high = interval(share, Outcome("exact", 64, (1.0,) * 8), 100)
    >>> round(low, 3), high
    (0.676, 1.0)
    """
    items = np.asarray(outcome.items)
    if not measure.exponential:
        test = require("scipy.stats").binomtest(round(float(items.sum())), len(items))
        bounds = test.proportion_ci(0.95, "wilson")
        return float(bounds.low), float(bounds.high)
    count = len(items)
    block = max(min(outcome.together, count // 2), 1)  # one block of all windows would have no spread at all
    first = np.random.default_rng((0, count)).integers(0, count, (resamples, -(-count // block)))
    drawn = ((first[..., None] + np.arange(block)) % count).reshape(resamples, -1)[:, :count]
    low, high = np.exp(np.quantile(items[drawn].mean(1), (0.025, 0.975)))
    return float(low), float(high)

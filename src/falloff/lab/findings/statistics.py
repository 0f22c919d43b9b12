"""Intervals, paired tests, and the correction for many comparisons.

Student's t where an observation is a number, McNemar's exact test where it is right or wrong. `columns.py` says which
numbers of a comparison are observations.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from falloff.lab.extras import require

LEVEL = 0.05
"""A difference is called one if its adjusted p is below this; intervals are of 95%."""

_NO_SPREAD = 1e-9
"""Observations that differ by no more agree: as the items of results.jsonl, they are rounded to 9 decimals."""

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and whether it may be chance.

    Args:
        mean: None if there is no pair of observations.
        low, high: of its own 95% interval, not adjusted; None if there is none.
        p: two-sided, of this difference alone. It is 1 where nothing can be tested.
        observations: how many there are.
        error: the standard error of the mean, if p is Student's.
        adjusted: p with the correction for many comparisons, by `holm`.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float
    observations: int
    error: float | None = None
    adjusted: float = 1.0

    @property
    def shown(self) -> bool:
        """Whether it is called a difference."""
        return self.adjusted < LEVEL

    @property
    def shows_less(self) -> bool | None:
        """Whether the first of the two is shown to be below the second; None if no difference is shown."""
        return self.mean < 0 if self.shown and self.mean is not None else None


def mean_interval(values: Sequence[float] | Floats, step: float = 0.0) -> tuple[float, float] | None:
    """Student's 95% interval of the mean, or None: of a single value, and of values that all agree.

    Args:
        values: independent observations.
        step: what the values are multiples of, such as 1/n for the share of n problems. Their standard deviation counts as
            at least this: that all seeds solve all of n problems does not show that the next one will.

    >>> [round(bound, 3) for bound in mean_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    >>> mean_interval([2.0, 2.0])
    """
    observed = np.asarray(values, dtype=np.float64)
    error = _standard_error(observed, step)
    if error is None:
        return None
    reach = float(require("scipy.special").stdtrit(len(observed) - 1, 1 - LEVEL / 2)) * error
    return float(observed.mean()) - reach, float(observed.mean()) + reach


def t_test(differences: Sequence[float] | Floats, step: float = 0.0) -> Difference:
    """Student's paired t test: whether the mean of the differences may be 0.

    Args:
        differences: independent observations, one for each pair.
        step: as in `mean_interval`. Without it, differences that all agree are no evidence, and p is 1: real training runs
            never agree to nine decimals, so that these would be copies of one run.

    >>> round(t_test([1.0, 2.0, 3.0, 4.0]).p, 4), t_test([1.0, 1.0]).p
    (0.0305, 1.0)
    """
    observed = np.asarray(differences, dtype=np.float64)
    mean = float(observed.mean()) if len(observed) else None
    error, bounds = _standard_error(observed, step), mean_interval(observed, step)
    if mean is None or error is None or bounds is None:
        return Difference(mean, None, None, 1.0, len(observed))
    p = 2 * float(require("scipy.special").stdtr(len(observed) - 1, -abs(mean) / error))
    return Difference(mean, *bounds, p, len(observed), error)


def exact_test(differences: Sequence[float] | Floats) -> Difference:
    """McNemar's exact test of differences that are -1, 0 or 1: two models' answers to the same problems, right or wrong.

    Only problems that one of the two solves and the other does not tell them apart: if the two are equally good, each
    solves half of these on average. The interval is Clopper and Pearson's of that half, given how many they are.

    >>> exact_test([1, 1, 1, 1, 1, 0]).p, exact_test([0, 0, 0]).p
    (0.0625, 1.0)
    """
    observed = np.asarray(differences)
    count, differing, more = len(observed), int(np.count_nonzero(observed)), int((observed > 0).sum())
    if not differing:  # no more than this share of problems may still tell them apart
        reach = 1 - (LEVEL / 2) ** (1 / count)
        return Difference(0.0, -reach, reach, 1.0, count)
    test = require("scipy.stats").binomtest(more, differing)
    bounds = test.proportion_ci(1 - LEVEL, "exact")
    low, high = (differing / count * (2 * float(bound) - 1) for bound in (bounds.low, bounds.high))
    return Difference(float(observed.mean()), low, high, float(test.pvalue), count)


def holm(found: dict[Key, float]) -> dict[Key, float]:
    """Holm's adjusted p: those below 5% are wrong about any of the comparisons in at most 5% of all cases.

    It holds whatever the comparisons have to do with one another.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for place, key in enumerate(sorted(found, key=found.__getitem__)):
        highest = max(highest, min(1.0, (len(found) - place) * found[key]))
        adjusted[key] = highest
    return adjusted


def ranks(values: dict[str, float], *, lower_is_better: bool) -> dict[str, float]:
    """The rank of each, 1 for the best; equal values share the mean of their ranks.

    >>> ranks({"t5": 0.5, "rope": 1.0, "fire": 1.0}, lower_is_better=False)
    {'t5': 3.0, 'rope': 1.5, 'fire': 1.5}
    """
    sign = 1 if lower_is_better else -1
    found = require("scipy.stats").rankdata([sign * value for value in values.values()])
    return dict(zip(values, map(float, found), strict=True))


def smallest_shown(tested: Sequence[tuple[float, int]], comparisons: int) -> float | None:
    """The smallest difference that the first step of Holm's correction would call one, for a typical pair.

    Args:
        tested: the standard error and the number of observations of each pair that was tested; the median pair is used.
        comparisons: how many pairs there are.

    >>> tested = [(0.01, 5), (0.02, 5), (0.03, 5)]
    >>> round(smallest_shown(tested, 1), 4), round(smallest_shown(tested, 45), 4)
    (0.0555, 0.1675)
    """
    if not tested:
        return None
    quantile = require("scipy.special").stdtrit
    return float(np.median([quantile(count - 1, 1 - LEVEL / 2 / comparisons) * error for error, count in tested]))


def _standard_error(observed: Floats, step: float) -> float | None:
    if len(observed) < 2:
        return None
    spread = max(float(observed.std(ddof=1)), step)
    return None if spread <= _NO_SPREAD else spread / math.sqrt(len(observed))

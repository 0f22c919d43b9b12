import math

import numpy as np
import pytest

from falloff.lab.evaluation import interval, value
from falloff.lab.tasks.base import Measure, Outcome

NATS = Measure("all", "perplexity", exponential=True, lower_is_better=True)
SHARE = Measure("exact", "exact match", exponential=False, lower_is_better=False)


def test_interval_is_the_bootstrap():
    nats = np.random.default_rng(1).normal(2.0, 0.3, 40)
    outcome = Outcome("all", 64, tuple(nats.tolist()))
    low, high = interval(NATS, outcome, 4000)
    assert low < value(NATS, outcome.items) < high
    # The normal approximation of the mean's error, which a bootstrap of a mean approaches.
    error = 1.96 * nats.std() / math.sqrt(len(nats))
    assert math.log(low) == pytest.approx(nats.mean() - error, abs=0.012)
    assert math.log(high) == pytest.approx(nats.mean() + error, abs=0.012)
    assert interval(NATS, outcome, 4000) == (low, high)
    assert interval(SHARE, outcome, 4000) == pytest.approx((math.log(low), math.log(high)))

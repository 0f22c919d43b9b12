import math

import numpy as np
import pytest

from falloff.lab.evaluation import difference_interval, interval, value
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


@pytest.mark.parametrize(("count", "quantile"), [(8, 2.364624), (48, 2.011741), (256, 1.969311)])
def test_difference_is_students_interval_of_pairs(count, quantile):
    """Quantiles of Student's t from tables. What the windows share cancels."""
    draw = np.random.default_rng(3)
    shared, differences = draw.normal(2.0, 5.0, count), draw.normal(0.1, 0.02, count)
    low, high = difference_interval(shared.tolist(), (shared + differences).tolist())
    reach = quantile * differences.std(ddof=1) / math.sqrt(count)
    assert (low, high) == pytest.approx((differences.mean() - reach, differences.mean() + reach), rel=1e-4)

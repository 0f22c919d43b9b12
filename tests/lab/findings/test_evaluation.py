import math

import numpy as np
import pytest

from falloff.lab.findings.evaluation import interval, value
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


def test_the_draw_is_that_of_earlier_versions_with_seed_0():
    nats = np.random.default_rng(1).normal(2.0, 0.3, 40)
    drawn = nats[np.random.default_rng((0, 40)).integers(0, 40, (500, 40))].mean(1)
    low, high = np.exp(np.quantile(drawn, (0.025, 0.975)))
    assert interval(NATS, Outcome("all", 64, tuple(nats.tolist())), 500) == (low, high)


@pytest.mark.parametrize(("right", "count"), [(0, 8), (8, 8), (3, 20), (100, 200)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    """Where a test of the share would just not refuse it: the two solutions of (share - p)^2 = 1.96^2 p (1 - p) / n."""
    low, high = interval(SHARE, Outcome("exact", 64, (1.0,) * right + (0.0,) * (count - right)), 100)
    share = right / count
    square = 1.959964**2 / count
    expected = sorted(np.roots([1 + square, -(2 * share + square), share**2]))
    assert (low, high) == pytest.approx(expected, abs=1e-6)
    assert low <= share <= high


def test_windows_that_overlap_are_drawn_together():
    """The mean loss of a text, from windows of which eight share each byte: 95% intervals hold it in about 95% of all draws.

    Drawn one by one, these windows would pass for eight times as many, and half of the intervals would miss.
    """
    draw, held = np.random.default_rng(0), {1: 0, 8: 0}
    for _ in range(100):
        of_bytes = draw.normal(size=4096)
        items = tuple(of_bytes[end - 128 : end].mean() for end in range(128, 4097, 16))
        for together in held:
            low, high = interval(NATS, Outcome("all", 128, items, together=together), 200)
            held[together] += low < 1.0 < high  # exp of the mean of all bytes, 0
    assert held[1] < 65 < 85 < held[8]


def test_a_few_windows_that_overlap_have_an_interval():
    low, high = interval(NATS, Outcome("all", 128, (1.0, 2.0, 1.5), together=8), 200)
    assert low < math.exp(1.5) < high

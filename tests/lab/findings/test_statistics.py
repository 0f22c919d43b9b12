import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from falloff.lab.findings.statistics import exact_test, holm, mean_interval, ranks, smallest_shown, t_test


def test_the_t_test_and_its_interval_are_those_of_scipy():
    draw = np.random.default_rng(0)
    for count in (2, 3, 5, 40):
        one, other = draw.normal([[0.5], [0.0]], size=(2, count))
        found, expected = t_test(one - other), stats.ttest_rel(one, other)
        bounds = expected.confidence_interval(0.95)
        assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, bounds.low, bounds.high))
        assert (found.mean, found.observations) == (pytest.approx((one - other).mean()), count)
        alone = stats.t.interval(0.95, count - 1, one.mean(), stats.sem(one))
        assert mean_interval(one) == pytest.approx(alone)


@pytest.mark.parametrize("differences", [[], [0.3], [0.0, 0.0, 0.0], [0.1] * 5, [0.1, 0.1 + 1e-12, 0.1]])
def test_runs_that_agree_are_no_evidence(differences):
    found = t_test(differences)
    assert (found.p, found.low, found.high, found.shown) == (1.0, None, None, False)
    assert found.mean == (pytest.approx(np.mean(differences)) if differences else None)
    assert mean_interval(differences) is None


def test_shares_that_agree_count_as_known_to_one_problem():
    """All of five seeds solve all of 20 problems, and those of the other scheme none: shown, but not with p = 0."""
    found = t_test([1.0] * 5, step=1 / 20)
    expected = 2 * stats.t.sf(1 / (1 / 20 / math.sqrt(5)), 4)
    assert found.p == pytest.approx(expected)
    assert 0 < found.p < 1e-4
    assert found.low < 1.0 < found.high
    assert t_test([0.0] * 5, step=1 / 20).p == 1.0
    # A spread of more than one problem is taken as it is.
    assert t_test([0.5, 0.9, 0.2], step=0.05).p == pytest.approx(stats.ttest_1samp([0.5, 0.9, 0.2], 0).pvalue)


def test_the_exact_test_counts_the_ways_that_coins_fall():
    """McNemar: as many coins as problems that one of the two solves alone. All outcomes are listed."""
    for more, less, neither in [(5, 0, 0), (7, 1, 3), (1, 6, 0), (3, 3, 4), (0, 1, 9)]:
        found = exact_test([1] * more + [-1] * less + [0] * neither)
        coins = more + less
        heads = [bin(way).count("1") for way in range(2**coins)]
        as_far = [abs(count - coins / 2) >= abs(more - coins / 2) for count in heads]
        assert found.p == pytest.approx(sum(as_far) / 2**coins)
        assert found.mean == pytest.approx((more - less) / (coins + neither))
        assert found.low <= found.mean <= found.high
        assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_equal_answers_are_not_known_to_be_equal_everywhere():
    found = exact_test([0] * 100)
    assert (found.mean, found.p) == (0.0, 1.0)
    assert found.high == -found.low == pytest.approx(stats.binomtest(0, 100).proportion_ci(0.95).high)


def test_holm_is_the_shortcut_of_the_closed_test_by_bonferroni():
    """An hypothesis is rejected if every set of hypotheses with it is: the definition, over all sets."""
    draw = np.random.default_rng(1)
    for _ in range(50):
        found = dict(enumerate(draw.beta(0.3, 2.0, size=6).tolist()))
        if draw.integers(2):
            found[1] = found[0]  # ties
        sets = [chosen for size in range(1, 7) for chosen in combinations(found, size)]
        closed = {
            key: max(min(1.0, len(chosen) * min(found[one] for one in chosen)) for chosen in sets if key in chosen)
            for key in found
        }
        assert holm(found) == pytest.approx(closed)
    assert holm({}) == {}


def test_ranks_share_ties():
    assert ranks({"a": 2.0, "b": 1.0, "c": 2.0, "d": 5.0}, lower_is_better=True) == {"a": 2.5, "b": 1.0, "c": 2.5, "d": 4.0}
    assert ranks({"a": 2.0, "b": 1.0}, lower_is_better=False) == {"a": 1.0, "b": 2.0}


def test_the_smallest_difference_is_where_the_first_step_of_holm_begins():
    """Of this size, with this error, the smallest of 45 p is just below 5%; a little less, and it is not."""
    pattern = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    pattern /= stats.sem(pattern)
    least = smallest_shown([(0.5, 5), (1.0, 5), (2.0, 5)], 45)
    assert 45 * t_test(pattern + 1.001 * least).p < 0.05 < 45 * t_test(pattern + 0.999 * least).p
    assert smallest_shown([], 45) is None
    # One pair with two seeds in common does not make the others harder to tell apart.
    assert smallest_shown([(1.0, 2), (1.0, 5), (1.0, 5)], 45) == smallest_shown([(1.0, 5)] * 3, 45)

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from falloff.lab.findings.columns import columns_of

PERPLEXITY = {"name": "tail", "words": "perplexity of the last 16 bytes", "exponential": True, "lower_is_better": True}
EXACT = {"name": "exact", "words": "share of exact answers", "exponential": False, "lower_is_better": False}


def column_of(items, measure=PERPLEXITY, together=1):
    """The column of these items, a list for each scheme and seed."""
    lines = [
        {
            "task": "some",
            "measure": measure["name"],
            "length": 16,
            "scheme": scheme,
            "seed": seed,
            "items": found,
            "together": together,
            "low": 0.25,
            "high": 0.75,
        }
        for scheme, by_seed in items.items()
        for seed, found in by_seed.items()
    ]
    (column,) = columns_of({"tasks": {"some": {"measures": [measure]}}}, lines)
    return column


def drawn(seed, schemes, seeds, *, apart=0.0, windows=8):
    """Nats by scheme and seed: seeds and windows differ for all schemes alike, and each scheme by itself in each seed."""
    draw = np.random.default_rng(seed)
    of_window, of_seed = draw.normal(size=windows), draw.normal(size=seeds)
    return {
        f"s{place}": {
            one: (2 + of_window + 0.3 * of_seed[one] + 0.01 * draw.normal() + apart * place).tolist() for one in range(seeds)
        }
        for place in range(schemes)
    }


def marks(column):
    return {name: (estimate.best, estimate.level) for name, estimate in column.estimates.items()}


def test_an_observation_is_the_mean_of_a_seed():
    items = drawn(0, 3, 5, apart=0.01)
    column = column_of(items)
    means = {name: np.array([np.mean(found) for found in by_seed.values()]) for name, by_seed in items.items()}
    assert column.over == "seeds"
    assert list(column.estimates) == sorted(items, key=lambda name: means[name].mean())
    expected = {pair: stats.ttest_rel(means[pair[0]], means[pair[1]]) for pair in combinations(items, 2)}
    ordered = sorted(expected, key=lambda pair: expected[pair].pvalue)
    adjusted, highest = {}, 0.0
    for left, pair in zip((3, 2, 1), ordered, strict=True):
        highest = adjusted[pair] = max(highest, min(1.0, left * expected[pair].pvalue))
    for pair, test in expected.items():
        found, back = column.difference(*pair), column.difference(*pair[::-1])
        bounds = test.confidence_interval()
        assert (found.low, found.high, found.p) == pytest.approx((bounds.low, bounds.high, test.pvalue))
        assert found.mean == pytest.approx((means[pair[0]] - means[pair[1]]).mean())
        assert found.adjusted == pytest.approx(adjusted[pair])
        assert found.observations == 5
        assert (back.mean, back.low, back.high) == (-found.mean, -found.high, -found.low)
        assert back.adjusted == found.adjusted
    estimate = column.estimates["s1"]
    assert estimate.value == pytest.approx(math.exp(means["s1"].mean()))
    reach = stats.t.ppf(0.975, 4) * stats.sem(means["s1"])
    assert (estimate.low, estimate.high) == pytest.approx(
        (math.exp(means["s1"].mean() - reach), math.exp(means["s1"].mean() + reach))
    )
    assert estimate.by_seed == pytest.approx(dict(enumerate(np.exp(means["s1"]))))


def test_best_needs_a_difference_from_every_other_scheme():
    far = column_of(drawn(0, 3, 5, apart=0.2))
    assert marks(far) == {"s0": (True, False), "s1": (False, False), "s2": (False, False)}
    items = drawn(0, 3, 5, apart=0.2)
    items["s1"] = {seed: [loss + 1e-3 * (-1) ** seed for loss in found] for seed, found in items["s0"].items()}
    assert marks(column_of(items)) == {"s0": (False, True), "s1": (False, True), "s2": (False, False)}
    assert marks(column_of({"s0": items["s0"]})) == {"s0": (False, False)}  # one alone is not the best


def test_of_equal_schemes_one_is_called_different_in_at_most_five_percent():
    """Ten schemes and five seeds: without a correction it would be in more than half of the comparisons."""
    trials, wrong, uncorrected = 200, 0, 0
    for trial in range(trials):
        column = column_of(drawn(trial, 10, 5, windows=2))
        assert len(column.differences) == 45
        wrong += any(difference.shown for difference in column.differences.values())
        uncorrected += any(difference.p < 0.05 for difference in column.differences.values())
    assert wrong <= stats.binom.ppf(0.999, trials, 0.05)
    assert uncorrected > trials / 2


def test_a_real_difference_is_found_with_five_seeds():
    found = sum(column_of(drawn(trial, 4, 5, apart=0.1)).estimates["s0"].best for trial in range(50))
    assert found > 45


def test_seeds_that_a_scheme_lacks_are_left_out_of_its_pairs():
    items = drawn(0, 3, 4, apart=0.2)
    del items["s1"][3], items["s2"][1], items["s2"][2], items["s2"][3]
    column = column_of(items)
    assert {pair: found.observations for pair, found in column.differences.items()} == {
        ("s0", "s1"): 3,
        ("s0", "s2"): 1,
        ("s1", "s2"): 1,
    }
    means = [np.mean(items["s0"][seed]) - np.mean(items["s1"][seed]) for seed in (0, 1, 2)]
    assert column.difference("s0", "s1").p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    single = column.difference("s0", "s2")
    assert (single.p, single.adjusted, single.low) == (1.0, 1.0, None)
    assert single.mean == pytest.approx(-0.4, abs=0.1)
    assert marks(column)["s2"] == (False, True)  # it was not shown to be worse: one seed in common shows nothing
    assert (column.estimates["s2"].low, column.estimates["s2"].high) == (None, None)  # of a single seed
    assert column.estimates["s2"].ranks == {0: 3.0}


def test_two_schemes_without_a_common_seed_have_no_difference():
    column = column_of({"s0": {0: [1.0, 2.0]}, "s1": {1: [1.5, 2.5]}})
    assert column.difference("s1", "s0").mean is None
    assert marks(column) == {"s0": (False, True), "s1": (False, True)}


def test_copies_of_a_run_are_no_seeds():
    """Whatever the seed, the same numbers: nothing varied, so that nothing can be shown."""
    column = column_of({"s0": {0: [1.0, 2.0], 1: [1.0, 2.0]}, "s1": {0: [1.5, 2.5], 1: [1.5, 2.5]}})
    assert column.difference("s0", "s1").p == 1.0
    assert (column.estimates["s0"].low, column.estimates["s0"].high) == (None, None)


def test_one_seed_is_tested_over_windows():
    items = {name: {7: found[0]} for name, found in drawn(3, 2, 1, windows=12).items()}
    items["s1"][7] = (np.array(items["s1"][7]) + np.random.default_rng(5).normal(0.02, 0.02, 12)).tolist()
    column = column_of(items)
    assert column.over == "items"
    assert (column.estimates["s0"].low, column.estimates["s0"].high) == (0.25, 0.75)  # as stored with the trial
    assert column.difference("s0", "s1").p == pytest.approx(stats.ttest_rel(items["s0"][7], items["s1"][7]).pvalue)
    overlapping = column_of(items, together=3)
    groups = [np.reshape(items[name][7], (4, 3)).mean(1) for name in ("s0", "s1")]
    assert overlapping.difference("s0", "s1").p == pytest.approx(stats.ttest_rel(*groups).pvalue)
    assert overlapping.difference("s0", "s1").observations == 4


def test_windows_that_overlap_count_as_one():
    """Two models of the same loss for each byte: were windows that share bytes counted one by one, a difference would be
    found in about every second draw."""
    draw, found = np.random.default_rng(0), {1: 0, 8: 0}
    for _ in range(100):
        of_bytes = draw.normal(size=(2, 1200))
        ends = range(128, 1201, 16)
        items = {name: {0: [row[end - 128 : end].mean() for end in ends]} for name, row in zip("ab", of_bytes, strict=True)}
        for together in found:
            found[together] += column_of(items, together=together).difference("a", "b").shown
    assert found[8] < 15 < 35 < found[1]


def test_one_seed_of_answers_is_tested_exactly():
    one, other = [1.0] * 9 + [0.0] * 3, [1.0] + [0.0] * 11
    column = column_of({"s0": {0: other}, "s1": {0: one}}, EXACT)
    assert list(column.estimates) == ["s1", "s0"]  # more is better
    assert column.difference("s1", "s0").p == pytest.approx(stats.binomtest(8, 8).pvalue)
    assert column.difference("s1", "s0").mean == pytest.approx(8 / 12)
    assert marks(column) == {"s1": (True, False), "s0": (False, False)}
    assert column.estimates["s1"].value == 0.75


def test_all_right_in_every_seed():
    """No NaN, no p of 0, and no certainty beyond one problem."""
    right, wrong = [1.0] * 20, [0.0] * 20
    items = {
        "s0": dict.fromkeys(range(5), right),
        "s1": dict.fromkeys(range(5), right),
        "s2": dict.fromkeys(range(5), wrong),
    }
    column = column_of(items, EXACT)
    assert marks(column) == {"s0": (False, True), "s1": (False, True), "s2": (False, False)}
    assert column.difference("s0", "s1").p == 1.0
    assert 0 < column.difference("s0", "s2").adjusted < 0.001
    perfect, none = column.estimates["s0"], column.estimates["s2"]
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert 0.9 < perfect.low < 1.0
    assert (none.value, none.low) == (0.0, 0.0)
    assert perfect.ranks == dict.fromkeys(range(5), 1.5)


def test_a_perplexity_without_a_number_is_infinite():
    column = column_of({"s0": {0: [900.0], 1: [100.0]}, "s1": {0: [1.0], 1: [1.1]}})
    assert column.estimates["s0"].by_seed == {0: math.inf, 1: pytest.approx(math.exp(100))}
    assert column.estimates["s0"].high == math.inf


def test_ranks_are_within_a_seed():
    items = {"s0": {0: [1.0], 1: [3.0]}, "s1": {0: [2.0], 1: [2.5]}, "s2": {0: [2.0], 1: [1.0]}}
    ranks = {name: estimate.ranks for name, estimate in column_of(items).estimates.items()}
    assert ranks == {"s0": {0: 1.0, 1: 3.0}, "s1": {0: 2.5, 1: 2.0}, "s2": {0: 2.5, 1: 1.0}}


def test_the_smallest_difference_that_could_be_shown():
    items = drawn(0, 4, 5)
    least = column_of(items).smallest_shown
    moved = {name: {seed: [loss + 3 * least for loss in found] for seed, found in items["s1"].items()} for name in ("s1",)}
    assert column_of({"s0": items["s0"], "s1": moved["s1"]}).difference("s0", "s1").shown
    assert column_of({"s0": items["s0"]}).smallest_shown is None
    # Of two schemes, six problems are few enough: 2 / 2^6 is below 5%, and 2 / 2^5 is not.
    answers = column_of({"s0": {0: [1.0] * 24}, "s1": {0: [0.0] * 6 + [1.0] * 18}}, EXACT)
    assert answers.smallest_shown == pytest.approx(6 / 24)
    assert answers.difference("s0", "s1").shown
    assert not replace(answers.difference("s0", "s1"), adjusted=0.05).shown


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scheme_that_lacks_the_worst_seeds_is_not_crowned(sign):
    """s0 is in front by the three seeds that it has, and steadily worse there than s1, which has two hard seeds more."""
    items = {
        "s0": {0: [sign * 1.1], 1: [sign * 2.1], 2: [sign * 3.102]},
        "s1": {0: [sign * 1.0], 1: [sign * 2.0], 2: [sign * 3.0], 3: [sign * 10.0], 4: [sign * 10.0]},
        "s2": {seed: [sign * (20.0 + seed % 2)] for seed in range(5)},
    }
    column = column_of(items, PERPLEXITY | {"lower_is_better": sign > 0})
    assert next(iter(column.estimates)) == "s0"
    assert column.difference("s0", "s1").shown
    assert marks(column) == {"s0": (False, True), "s1": (False, True), "s2": (False, False)}

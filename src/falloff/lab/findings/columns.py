"""What the schemes gave by one measure at one length, over seeds: means, intervals, ranks and paired differences.

A column is over seeds as soon as one scheme was trained by two of them: an observation is then a seed, and an interval says
where the mean of other seeds may lie. With one seed an observation is an item (a window of text, or a problem), and an
interval says what other items may give for these same trained models. The two answer different questions, so that a column
has only one of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from falloff.lab.findings.statistics import (
    LEVEL,
    Difference,
    Floats,
    exact_test,
    holm,
    mean_interval,
    ranks,
    smallest_shown,
    t_test,
)


@dataclass(frozen=True)
class Estimate:
    """A scheme in a column.

    Args:
        value: the mean over seeds, as shown: a perplexity (exp of the mean of nats), or a share.
        low, high: of its 95% interval, which `Column.over` explains; None if there is none.
        by_seed: the value of each seed.
        ranks: among the schemes of the same seed, 1 for the best.
        best: whether it is better than every other scheme by a difference that is shown.
        level: whether no scheme is the best, and this one is in front or not shown to be worse than the one in front.
    """

    value: float
    low: float | None
    high: float | None
    by_seed: dict[int, float]
    ranks: dict[int, float]
    best: bool = False
    level: bool = False


@dataclass(frozen=True)
class Column:
    """All schemes, by one measure at one length, the best first.

    Args:
        measure: as config.json says under `tasks`: name, words, exponential, lower_is_better.
        over: "seeds" or "items": what an observation is.
        estimates: of each scheme.
        differences: of each pair (one, other): the mean of one - other, in nats if the measure is exponential.
        smallest_shown: about the smallest difference that would be called one, in the same unit; None if unknown.
    """

    task: str
    measure: dict[str, Any]
    length: int
    over: str
    estimates: dict[str, Estimate]
    differences: dict[tuple[str, str], Difference]
    smallest_shown: float | None

    def difference(self, one: str, other: str) -> Difference:
        """One - other, whichever way round it is stored."""
        if (one, other) in self.differences:
            return self.differences[one, other]
        found = self.differences[other, one]
        mean, low, high = (None if value is None else -value for value in (found.mean, found.high, found.low))
        return replace(found, mean=mean, low=low, high=high)


def columns_of(config: dict[str, Any], results: list[dict[str, Any]]) -> list[Column]:
    """Every column of a comparison, by task, measure and length, in the order of config.json."""
    found: list[Column] = []
    for task, described in config["tasks"].items():
        for measure in described["measures"]:
            lines = [line for line in results if line["task"] == task and line["measure"] == measure["name"]]
            lengths = sorted({line["length"] for line in lines})
            found += [
                _column(task, measure, length, [line for line in lines if line["length"] == length]) for length in lengths
            ]
    return found


def _column(task: str, measure: dict[str, Any], length: int, lines: list[dict[str, Any]]) -> Column:
    exponential, lower_is_better = measure["exponential"], measure["lower_is_better"]
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        runs.setdefault(line["scheme"], {})[line["seed"]] = line
    over = "seeds" if any(len(of_scheme) > 1 for of_scheme in runs.values()) else "items"
    means = {scheme: {seed: _mean(line) for seed, line in found.items()} for scheme, found in runs.items()}
    by_seed = {
        seed: ranks(
            {scheme: found[seed] for scheme, found in means.items() if seed in found}, lower_is_better=lower_is_better
        )
        for seed in sorted({line["seed"] for line in lines})
    }
    step = 0.0 if exponential else 1 / len(lines[0]["items"])
    estimates = {}
    for scheme in sorted(means, key=lambda name: _overall(means[name]) * (1 if lower_is_better else -1)):
        found = means[scheme]
        if over == "seeds":
            low, high = _shown_interval(mean_interval(list(found.values()), step), exponential=exponential)
        else:
            (line,) = runs[scheme].values()
            low, high = line["low"], line["high"]
        estimates[scheme] = Estimate(
            shown(_overall(found), exponential=exponential),
            low,
            high,
            {seed: shown(mean, exponential=exponential) for seed, mean in found.items()},
            {seed: ranked[scheme] for seed, ranked in by_seed.items() if scheme in ranked},
        )
    differences = _differences(runs, means, list(estimates), over, step)
    estimates = _marked(estimates, differences, lower_is_better=lower_is_better)
    return Column(task, measure, length, over, estimates, differences, _smallest(differences, step, over))


def _differences(
    runs: dict[str, dict[int, dict[str, Any]]],
    means: dict[str, dict[int, float]],
    names: Sequence[str],
    over: str,
    step: float,
) -> dict[tuple[str, str], Difference]:
    """Of all pairs, corrected for all of them: which one is in front is only known after looking."""
    found = {}
    for one, other in combinations(names, 2):
        common = [seed for seed in means[one] if seed in means[other]]
        if over == "items" and common:
            found[one, other] = _over_items(runs[one][common[0]], runs[other][common[0]], step)
        else:
            found[one, other] = t_test([means[one][seed] - means[other][seed] for seed in common], step)
    adjusted = holm({pair: difference.p for pair, difference in found.items()})
    return {pair: replace(difference, adjusted=adjusted[pair]) for pair, difference in found.items()}


def _over_items(one: dict[str, Any], other: dict[str, Any], step: float) -> Difference:
    items = np.asarray(one["items"]) - np.asarray(other["items"])
    if step and set(one["items"]) | set(other["items"]) <= {0.0, 1.0}:
        return exact_test(items)
    return t_test(grouped(items, one["together"]))


def grouped(items: Floats, together: int) -> Floats:
    """The means of neighbouring items that share tokens: each counts as one observation. Those left over count as none.

    >>> grouped(np.array([1.0, 3.0, 5.0, 5.0, 9.0]), 2).tolist()
    [2.0, 5.0]
    """
    return items[: len(items) // together * together].reshape(-1, together).mean(1)


def _marked(
    estimates: dict[str, Estimate], differences: dict[tuple[str, str], Difference], *, lower_is_better: bool
) -> dict[str, Estimate]:
    """With `best` and `level`. The first is the one in front, and comes first in every pair of its own.

    Where seeds are missing, it may be in front by its own seeds, and worse than another one in those that both have.
    """
    if len(estimates) < 2:
        return estimates
    front, *others = estimates
    worse = {other for other in others if differences[front, other].shows_less == lower_is_better}
    level = [name for name in estimates if name not in worse]
    if len(level) == 1:
        return estimates | {front: replace(estimates[front], best=True)}
    return estimates | {name: replace(estimates[name], level=True) for name in level}


def _smallest(differences: dict[tuple[str, str], Difference], step: float, over: str) -> float | None:
    pairs = list(differences.values())
    if not pairs:
        return None
    if over == "items" and step:  # so many problems, all solved by the same one of two schemes
        return step * math.ceil(math.log2(2 * len(pairs) / LEVEL))
    return smallest_shown([(pair.error, pair.observations) for pair in pairs if pair.error is not None], len(pairs))


def shown(mean: float, *, exponential: bool) -> float:
    """A mean as it is written: exp of nats, infinite where that has no number.

    >>> shown(0.0, exponential=True), shown(1e4, exponential=True), shown(0.5, exponential=False)
    (1.0, inf, 0.5)
    """
    if not exponential:
        return mean
    return math.exp(mean) if mean < 700 else math.inf


def _shown_interval(bounds: tuple[float, float] | None, *, exponential: bool) -> tuple[float | None, float | None]:
    if bounds is None:
        return None, None
    low, high = (shown(bound, exponential=exponential) for bound in bounds)
    return (low, high) if exponential else (max(low, 0.0), min(high, 1.0))


def _mean(line: dict[str, Any]) -> float:
    return float(np.mean(line["items"]))


def _overall(by_seed: dict[int, float]) -> float:
    return sum(by_seed.values()) / len(by_seed)

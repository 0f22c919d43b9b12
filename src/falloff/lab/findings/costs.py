"""What each scheme cost: time and memory, measured in the same runs as the results."""

from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class LengthCost:
    """Testing at one length: medians over seeds."""

    tokens_per_second: float
    seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Cost:
    """A scheme on one task: medians over seeds. `test` is by length; `seconds` there are of one batch."""

    parameters: int
    bias_parameters: int
    seconds_per_step: float
    tokens_per_second: float
    peak_memory_mb: float
    test: dict[int, LengthCost]


def costs_of(lines: list[dict[str, Any]]) -> dict[str, Cost]:
    """The costs of each scheme, from its lines of results.jsonl, of one task."""
    by_scheme: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_scheme.setdefault(line["scheme"], []).append(line)
    return {scheme: _cost(found) for scheme, found in by_scheme.items()}


def _cost(lines: list[dict[str, Any]]) -> Cost:
    def middle(key: str, of: list[dict[str, Any]]) -> float:
        by_seed = {line["seed"]: line[key] for line in of}  # the same in the lines of all measures
        return float(median(by_seed.values()))

    test = {}
    for length in sorted({line["length"] for line in lines}):
        found = [line for line in lines if line["length"] == length]
        test[length] = LengthCost(
            tokens_per_second=middle("test_tokens_per_second", found),
            seconds=middle("test_seconds", found),
            peak_memory_mb=middle("test_peak_memory_mb", found),
        )
    return Cost(
        parameters=lines[0]["parameters"],
        bias_parameters=lines[0]["bias_parameters"],
        seconds_per_step=middle("seconds_per_step", lines),
        tokens_per_second=middle("tokens_per_second", lines),
        peak_memory_mb=middle("peak_memory_mb", lines),
        test=test,
    )

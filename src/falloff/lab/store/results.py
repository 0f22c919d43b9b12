"""The result of a trial, and the lines of results.jsonl that are made from it."""

from collections.abc import Sequence
from typing import Any

from falloff.lab.findings.evaluation import interval, value
from falloff.lab.tasks.base import Outcome, Task

MEASURES = {
    "task, protocol": "what was learned, and how windows of text were cut (null for other tasks)",
    "measure, value": "config.json says under tasks what each measure is; for perplexities the value is exp of the mean",
    "low, high": (
        "95% interval of the value over the items of this one model: for perplexities by bootstrap, with the same draws for "
        "every scheme, and for shares Wilson's"
    ),
    "items": (
        "the mean loss of each window in nats per token, or 1 and 0 for a problem solved or not; in the same order for "
        "every scheme and seed, so that differences can be paired"
    ),
    "depths": "of problems: where what is asked for stands, 0 at the beginning and 1 at the end",
    "together": "neighbouring items that share tokens: their mean counts as one observation",
    "parameters, bias_parameters": "of the whole model, and of the scheme alone",
    "seconds_per_step, tokens_per_second": "of training: median over optimizer steps after the first tenth",
    "peak_memory_mb": "10^6 bytes held by tensors during one training step: weights, optimizer, batch, activations",
    "test_seconds, test_tokens_per_second": "of one batch of tests at this length, forward only: median over batches",
    "test_batch": "windows or problems in that batch, of all processes together",
    "processes": (
        "that trained and tested together: times and memory are those of the main one, tokens per second those of all; "
        "losses of another number of processes differ by rounding"
    ),
    "context_parallel": "of those processes, so many shared each window",
    "test_peak_memory_mb": "10^6 bytes held by tensors during that batch, weights included",
    "sha256": "of the result of the trial",
}
"""The meaning of the keys of results.jsonl."""


def scores(task: Task, outcomes: Sequence[Outcome], resamples: int) -> list[dict[str, Any]]:
    """Outcomes with the value of their measure and its interval, as a result stores them."""
    measures = {measure.name: measure for measure in task.measures}
    found = []
    for outcome in outcomes:
        measure = measures[outcome.measure]
        low, high = interval(measure, outcome, resamples)
        found.append(
            {
                "length": outcome.length,
                "measure": outcome.measure,
                "value": value(measure, outcome.items),
                "low": low,
                "high": high,
                "items": list(outcome.items),
                "depths": None if outcome.depths is None else list(outcome.depths),
                "together": outcome.together,
            }
        )
    return found


def result_lines(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of results.jsonl of one trial: one for each length and measure."""
    before = {key: result[key] for key in ("task", "protocol", "scheme", "kind", "seed", "train_length")}
    after = {
        key: result[key]
        for key in (
            *("parameters", "bias_parameters", "seconds_per_step", "tokens_per_second", "peak_memory_mb"),
            *("processes", "context_parallel"),
        )
    }
    costs = {cost["length"]: {key: cost[key] for key in cost if key != "length"} for cost in result["costs"]}
    return [{**before, **score, **after, **costs[score["length"]], "sha256": result["sha256"]} for score in result["scores"]]

"""Lines of results.jsonl and a config.json for them, made up, for all that shows results."""

import math

KINDS = {"rope": "baseline", "t5": "learned", "alibi": "heuristic", "fire": "learned"}
TAILS = {"rope": (5.0, 50.0), "t5": (4.0, 7.0), "alibi": (6.0, 6.0), "fire": (5.0, 6.5)}
"""The perplexity of the tail, at 16 and at 32."""
MEASURES = {
    "text": [
        {"name": "tail", "words": "perplexity per byte of the last 16 bytes", "exponential": True, "lower_is_better": True},
        {"name": "all", "words": "perplexity per byte of all bytes", "exponential": True, "lower_is_better": True},
    ],
    "passkey": [{"name": "exact", "words": "share of exact answers", "exponential": False, "lower_is_better": False}],
}


def config_of(schemes=tuple(KINDS), seeds=(0,), tasks=("text",), **changes):
    """A config.json, with what is read by those that show results."""
    return {
        "settings": {
            "schemes": list(schemes),
            "tasks": list(tasks),
            "seeds": list(seeds),
            "train_length": 16,
            "steps": 3,
            "batch_size": 4,
            "heads": 2,
            "protocol": "last-k",
            "text": ["<script>alert(1)</script>"],
        },
        "lengths": [16, 32],
        "tail": 16,
        "tasks": {
            name: {
                "summary": f"the task {name}",
                "needs_text": name == "text",
                "measures": MEASURES[name],
                "chance": [None if name == "text" else 1 / 24] * 2,
            }
            for name in tasks
        },
        "text": {"source": "<img src=x onerror=alert(1)>", "complete": False, "bytes": 40_000},
        "versions": {"torch": "2.13.0", "datasets": None},
        "git_commit": None,
        "machine": {"cpu": "A & B", "threads": 2, "gpu": None},
        "model": ["one bias for all layers"],
        "measures": {"value": "the mean"},
    } | changes


def line(scheme, length, measure, items, *, seed=0, task="text", low=0.0, high=1.0):
    """One line of results.jsonl."""
    return {
        "task": task,
        "scheme": scheme,
        "kind": KINDS.get(scheme, "learned"),
        "seed": seed,
        "length": length,
        "measure": measure,
        "items": items,
        "depths": None,
        "together": 1,
        "low": low,
        "high": high,
        "parameters": 1234,
        "bias_parameters": 10,
        "seconds_per_step": 0.0215,
        "tokens_per_second": 2976.7,
        "peak_memory_mb": 16.55,
        "test_seconds": 0.004,
        "test_tokens_per_second": 16_000.0 / length,
        "test_peak_memory_mb": 0.25 * length,
    }


def results_of(schemes=tuple(KINDS), seeds=(0,)):
    """Of a text. Windows differ for all schemes alike, and each scheme by a little: the order of schemes is certain."""
    return [
        line(
            name,
            length,
            measure,
            [math.log(value) + 0.1 * window + _little(name, seed, window) for window in range(-2, 3)],
            seed=seed,
            low=value - 0.5,
            high=value + 0.5,
        )
        for name in schemes
        for seed in seeds
        for length, tail in zip((16, 32), TAILS[name], strict=True)
        for measure, value in (("tail", tail), ("all", tail + 1))
    ]


def answers_of(schemes=tuple(KINDS), seeds=(0,), count=20):
    """Of a task of problems: rope solves half of them at 32, and all else is solved."""
    return [
        line(name, length, "exact", items, seed=seed, task="passkey", low=0.25, high=0.75)
        for name in schemes
        for seed in seeds
        for length in (16, 32)
        for items in ([float(length == 16 or name != "rope" or problem % 2) for problem in range(count)],)
    ]


def _little(name, seed, window):
    """Noise of a mean of 0 over windows, and so much of each seed that seeds differ too."""
    return 1e-5 * ((len(name) * (window + 2) ** 2) % 5 - 2) + 1e-5 * ((len(name) * (seed + 3)) % 7 - 3) * (seed > 0)

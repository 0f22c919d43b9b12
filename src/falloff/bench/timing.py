"""Timing: contestants take turns within one process, so that a slower machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

SECONDS_PER_CASE = 6.0
"""The time for the turns of a case if their number is not given; a slow case takes longer, for the minimum of turns."""
_LEAST_TURNS, _MOST_TURNS = 3, 50


@dataclass(frozen=True)
class Timed:
    """Milliseconds of each contestant, `median` and `best`, and the number of turns."""

    milliseconds: dict[str, dict[str, float]]
    turns: int

    def median(self, name: str) -> float:
        return self.milliseconds[name]["median"]


class RemoteRun:
    """A contestant in another process, which times itself: communication must not count."""

    def seconds(self, calls: int) -> list[float]:
        """The seconds of each of `calls` calls in a row."""
        raise NotImplementedError


def take_turns(
    runs: Mapping[str, Callable[[], list[Tensor]] | RemoteRun],
    turns: int | None = None,
    report: Callable[[float], None] = lambda share: None,
    calls: int = 1,
) -> Timed:
    """Time all contestants in turns; a different one begins each turn. Call each once before, to warm up.

    Args:
        runs: the contestants, by name.
        turns: turns of each contestant; None for as many as fit into `SECONDS_PER_CASE`, 3 to 50.
        report: called after each turn with the share of the work that is done, 0 to 1.
        calls: calls in a row per turn, each timed by itself. For short calls, as in a model: directly after another
            contestant, a call would find the other's code in the caches.

    >>> take_turns({"one": lambda: [], "other": lambda: []}, turns=4).turns
    4
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    began = time.perf_counter()
    turn = 0
    while turn < (turns or _MOST_TURNS):
        spent = time.perf_counter() - began
        if turns is None and turn >= _LEAST_TURNS and spent * (turn + 1) / turn > SECONDS_PER_CASE:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            run = runs[name]
            seconds[name] += run.seconds(calls) if isinstance(run, RemoteRun) else seconds_of(run, calls)
        turn += 1
        report(
            turn / turns if turns else min(1.0, max(turn / _MOST_TURNS, (time.perf_counter() - began) / SECONDS_PER_CASE))
        )
    return Timed(
        {name: {"median": 1e3 * statistics.median(own), "best": 1e3 * min(own)} for name, own in seconds.items()}, turn
    )


def seconds_of(run: Callable[[], list[Tensor]], calls: int) -> list[float]:
    """The seconds of each of `calls` calls in a row."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        results = run()
        seconds.append(time.perf_counter() - start)
        del results  # before the next call allocates its own
    return seconds

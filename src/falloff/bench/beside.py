"""The suites `calls`, `short` and `long`: falloff beside SDPA without bias, and beside an older falloff if one is given."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from falloff.bench.against import Older
from falloff.bench.busy import spinning
from falloff.bench.cases import Case
from falloff.bench.contestants import NO_BIAS, OLDER, OURS, figures_of, ours, without_bias
from falloff.bench.counting import operators_of
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.targets import targets_of
from falloff.bench.timing import RemoteRun, Timed, take_turns
from falloff.bench.turns import Run
from falloff.bench.verify import check_last_rows, check_rivals

_IN_A_ROW = 20  # calls of a contestant per turn, for short calls
_SPINNING = 4


def time_all(
    cases: Sequence[Case],
    impl: str,
    turns: int | None,
    peak_gflops: float,
    isa: str | None,
    progress: Progress,
    older: Older | None,
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """Time the cases one after another. Cases of the group `calls` are timed again while other processes spin."""
    progress.begin("timing", len(cases))
    for case in cases:
        progress.doing(case.name)
        runs, last_rows_error = _prepared(case, impl, older)
        short = case.group in ("calls", "decode")
        timed = take_turns(runs, turns, progress.share, _IN_A_ROW if short else 1)
        found = figures_of(case, timed, peak_gflops, last_rows_error) | {"targets": targets_of(case, isa)}
        if case.group == "calls":
            found |= {"busy": _busy(runs, turns, timed, progress.share), "operators": operators_of(problem_of(case), impl)}
        yield [(case, found)]


def _prepared(case: Case, impl: str, older: Older | None) -> tuple[dict[str, Run | RemoteRun], float | None]:
    """The contestants, each called once and verified; and falloff's error in the last rows."""
    problem = problem_of(case)
    here = {OURS: ours(problem, impl), NO_BIAS: without_bias(problem)}
    outputs = {name: run()[0].detach() for name, run in here.items()}
    last_rows_error = check_last_rows(problem, outputs[OURS])
    if older is None:
        return {**here}, last_rows_error
    outputs[OLDER] = older.take(problem)[0]
    check_rivals(case, [OLDER], outputs)
    return {OURS: here[OURS], OLDER: older, NO_BIAS: here[NO_BIAS]}, last_rows_error


def _busy(
    runs: dict[str, Run | RemoteRun], turns: int | None, quiet: Timed, report: Callable[[float], None]
) -> dict[str, Any]:
    """Time the same turns while four processes spin: a parallel region then waits for the scheduler."""
    with spinning(_SPINNING):
        timed = take_turns(runs, turns, report, _IN_A_ROW)
    over_quiet = {name: timed.median(name) / quiet.median(name) for name in runs}
    return {"turns": timed.turns, "milliseconds": timed.milliseconds, "over_quiet": over_quiet}

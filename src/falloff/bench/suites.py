"""A suite from beginning to end: verify every case, then measure, then one dictionary that `--json` prints as it is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from falloff.bench import memory, scaling
from falloff.bench.cases import CPU_CASES, MEMORY_CASES, SCALING_CASES, Case, cases_named
from falloff.bench.contestants import NAMES, OURS, contestants
from falloff.bench.kept import Kept
from falloff.bench.peak import measured_peak
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.timing import take_turns
from falloff.bench.verify import Verified, check_last_rows, check_rivals, verify
from falloff.lab.environment import git_commit, machine, versions
from falloff.ops import cpu, implementations

CASES = {"cpu": CPU_CASES, "memory": MEMORY_CASES, "scaling": SCALING_CASES}
"""The cases of each suite."""


@dataclass(frozen=True)
class Options:
    """What is asked of a suite.

    Args:
        suite: a name in `CASES`.
        impl: which implementation of falloff takes part, by name.
        turns: of each contestant; None for as many as fit (see `timing`).
        cases: only those whose name holds this.
        with_flex: whether flex attention takes part in the cases marked for it (`cpu` only).

    Raises:
        ValueError: for what does not fit, naming the option of `falloff bench`.
    """

    suite: str = "cpu"
    impl: str = "cpu"
    turns: int | None = None
    cases: str | None = None
    with_flex: bool = False
    chosen: list[Case] = field(init=False)

    def __post_init__(self) -> None:
        if self.suite not in CASES:
            raise ValueError(f"--suite: got {self.suite!r}, expected one of {', '.join(CASES)}, hf, gpu, tiles")
        if self.impl not in implementations.IMPLEMENTATIONS:
            raise ValueError(f"--impl: got {self.impl!r}, expected one of {', '.join(implementations.IMPLEMENTATIONS)}")
        unavailable = implementations.IMPLEMENTATIONS[self.impl].unavailable()
        if unavailable is not None:
            raise ValueError(f"--impl: got {self.impl!r}, which cannot run here: {unavailable}")
        if self.turns is not None and self.suite == "memory":
            raise ValueError("--turns: the suite 'memory' measures each contestant once, expected another suite")
        if self.with_flex and self.suite != "cpu":
            raise ValueError(f"--flex: it takes no part in the suite {self.suite!r}, expected the suite 'cpu'")
        object.__setattr__(self, "chosen", cases_named(self.cases, CASES[self.suite]))


def run_suite(options: Options, progress: Progress, out: Path | None = None, *, resume: bool = False) -> dict[str, Any]:
    """Run a suite; what it returns is what `falloff bench --json` prints.

    Args:
        options, progress: what is asked for, and who is told how far it is.
        out: the file in which the result so far stands after each case.
        resume: whether to go on from what that file holds, if it is there.

    Raises:
        WrongResultError: before anything is timed, if falloff's result of a case is wrong; and for a contestant that does
            not compute the same.
        ValueError: where `resume` meets a file of something else.
    """
    isa = cpu.instruction_set() if options.impl == "cpu" else None
    header: dict[str, Any] = {
        "suite": options.suite,
        "impl": options.impl,
        "machine": machine("cpu"),
        "versions": versions(),
        "commit": git_commit(),
        "threads": torch.get_num_threads(),
        "isa": isa,
        "peak_gflops": None,
        "peak_measured_by": None,
        "turns": options.turns,
        "flex": options.with_flex,
    }
    kept = Kept(header, [case_keys(case) for case in options.chosen], out, resume=resume)
    left = [case for case in options.chosen if case.name not in kept.done]
    verified = _verify_all(left, options, progress)
    if kept.result["peak_gflops"] is None and options.suite != "memory":
        peak = measured_peak(isa, torch.get_num_threads())
        kept.result |= {"peak_gflops": peak.gflops, "peak_measured_by": peak.measured_by}
    for measured in _measure(left, options, kept.result["peak_gflops"], progress):
        kept.add([{**case_keys(case), **verified[case].as_keys(), **found} for case, found in measured])
    return kept.result


def _measure(
    cases: list[Case], options: Options, peak_gflops: float | None, progress: Progress
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """What is measured of the cases, as it comes: one case, or some that took turns together."""
    if options.suite == "memory":
        return memory.measure_all(cases, options.impl, progress)
    assert peak_gflops is not None  # it is measured for all that is timed
    if options.suite == "scaling":
        return scaling.time_all(cases, options.impl, options.turns, peak_gflops, progress)
    return _time_all(cases, options, peak_gflops, progress)


def case_keys(case: Case) -> dict[str, Any]:
    """What a case is."""
    return {
        "name": case.name,
        "group": case.group,
        "label": case.label,
        "bias": case.bias,
        "dtype": case.dtype,
        "causal": case.causal,
        "training": case.training,
        "shape": {
            "batch": case.batch,
            "heads": case.heads,
            "queries": case.length,
            "keys": case.keys,
            "head_size": case.head_size,
        },
    }


def _verify_all(cases: list[Case], options: Options, progress: Progress) -> dict[Case, Verified]:
    progress.begin("verifying", len(cases))
    done: dict[Case, Verified] = {}
    found: dict[Case, Verified] = {}
    for case in cases:
        progress.doing(case.name)
        smaller = case.verified_as
        if smaller not in done:
            done[smaller] = verify(case, options.impl)
        found[case] = done[smaller]
        progress.share(1.0)
    return found


def _time_all(
    cases: list[Case], options: Options, peak_gflops: float, progress: Progress
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    progress.begin("timing", len(cases))
    for case in cases:
        progress.doing(case.name)
        yield [(case, _time(case, options, peak_gflops, progress.share))]


def _time(case: Case, options: Options, peak_gflops: float, told: Callable[[float], None]) -> dict[str, Any]:
    problem = problem_of(case)
    taking_part = contestants(problem, options.impl, with_flex=options.with_flex)
    outputs = {name: run()[0].detach() for name, run in taking_part.runs.items()}
    last_rows_error = check_last_rows(problem, outputs[OURS])
    check_rivals(case, taking_part, outputs)
    del outputs
    timed = take_turns(taking_part.runs, options.turns, told)
    gflops = 1e3 * case.gflop / timed.median(OURS)
    return {
        "last_rows_error": last_rows_error,
        "turns": timed.turns,
        "milliseconds": _in_order(timed.milliseconds),
        "skipped": _in_order(taking_part.skipped),
        "gflops": gflops,
        "share_of_peak": gflops / peak_gflops,
        "ratio": {name: timed.median(name) / timed.median(OURS) for name in _in_order(timed.milliseconds) if name != OURS},
    }


def _in_order(by_name: dict[str, Any]) -> dict[str, Any]:
    return {name: by_name[name] for name in NAMES if name in by_name}

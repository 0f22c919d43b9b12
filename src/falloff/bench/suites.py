"""Running a suite: verify every case, then measure. The result is the dictionary that `--json` prints."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from falloff.bench import beside, content, memory, scaling
from falloff.bench.against import Older
from falloff.bench.cases import (
    CALLS_CASES,
    CONTENT_CASES,
    CPU_CASES,
    LONG_CASES,
    MEMORY_CASES,
    SCALING_CASES,
    SHORT_CASES,
    Case,
    cases_named,
)
from falloff.bench.contestants import OURS, contestants, figures_of, in_order
from falloff.bench.partial import PartialResult
from falloff.bench.peak import measured_peak
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.timing import take_turns
from falloff.bench.verify import Verified, check_last_rows, check_rivals, verify
from falloff.environment import git_commit, machine, versions
from falloff.ops import cpu, implementations

CASES = {
    "cpu": CPU_CASES,
    "memory": MEMORY_CASES,
    "scaling": SCALING_CASES,
    "calls": CALLS_CASES,
    "short": SHORT_CASES,
    "long": LONG_CASES,
    "content": CONTENT_CASES,
}
"""The cases of each suite."""

_BESIDE = ("calls", "short", "long")
_THREADS_OF_CALLS = 2  # its targets hold for 2 threads


@dataclass(frozen=True)
class Options:
    """The options of a suite.

    Args:
        suite: a name in `CASES`.
        impl: the implementation of falloff, by name.
        turns: of each contestant; None for as many as fit (see `timing`).
        cases: only the cases whose name contains this.
        with_flex: whether flex attention takes part in the cases marked for it (`cpu` only).
        against: the path of a Python with an older falloff, which takes part too (`calls`, `short`, `long`).
        isa: the instruction set of the CPU kernels; None for that of FALLOFF_CPU_ISA, or the best.

    Raises:
        ValueError: for a wrong option, naming that of `falloff bench`.
    """

    suite: str = "cpu"
    impl: str = "cpu"
    turns: int | None = None
    cases: str | None = None
    with_flex: bool = False
    against: str | None = None
    isa: str | None = None
    chosen: list[Case] = field(init=False)

    def __post_init__(self) -> None:
        if self.suite not in CASES:
            raise ValueError(
                f"--suite: got {self.suite!r}, expected one of {', '.join(CASES)}, context-parallel, hf, gpu, tiles"
            )
        if self.impl not in implementations.IMPLEMENTATIONS:
            raise ValueError(f"--impl: got {self.impl!r}, expected one of {', '.join(implementations.IMPLEMENTATIONS)}")
        unavailable = implementations.IMPLEMENTATIONS[self.impl].unavailable()
        if unavailable is not None:
            raise ValueError(f"--impl: got {self.impl!r}, which cannot run here: {unavailable}")
        if self.turns is not None and self.suite == "memory":
            raise ValueError("--turns: the suite 'memory' measures each contestant once, expected another suite")
        if self.with_flex and self.suite != "cpu":
            raise ValueError(f"--flex: got the suite {self.suite!r}, expected 'cpu'")
        if self.against is not None and self.suite not in _BESIDE:
            raise ValueError(f"--against: got the suite {self.suite!r}, expected one of {', '.join(_BESIDE)}")
        if self.isa is not None:
            if self.impl != "cpu":
                raise ValueError(f"--isa: got {self.isa!r}, expected --impl cpu, not {self.impl}")
            available = import_module("falloff.ops.cpu._kernels").instruction_sets()
            if self.isa not in available:
                raise ValueError(f"--isa: got {self.isa!r}, expected one of {', '.join(available)}")
        object.__setattr__(self, "chosen", cases_named(self.cases, CASES[self.suite]))


def run_suite(options: Options, progress: Progress, out: Path | None = None, *, resume: bool = False) -> dict[str, Any]:
    """Run a suite. Returns what `falloff bench --json` prints.

    Args:
        options: which suite, and how.
        progress: is called with the progress.
        out: the file that is rewritten with the result so far after each case.
        resume: whether to continue the result in this file, if it exists.

    Raises:
        WrongResultError: if falloff's result of a case is wrong, before anything is timed; for a contestant whose result
            differs from falloff's.
        ValueError: if `resume` finds a file of another measurement.
    """
    with ExitStack() as stack:
        stack.enter_context(_settings(options))
        older = None if options.against is None else stack.enter_context(Older(options.against, options.impl))
        return _run_suite(options, progress, out, older, resume=resume)


@contextmanager
def _settings(options: Options) -> Iterator[None]:
    """Set the threads and the instruction set of a suite, and restore them."""
    threads, forced = torch.get_num_threads(), os.environ.get("FALLOFF_CPU_ISA")
    try:
        if options.suite == "calls":
            torch.set_num_threads(_THREADS_OF_CALLS)
        if options.isa is not None:
            os.environ["FALLOFF_CPU_ISA"] = options.isa
        yield
    finally:
        torch.set_num_threads(threads)
        if options.isa is not None:
            os.environ.pop("FALLOFF_CPU_ISA")
            os.environ.update({} if forced is None else {"FALLOFF_CPU_ISA": forced})


def _run_suite(
    options: Options, progress: Progress, out: Path | None, older: Older | None, *, resume: bool
) -> dict[str, Any]:
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
        "against": None if older is None else older.header(),
    }
    partial = PartialResult(header, [case_keys(case) for case in options.chosen], out, resume=resume)
    left = [case for case in options.chosen if case.name not in partial.done]
    verified = _verify_all(left, options, progress)
    if partial.result["peak_gflops"] is None and options.suite != "memory":
        peak = measured_peak(isa, torch.get_num_threads())
        partial.result |= {"peak_gflops": peak.gflops, "peak_measured_by": peak.measured_by}
    for measured in _measure(left, options, partial.result["peak_gflops"], isa, progress, older):
        partial.add([{**case_keys(case), **verified[case].as_keys(), **found} for case, found in measured])
    return partial.result


def _measure(
    cases: list[Case],
    options: Options,
    peak_gflops: float | None,
    isa: str | None,
    progress: Progress,
    older: Older | None,
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """Measure the cases. Yields one case at a time, or several that took turns together."""
    if options.suite == "memory":
        return memory.measure_all(cases, options.impl, progress)
    assert peak_gflops is not None  # every suite but `memory` measures it
    if options.suite == "scaling":
        return scaling.time_all(cases, options.impl, options.turns, peak_gflops, progress)
    if options.suite in _BESIDE:
        return beside.time_all(cases, options.impl, options.turns, peak_gflops, isa, progress, older)
    if options.suite == "content":
        return content.time_all(cases, options.impl, options.turns, peak_gflops, progress)
    return _time_all(cases, options, peak_gflops, progress)


def case_keys(case: Case) -> dict[str, Any]:
    """The keys that describe a case."""
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
            "key_heads": case.all_key_heads,
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


def _time(case: Case, options: Options, peak_gflops: float, report: Callable[[float], None]) -> dict[str, Any]:
    problem = problem_of(case)
    taking_part = contestants(problem, options.impl, with_flex=options.with_flex)
    outputs = {name: run()[0].detach() for name, run in taking_part.runs.items()}
    last_rows_error = check_last_rows(problem, outputs[OURS])
    check_rivals(case, taking_part.same_result, outputs)
    del outputs
    timed = take_turns(taking_part.runs, options.turns, report)
    return figures_of(case, timed, peak_gflops, last_rows_error) | {"skipped": in_order(taking_part.skipped)}

"""A suite from beginning to end: verify every case, then measure, then one dictionary that `--json` prints as it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from falloff.bench import beside, memory, scaling
from falloff.bench.against import Older
from falloff.bench.cases import (
    CALLS_CASES,
    CPU_CASES,
    LONG_CASES,
    MEMORY_CASES,
    SCALING_CASES,
    SHORT_CASES,
    Case,
    cases_named,
)
from falloff.bench.contestants import NAMES, OURS, contestants
from falloff.bench.kept import Kept
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
}
"""The cases of each suite."""

_BESIDE = ("calls", "short", "long")
_THREADS_OF_CALLS = 2  # what its targets are stated for


@dataclass(frozen=True)
class Options:
    """What is asked of a suite.

    Args:
        suite: a name in `CASES`.
        impl: which implementation of falloff takes part, by name.
        turns: of each contestant; None for as many as fit (see `timing`).
        cases: only those whose name holds this.
        with_flex: whether flex attention takes part in the cases marked for it (`cpu` only).
        against: the path of a Python that has an older falloff, which takes part too (`calls`, `short`, `long`).
        isa: the instruction set of the CPU kernels; None for the best, or what FALLOFF_CPU_ISA says.

    Raises:
        ValueError: for what does not fit, naming the option of `falloff bench`.
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
    with ExitStack() as stack:
        stack.enter_context(_settings(options))
        older = None if options.against is None else stack.enter_context(Older(options.against, options.impl))
        return _run_suite(options, progress, out, older, resume=resume)


@contextmanager
def _settings(options: Options) -> Iterator[None]:
    """Threads and instruction set as a suite has them, and back."""
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
    kept = Kept(header, [case_keys(case) for case in options.chosen], out, resume=resume)
    left = [case for case in options.chosen if case.name not in kept.done]
    verified = _verify_all(left, options, progress)
    if kept.result["peak_gflops"] is None and options.suite != "memory":
        peak = measured_peak(isa, torch.get_num_threads())
        kept.result |= {"peak_gflops": peak.gflops, "peak_measured_by": peak.measured_by}
    for measured in _measure(left, options, kept.result["peak_gflops"], isa, progress, older):
        kept.add([{**case_keys(case), **verified[case].as_keys(), **found} for case, found in measured])
    return kept.result


def _measure(
    cases: list[Case],
    options: Options,
    peak_gflops: float | None,
    isa: str | None,
    progress: Progress,
    older: Older | None,
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """What is measured of the cases, as it comes: one case, or some that took turns together."""
    if options.suite == "memory":
        return memory.measure_all(cases, options.impl, progress)
    assert peak_gflops is not None  # it is measured for all that is timed
    if options.suite == "scaling":
        return scaling.time_all(cases, options.impl, options.turns, peak_gflops, progress)
    if options.suite in _BESIDE:
        return beside.time_all(cases, options.impl, options.turns, peak_gflops, isa, progress, older)
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


def _time(case: Case, options: Options, peak_gflops: float, told: Callable[[float], None]) -> dict[str, Any]:
    problem = problem_of(case)
    taking_part = contestants(problem, options.impl, with_flex=options.with_flex)
    outputs = {name: run()[0].detach() for name, run in taking_part.runs.items()}
    last_rows_error = check_last_rows(problem, outputs[OURS])
    check_rivals(case, taking_part.same_result, outputs)
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

"""The suite `gpu`: attention on a GPU beside PyTorch's kernels. Needs torch and triton only:

    PYTHONPATH=src python -m falloff.bench.gpu --out gpu.json

Each case is verified in float64 at a smaller size. Then the contestants take turns, timed by events on the device, with the
L2 cache flushed before each turn. A failure is reported and the suite goes on, and the file is rewritten after each case:
time on a GPU may be short.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from falloff.bench import flex
from falloff.bench.cases import Case, cases_named
from falloff.bench.contestants import (
    DENSE,
    EAGER,
    FLEX,
    LEARNED,
    OURS,
    dense_mask,
    eager,
    ours,
    with_dense_mask,
    without_bias,
)
from falloff.bench.problem import Problem, problem_of
from falloff.bench.turns import Run, first_line, run_of
from falloff.bench.verify import WrongResultError, verify
from falloff.environment import git_commit, versions
from falloff.files import check_replaceable, write_file
from falloff.ops.api import attention

OURS_NO_BIAS = "falloff, no bias"
FLASH = "flash, no bias"
CUDNN = "cudnn, no bias"
NAMES = (OURS, OURS_NO_BIAS, FLASH, CUDNN, DENSE, LEARNED, FLEX, EAGER)
"""All contestants, in the order of the table."""

_MOST_DENSE = 2.2e9  # bytes of one dense (B, H, N, M) tensor in bfloat16
_SECONDS_PER_CASE = 2.0
_LEAST_TURNS, _MOST_TURNS = 5, 60
_FLUSH = 256 * 2**20  # more than any L2 cache
_INPUT_SETS = 2


def gpu_cases() -> list[Case]:
    """bfloat16, B N = 16384 and H D = 2048: typical sizes for training and serving on one GPU."""

    def case(
        group: str, bias: str, length: int, causal: bool, training: bool, head_size: int, with_flex: bool = False
    ) -> Case:
        return Case(
            group,
            bias,
            length,
            causal,
            training,
            batch=max(16384 // length, 1),
            heads=2048 // head_size,
            head_size=head_size,
            dtype="bfloat16",
            flex=with_flex,
        )

    forward = [
        case("forward", "t5", length, causal, False, head_size, with_flex=length == 4096 and causal)
        for head_size in (64, 128)
        for causal in (True, False)
        for length in (1024, 4096, 16384)
    ]
    forms = [case("forms", bias, 4096, True, False, 64) for bias in ("fire", "band")]
    far = [case("far", "alibi", 16384, True, False, head_size) for head_size in (64, 128)]
    training = [
        case("training", bias, length, True, True, head_size, with_flex=length == 4096 and head_size == 64)
        for bias in ("t5", "fire")
        for head_size in (64, 128)
        for length in (1024, 4096, 16384)
    ]
    training += [case("training", "band", 4096, True, True, 64), case("training", "alibi", 16384, True, True, 64)]
    encoder = [Case("T5 training", "t5", 512, False, True, batch=32, heads=16, head_size=64, dtype="bfloat16")]
    decode = [Case("decode", "t5", 1, batch=16, heads=32, head_size=64, dtype="bfloat16", cache=8192)]
    return [*training, *forward, *far, *forms, *encoder, *decode]


LONGEST = [
    Case("longest", "t5", length, True, True, heads=8, head_size=64, dtype="bfloat16") for length in (262144, 1048576)
]
"""One training step each, to see whether it fits into memory."""


def contestants(problem: Problem) -> tuple[dict[str, Run], dict[str, str]]:
    """The contestants of a case, and why the others do not take part."""
    case = problem.case
    learned = bool(case.training and problem.bias.leaves())
    runs: dict[str, Run] = {OURS: ours(problem, "triton")}
    skipped: dict[str, str] = {}
    leaves = list(problem.inputs) if case.training else []
    runs[OURS_NO_BIAS] = run_of(
        lambda: attention(*problem.inputs, causal=case.causal, impl="triton"), leaves, problem.grad_out
    )
    for name, backend in ((FLASH, SDPBackend.FLASH_ATTENTION), (CUDNN, SDPBackend.CUDNN_ATTENTION)):
        runs[name] = _on_backend(without_bias(problem), backend)
    size = 2 * case.batch * case.heads * case.length * case.keys
    if size <= _MOST_DENSE:
        mask = dense_mask(problem)
        runs[DENSE] = with_dense_mask(problem, mask, learned=False)
        if learned:
            runs[LEARNED] = with_dense_mask(problem, mask, learned=True)
        runs[EAGER] = eager(problem, mask)
    else:
        skipped |= dict.fromkeys([DENSE, LEARNED, EAGER], f"each dense tensor would take {size / 1e9:.1f} GB")
    if case.flex and problem.query.is_cuda:
        try:
            runs[FLEX] = flex.learning(problem)
        except Exception as error:  # a compiler may raise anything
            skipped[FLEX] = first_line(error)
    for name in list(runs):
        try:
            runs[name]()
        except Exception as error:
            if name == OURS:
                raise
            del runs[name]
            skipped[name] = first_line(error)
    return runs, skipped


def _on_backend(run: Run, backend: SDPBackend) -> Run:
    def restricted() -> list[Tensor]:
        with sdpa_kernel(backend):
            return run()

    return restricted


def take_turns(sets: list[dict[str, Run]], device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every turn of each contestant. Successive turns use different sets of inputs."""
    times: dict[str, list[float]] = {name: [] for name in sets[0]}
    began = time.perf_counter()
    for turn in range(_MOST_TURNS):
        if turn >= _LEAST_TURNS and time.perf_counter() - began > _SECONDS_PER_CASE:
            break
        for name, own in times.items():
            run = sets[turn % len(sets)].get(name, sets[0][name])
            own.append(_milliseconds(run, device))
    return times


def _milliseconds(run: Run, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    torch.empty(_FLUSH, dtype=torch.int8, device=device).zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def measure(case: Case, device: torch.device) -> dict[str, Any]:
    """Verify and time one case."""
    smaller = replace(case.verified_as, batch=min(case.batch, 2))
    verified = verify(smaller, "triton")
    problem = problem_of(case)
    runs, skipped = contestants(problem)
    others = [problem_of(case, seed=seed) for seed in range(1, _INPUT_SETS)]
    sets = [runs, *({OURS: ours(other, "triton")} for other in others)]
    if FLASH in runs:
        for own, other in zip(sets[1:], others, strict=True):
            own[FLASH] = _on_backend(without_bias(other), SDPBackend.FLASH_ATTENTION)
    times = take_turns(sets, device)
    medians = {name: median(times[name]) for name in NAMES if name in times}
    return {
        "verified_at": {"batch": smaller.batch, "queries": smaller.length, "keys": smaller.keys},
        "errors": verified.errors,
        "skipped": skipped,
        "turns": len(times[OURS]),
        "milliseconds": {name: {"median": value, "best": min(times[name])} for name, value in medians.items()},
        "tflops": case.gflop / medians[OURS],
        "ratio": {name: value / medians[OURS] for name, value in medians.items() if name != OURS},
    }


def measure_longest(case: Case, device: torch.device) -> dict[str, Any]:
    """The time and peak memory of one training step of a very long text, after a step that is not timed."""
    problem = problem_of(case)
    run = ours(problem, "triton")
    run()  # compiles, and fills the allocator
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    milliseconds = _milliseconds(run, device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"milliseconds": {OURS: {"median": milliseconds}}, "tflops": case.gflop / milliseconds, "peak_bytes": peak}


def measure_tiles(case: Case, device: torch.device) -> dict[str, Any]:
    """The time of a case with each candidate for the tiles of each kernel."""
    from falloff.ops.triton import tiles

    run = ours(problem_of(case), "triton")
    found: dict[str, float | str] = {}
    kernels = ("dq", "dkdv", "diagonal") if case.training else ("decode",) if case.cache else ("forward",)
    for kernel in kernels:
        with _tiles_instead(kernel) as chosen:
            run()
        for candidate in (chosen[0], *tiles.CANDIDATES[kernel]):
            m, n, warps, stages, most = candidate
            name = f"{kernel} {m}x{n}, {warps} warps, {stages} stages" + (f", {most} registers" if most else "")
            with _tiles_instead(kernel, candidate):
                try:
                    run()
                    found[name] = median(_milliseconds(run, device) for _ in range(10))
                except Exception as error:  # for example, too much shared memory
                    found[name] = first_line(error)
    return {"tiles": found}


@contextmanager
def _tiles_instead(kernel: str, sizes: Any = None) -> Iterator[list[Any]]:
    """Give a kernel other tiles than the table of its GPU and form. Yields the list of those that it gets."""
    from falloff.ops.triton.host import problem
    from falloff.ops.triton.tiles import tiles

    given: list[Any] = []

    def choose(name: str, *facts: Any) -> Any:
        if name != kernel:
            return tiles(name, *facts)
        given.append(sizes or tiles(name, *facts))
        return given[-1]

    with patch.object(problem, "tiles", choose):
        yield given


def matmul_tflops(device: torch.device, size: int = 8192) -> float:
    """The TFLOP/s of a large matrix product, as a ceiling."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    a @ b
    return 2 * size**3 / 1e9 / median(_milliseconds(lambda: [a @ b], device) for _ in range(10))


def measure_cases(
    cases: list[tuple[Case, Callable[[Case, torch.device], dict[str, Any]]]],
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure each case by its function; `report` gets the result so far after each."""
    cuda = device.type == "cuda"
    result: dict[str, Any] = {
        "suite": "gpu",
        "device": torch.cuda.get_device_name(device) if cuda else "cpu (interpreted)",
        "versions": versions() | {"triton": _triton_version(), "cuda": torch.version.cuda},
        "commit": git_commit(),
        "matmul_tflops": matmul_tflops(device) if cuda else None,
        "cases": [],
    }
    with torch.device(device):  # tensors and parameters of the problems
        for case, measured_by in cases:
            shape = {"batch": case.batch, "heads": case.heads, "queries": case.length, "keys": case.keys}
            entry: dict[str, Any] = {
                "name": case.name,
                "group": case.group,
                "label": case.label,
                "dtype": case.dtype,
                "training": case.training,
                "shape": shape | {"head_size": case.head_size},
            }
            try:
                entry |= measured_by(case, device)
            except WrongResultError as error:
                entry["wrong"] = str(error)
            except Exception as error:  # go on with the other cases
                entry["failed"] = first_line(error)
            result["cases"].append(entry)
            report(result)
            if cuda:
                torch.cuda.empty_cache()
    return result


def line_of(entry: dict[str, Any]) -> str:
    """One case as a line of text."""
    for failure in ("wrong", "failed"):
        if failure in entry:
            return f"{entry['name']}: {failure}: {entry[failure]}"
    if "tiles" in entry:
        times = (f"{name}: {x if isinstance(x, str) else f'{x:.3f} ms'}" for name, x in entry["tiles"].items())
        return f"{entry['name']}: tiles\n" + "\n".join(f"    {line}" for line in times)
    ratios = "  ".join(f"{name} {value:.2f}x" for name, value in entry.get("ratio", {}).items())
    peak = entry.get("peak_bytes")
    memory = "" if peak is None else f", {peak / 1e9:.1f} GB at most"
    speed = f"{entry['milliseconds'][OURS]['median']:.3f} ms, {entry['tflops']:.0f} TFLOP/s"
    return f"{entry['name']} D={entry['shape']['head_size']}: {speed}{memory}  {ratios}"


def _triton_version() -> str:
    import triton

    return triton.__version__


def run_suite(part: str | None, out: Path | None, *, tiles: bool, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the suite, or time the candidates for tiles.

    Args:
        part: only the cases whose name contains this.
        out: the file that is rewritten with the result so far after each case.
        tiles: whether to time the candidates for tiles instead.
        report: called with a line of text after each case.

    Raises:
        ValueError: if there is no GPU, or no such case.
        OSError: if the file cannot be written.
    """
    if not torch.cuda.is_available():
        raise ValueError("--suite: got 'gpu', which needs a GPU that PyTorch knows, and there is none")
    everything: list[tuple[Case, Callable[[Case, torch.device], dict[str, Any]]]] = [
        *((case, measure) for case in gpu_cases()),
        *((case, measure_longest) for case in LONGEST),
    ]
    if tiles:
        everything = [(case, measure_tiles) for case in gpu_cases() if case.length in (1, 4096) and case.bias == "t5"]
    names = {case.name for case in cases_named(part, [case for case, _ in everything])}
    if out is not None:
        check_replaceable(out)
    report("x: the time of the other over that of falloff; above 1 falloff is faster.")

    def keep(result: dict[str, Any]) -> None:
        report(line_of(result["cases"][-1]))
        if out is not None:
            write_file(out, (json.dumps(result, indent=1) + "\n").encode())

    return measure_cases([(case, by) for case, by in everything if case.name in names], torch.device("cuda"), keep)


def all_well(result: dict[str, Any]) -> bool:
    """Whether no case was wrong or failed."""
    return not any("wrong" in entry or "failed" in entry for entry in result["cases"])


def _named(name: str) -> str:
    if not name.strip():
        raise argparse.ArgumentTypeError(f"got {name!r}, expected a name (is a shell variable unset?)")
    return name


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each case and write the JSON, without falloff's command line, which needs more packages."""
    parser = argparse.ArgumentParser(prog="python -m falloff.bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=_named, help="write the JSON to this file")
    parser.add_argument("--cases", type=_named, help="only the cases whose name contains this")
    parser.add_argument("--tiles", action="store_true", help="time the candidates for tiles instead")
    asked = parser.parse_args(arguments)
    try:
        out = None if asked.out is None else Path(asked.out)
        result = run_suite(asked.cases, out, tiles=asked.tiles, report=lambda line: print(line, flush=True))
    except (ValueError, OSError) as error:
        print(f"falloff: {error}", file=sys.stderr)
        return 2
    return 0 if all_well(result) else 1


if __name__ == "__main__":
    sys.exit(main())

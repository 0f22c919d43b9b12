"""The process that measures its own memory: `python -m falloff.bench.probe JSON`. See `memory`."""

import dataclasses
import gc
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from falloff.bench.cases import Case
from falloff.bench.contestants import LEARNED, OURS, ours, with_dense_scheme, without_bias
from falloff.bench.problem import problem_of
from falloff.bench.turns import Run

_WARM_UP = 256


def probe(case: Case, contestant: str, impl: str) -> dict[str, int]:
    """Bytes: `growth` of the resident memory to its peak, `results` (output and gradients), `inputs` (query, key, value)."""
    short = _run_of(dataclasses.replace(case, length=_WARM_UP), contestant, impl)
    growth, results = growth_of(short, _run_of(case, contestant, impl))
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in results}
    size = 3 * case.batch * case.heads * case.keys * case.head_size * getattr(torch, case.dtype).itemsize
    return {"growth": growth, "results": sum(held.values()), "inputs": size}


def growth_of(warm_up: Run, run: Run) -> tuple[int, list[Tensor]]:
    """The growth of the resident memory to its peak during a run, in bytes, and the run's results."""
    warm_up()  # loads code, and makes thread pools and small buffers
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    before = _status("VmRSS")
    results = run()
    return _status("VmHWM") - before, results


def _run_of(case: Case, contestant: str, impl: str) -> Run:
    problem = problem_of(case)
    if contestant == OURS:
        return ours(problem, impl)
    if contestant == LEARNED:
        return with_dense_scheme(problem)
    return without_bias(problem)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(probe(Case(**asked["case"]), asked["contestant"], asked["impl"])))

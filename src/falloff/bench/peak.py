"""What the processor could do at best: the measure of what a kernel makes of it."""

import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

import torch

_SIZES = (1024, 1536, 2048)
_TURNS = 4


@dataclass(frozen=True)
class Peak:
    """10^9 float32 operations a second, and what measured them: "fma" (the kernels' own loop) or "matmul" (torch.mm)."""

    gflops: float
    measured_by: str


def measured_peak(isa: str | None, threads: int) -> Peak:
    """The float32 peak of this machine at this moment, on that many threads.

    By the multiply-adds of `_peak.fma_peak` where that is built (falloff is installed to be worked on) and an instruction
    set is named. Else the best of some products of torch, which lie some percent below it.
    """
    if isa is not None:
        with suppress(ImportError):
            return Peak(float(import_module("falloff.bench._peak").fma_peak(isa, threads)), "fma")
    return Peak(max(_matmul_gflops(size) for size in _SIZES), "matmul")


def _matmul_gflops(size: int) -> float:
    left, right = torch.ones(size, size), torch.ones(size, size)
    out = torch.empty(size, size)
    torch.mm(left, right, out=out)
    best = float("inf")
    for _ in range(_TURNS):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9

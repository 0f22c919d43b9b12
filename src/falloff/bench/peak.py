"""The peak of the processor, of which a kernel reaches a share."""

import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module

import torch

_SIZES = (1024, 1536, 2048)
_TURNS = 4


@dataclass(frozen=True)
class Peak:
    """10^9 float32 operations per second, and how measured: "fma" (a loop of multiply-adds) or "matmul" (torch.mm)."""

    gflops: float
    measured_by: str


def measured_peak(isa: str | None, threads: int) -> Peak:
    """The float32 peak of this machine at this moment, on `threads` threads.

    Measured by the multiply-adds of `_peak.fma_peak`, if that is built (in an editable install) and `isa` is given. Else the
    best of a few matrix products of torch, which is some percent lower.
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

"""The suite `memory`: how much memory a training step takes beyond its results, each in a new process.

A process has one peak, and libraries keep buffers: memory that one contestant leaves allocated must not count for the next.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from falloff.bench.cases import Case
from falloff.bench.contestants import LEARNED, NO_BIAS, OURS
from falloff.bench.progress import Progress

_CLEAR = Path("/proc/self/clear_refs")
_LONGEST_LEARNED = 4096  # dense bias, gradient and scores take gigabytes, and 4 times as many at the next length

# glibc keeps freed memory, in which a later peak would not show: with this, larger allocations are mapped and returned.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure_all(cases: Sequence[Case], impl: str, progress: Progress) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """The memory of each case. SDPA without bias is measured once per length: it does not depend on the bias."""
    refusal = unmeasurable()
    progress.begin("measuring", len(cases))
    without_bias: dict[int, dict[str, float]] = {}
    for case in cases:
        progress.doing(case.name)
        measured: dict[str, dict[str, float]] = {}
        skipped: dict[str, str] = {}
        for name in (OURS, NO_BIAS, LEARNED):
            reason = refusal or _refusal(case, name)
            if reason is not None:
                skipped[name] = reason
            elif name == NO_BIAS and case.length in without_bias:
                measured[name] = without_bias[case.length]
            else:
                try:
                    measured[name] = measure(case, name, impl)
                except OSError as error:
                    if name == OURS:
                        raise
                    skipped[name] = str(error)  # a rival may run out of memory
        if NO_BIAS in measured:
            without_bias[case.length] = measured[NO_BIAS]
        progress.share(1.0)
        yield [(case, {"memory": measured, "skipped": skipped})]


def unmeasurable() -> str | None:
    """Why this machine cannot measure the peak memory of a process, or None."""
    if not _CLEAR.exists() or not os.access(_CLEAR, os.W_OK):
        return "the peak of a process can be measured on Linux only, by /proc/self/clear_refs"
    return None


def measure(case: Case, contestant: str, impl: str) -> dict[str, float]:
    """One training step in a separate process.

    Returns:
        Bytes: `growth` (the peak beyond the memory before the step), `results` (output and gradients, a part of it),
        `extra` (the rest), `inputs` (query, key and value), and `extra_over_inputs`.

    Raises:
        OSError: if the process fails, with its last line.
    """
    asked = json.dumps({"case": dataclasses.asdict(case), "contestant": contestant, "impl": impl})
    done = subprocess.run(
        [sys.executable, "-m", "falloff.bench.probe", asked],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **ALLOCATION},
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise OSError(f"measuring the memory of {contestant!r} in {case.name!r} failed: {last[0]}")
    bytes_of: dict[str, int] = json.loads(done.stdout)
    extra = max(0, bytes_of["growth"] - bytes_of["results"])
    return {**bytes_of, "extra": extra, "extra_over_inputs": extra / bytes_of["inputs"]}


def _refusal(case: Case, contestant: str) -> str | None:
    if contestant != LEARNED:
        return None
    if case.bias == "alibi":
        return "nothing of this bias is learned"
    if case.length > _LONGEST_LEARNED:
        return f"its dense tensors would take many GB beyond N = {_LONGEST_LEARNED}"
    return None

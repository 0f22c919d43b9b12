"""A few calls on compiled kernels, forward and backward, in the emulator (see `emulator`): `make test-emulated` runs many.

Values and gradients keep the budget of conformance, and the emulator sees no problem.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no cc, which builds the stand-in for CUDA and Triton's launcher"),
]
ROOT = Path(__file__).parents[3]
TARGETS = ("sm_80", "sm_90")
CALLS = (
    "none, causal, 64",
    "t5, causal window, 64, long loop",
    "band, causal, 64",
    "alibi, documents, 64, skipping",
    "fire beyond L, causal, 64",
    "none, decode, 64",
    "t5, decode window, 64",
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emulator")


def reports(program, target, folder, *arguments):
    """What a program of the emulator prints, in a process of its own: Triton decides at import whether it interprets."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    paths = [str(ROOT / "tests"), str(ROOT / "src"), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"ops.triton.emulator.{program}", target, folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("target", TARGETS)
def test_calls(target, folder):
    found = reports("run", target, folder, *CALLS)
    assert [report["call"] for report in found] == list(CALLS)
    assert [report for report in found if report["wrong"] or report["problems"]] == []


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_taken_out_is_seen(target, folder):
    """Of each kind of barrier, wait and fence, in each kernel. Not each of them: some have nothing to order."""
    found = reports("mutants", target, folder, "none, causal, 64", "1")
    kinds = {(report["kernel"], report["instruction"]) for report in found}
    assert {"forward_kernel", "dq_kernel", "dkdv_kernel"} <= {kernel for kernel, _ in kinds}
    assert kinds == {(report["kernel"], report["instruction"]) for report in found if report["seen"]}
    assert any("fence" in kind for _, kind in kinds) == (target == "sm_90")

"""The kernels compile for GPUs that are not there, and are what they were meant to be. See `offline`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def compiled(target, *cases):
    """What the compiler says of the kernels that some calls launch, by case and kernel."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [*(str(HERE.parents[2] / part) for part in ("src", "tests")), environment.get("PYTHONPATH", "")]
    )
    command = [sys.executable, HERE / "offline.py", target, *cases]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = map(json.loads, done.stdout.splitlines())
    return {(report["case"], report["kernel"]): report for report in reports}


def test_on_hopper():
    """Matrix products of warpgroups, keys copied ahead, and biases that take no shared memory and spill no registers."""
    forms = {"none": "none,64,bfloat16,causal", "t5": "t5,64,bfloat16,causal", "fire": "fire,64,bfloat16,causal"}
    reports = compiled("sm_90", *forms.values())
    for form, case in forms.items():
        for kernel in ("forward_kernel", "dq_kernel", "dkdv_kernel"):
            report = reports[case, kernel]
            assert report["warpgroup_products"] > 0
            assert report["async_copies"] > 0
            assert report["stack"] == 0, (form, kernel, report)
            beside = reports[forms["none"], kernel]["shared"]
            assert report["shared"] <= beside + 2048, (form, kernel)  # a warp reduces some numbers across its warps
    assert reports[forms["t5"], "diagonal_kernel"]["stack"] == 0
    assert reports[forms["fire"], "diagonal_kernel"]["stack"] == 0
    assert (forms["none"], "diagonal_kernel") not in reports


@pytest.mark.parametrize(
    ("target", "case"),
    [
        ("sm_80", "t5 bidirectional,128,float16,dropout,documents,window"),
        ("sm_89", "none,256,bfloat16"),  # little shared memory
        ("gfx942", "band,64,bfloat16,causal"),
    ],
)
def test_on_others(target, case):
    assert {kernel for _, kernel in compiled(target, case)} >= {"forward_kernel", "dkdv_kernel"}


def test_longer_texts_compile_nothing_anew():
    """Decoding meets one more key at each step. Only the merging of splits knows, to a power of two, how many there are."""
    first, then = ("t5,64,bfloat16,causal,decode", "t5,64,bfloat16,causal,decode,longer")
    kernels = compiled("sm_90", first, then)
    assert (first, "split_kernel") in kernels
    assert {kernel for case, kernel in kernels if case == then} <= {"merge_kernel"}

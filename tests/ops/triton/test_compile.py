"""The kernels compile for GPUs that are not there, and are what they were meant to be. See `offline`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.triton import offline

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
    forms = {form: f"{form},64,bfloat16,causal" for form in ("none", "t5", "alibi", "fire")}
    reports = compiled("sm_90", *forms.values())
    for form, case in forms.items():
        for kernel in ("forward_kernel", "dq_kernel", "dkdv_kernel"):
            report = reports[case, kernel]
            assert report["warpgroup_products"] > 0
            assert report["async_copies"] > 0
            assert report["stack"] == 0, (form, kernel, report)
            # ptxas runs the products of a tile together, and each finds what was copied for it.
            assert report["warnings"] == [], (form, kernel, report)
            assert report["unfenced"] == 0, (form, kernel, report)
            beside = reports[forms["none"], kernel]["shared"]
            assert report["shared"] <= beside + 2048, (form, kernel)  # a warp reduces some numbers across its warps
    assert reports[forms["t5"], "diagonal_kernel"]["stack"] == 0
    assert reports[forms["fire"], "diagonal_kernel"]["stack"] == 0
    assert (forms["none"], "diagonal_kernel") not in reports


def test_decode_of_many_rows():
    """From 64 rows of a GQA group, products are those of warpgroups; without TF32, float32 has none and takes more warps."""
    halves, singles = (f"fire,64,{dtype},causal,decode,64 rows" for dtype in ("bfloat16", "float32"))
    reports = compiled("sm_90", halves, singles)
    assert reports[halves, "split_kernel"]["warpgroup_products"] > 0
    assert reports[halves, "split_kernel"]["unfenced"] == 0
    assert reports[singles, "split_kernel"]["stack"] == 0


def test_table_against_an_earlier_one():
    now = {"registers": 141, "instructions": [303, 415], "warnings": []}
    before = {"registers": 159, "instructions": [303, 415]}
    assert [offline.cell(name, now, before) for name in now] == ["159 -> 141", "303, 415", ""]


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


# The most bytes of stack of a kernel at a head size up to 128.
STACK = {"sm_80": 256, "sm_89": 256, "sm_90": 256, "sm_100": 256, "sm_120": 256, "gfx942": 0, "gfx950": 0}


long = pytest.mark.skipif("FALLOFF_TEST_COMPILE" not in os.environ, reason="takes many minutes: make test-compile")


@long
@pytest.mark.parametrize("head_size", [64, 128, 256])
@pytest.mark.parametrize("target", STACK)
@pytest.mark.parametrize("form", ["none", "t5", "t5 bidirectional", "alibi", "band", "potential", "fire"])
def test_every_form(target, form, head_size):
    """No product of a warpgroup waits for another or reads what was not fenced; stacks are as known."""
    case = f"{form},{head_size},bfloat16{'' if form == 't5 bidirectional' else ',causal'}"
    for (_, kernel), report in compiled(target, case).items():
        assert report["warnings"] == [], (kernel, report)
        assert report["unfenced"] == 0, (kernel, report)
        assert report["stack"] <= STACK[target] or head_size > 128, (kernel, report)


@long
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("form", ["none", "t5", "alibi", "band", "potential", "fire"])
def test_documents_on_hopper(form, head_size):
    """Their ids are copied ahead as keys are, in groups of their own."""
    for (_, kernel), report in compiled("sm_90", f"{form},{head_size},bfloat16,causal,documents").items():
        assert report["warnings"] == [], (kernel, report)
        assert report["unfenced"] == 0, (kernel, report)


def test_longer_texts_compile_nothing_anew():
    """Decoding meets one more key at each step. Only the merging of splits knows, to a power of two, how many there are."""
    first, then = ("t5,64,bfloat16,causal,decode", "t5,64,bfloat16,causal,decode,longer")
    kernels = compiled("sm_90", first, then)
    assert (first, "split_kernel") in kernels
    assert {kernel for case, kernel in kernels if case == then} <= {"merge_kernel"}

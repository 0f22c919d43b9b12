"""A short run of the fuzzer, and a test that it finds faults. `make fuzz` runs more cases."""

import os
import subprocess
import sys

import pytest
import torch

from falloff.ops import cpu
from falloff.ops.blockwise import bias as tile_bias
from falloff.ops.blockwise import scores
from fuzz import attention

SEED = 2024


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    monkeypatch.setenv("FALLOFF_CPU_ISA", os.environ.get("FALLOFF_CPU_ISA", ""))  # set from case to case
    threads, filled = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    attention.set_up_process()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.set_num_threads(threads)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_random_calls_agree_with_the_definition(part):
    isas = cpu._module.instruction_sets() if cpu.unavailable() is None else []
    chosen = list(attention.targets(["cpu", "blockwise", "reference"], isas))
    for number in range(part * 60, (part + 1) * 60):
        case, found = attention.run(SEED, number, chosen)
        wrong = {label: lines for label, lines in found.items() if lines}
        assert not wrong, f"{wrong}\n{case}\npython tests/fuzz/attention.py --seed {SEED} --case {number}"


def _off_by_one(monkeypatch):
    right = tile_bias.along_diagonals
    monkeypatch.setattr(tile_bias, "along_diagonals", lambda *where: right(*where).roll(1, -1))


def _wrong_mask(monkeypatch):
    right = scores.visible
    monkeypatch.setattr(scores, "visible", lambda *where, **settings: right(*where, **(settings | {"window": None})))


def _gradient_a_little_off(monkeypatch):
    right = tile_bias.Skew.__call__
    monkeypatch.setattr(tile_bias.Skew, "__call__", lambda skew, tile: right(skew, tile * (1 + 1e-4)))


def _dropout_of_another_seed(monkeypatch):
    right = scores.keep_mask
    monkeypatch.setattr(scores, "keep_mask", lambda seed, *others: right(seed + 1, *others))


@pytest.mark.parametrize("fault", [_off_by_one, _wrong_mask, _gradient_a_little_off, _dropout_of_another_seed])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_fuzzer_finds_faults(monkeypatch, fault):
    fault(monkeypatch)
    chosen = list(attention.targets(["blockwise"], []))
    assert any(any(attention.run(SEED, number, chosen)[1].values()) for number in range(80))


@pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter")
def test_the_interpreter_computes_bfloat16():
    """Triton's own truncates bfloat16 and multiplies its bits: the fuzzer patches it, as the tests of the kernels do."""
    pytest.importorskip("triton")
    command = [sys.executable, attention.__file__, "--impl", "triton", "--seed", "0", "--case", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "torch.bfloat16" in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr

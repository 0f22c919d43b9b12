"""The suites `calls`, `short` and `long`; as the older falloff in them, this one in another process."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from falloff.bench import against, beside
from falloff.bench.against import Older
from falloff.bench.beside_tables import beside_tables
from falloff.bench.busy import spinning
from falloff.bench.cases import Case
from falloff.bench.contestants import NO_BIAS, OLDER, OURS, ours
from falloff.bench.counting import operators_of
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.suites import Options, run_suite
from falloff.bench.verify import WrongResultError, verify
from falloff.ops import cpu

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def older():
    with Older(sys.executable, "cpu") as found:
        yield found


def test_the_suite_calls(tiny, monkeypatch):
    monkeypatch.setattr(beside, "_IN_A_ROW", 2)
    monkeypatch.setattr(beside, "_SPINNING", 1)
    threads = torch.get_num_threads()
    result = run_suite(Options("calls", turns=1, against=sys.executable), Progress())
    assert torch.get_num_threads() == threads
    assert result["threads"] == 2
    assert json.loads(json.dumps(result)) == result
    assert (result["against"]["torch"], result["against"]["commit"]) == (result["versions"]["torch"], result["commit"])
    *calls, decode = result["cases"]
    for case in calls:
        assert list(case["milliseconds"]) == [OURS, OLDER, NO_BIAS]
        assert list(case["busy"]["over_quiet"]) == [OURS, OLDER, NO_BIAS]
        assert list(case["operators"]) == ["forward", "training", "backward"]
        assert case["targets"]["busy"] == 5
    assert decode["shape"] == {"batch": 1, "heads": 4, "key_heads": 2, "queries": 1, "keys": 40, "head_size": 8}
    assert list(decode["ratio"]) == [OLDER, NO_BIAS]
    assert decode["targets"] == {"ratio": 1.0}
    assert "busy" not in decode


@pytest.mark.parametrize("suite", ["calls", "short-avx2", "short-avx512", "long-avx2", "long-avx512"])
def test_what_was_recorded_fits_80_columns(suite):
    result = json.loads((RESULTS / f"{suite}-2-core-epyc.json").read_text(encoding="utf-8"))
    console = Console(width=80, record=True, file=StringIO())
    for drawn in beside_tables(result):
        console.print(drawn)
    assert "…" not in console.export_text()


def test_one_query_against_a_cache_sees_all_keys_beside_sdpa_too(tiny):
    case = Case("calls", "none", 1, causal=True, cache=20, heads=2, head_size=8)
    runs, _ = beside._prepared(case, "cpu", None)
    torch.testing.assert_close(runs[NO_BIAS]()[0], runs[OURS]()[0])


@pytest.mark.parametrize("bias", ["none", "t5", "kerple-log", "sandwich", "fire"])
def test_an_older_falloff_gives_its_results(older, bias):
    case = Case("short", bias, 16, causal=True, training=True, batch=2, heads=2, head_size=8)
    problem = problem_of(case)
    found = older.take(problem)
    assert len(older.seconds(3)) == 3
    for got, want in zip(found, ours(problem, "cpu")(), strict=True):
        torch.testing.assert_close(got, want)


def test_an_older_falloff_that_computes_something_else_is_refused(monkeypatch, older):
    case = Case("short", "t5", 16, heads=2, head_size=8)
    right = Older.take
    monkeypatch.setattr(Older, "take", lambda self, problem: [2 * result for result in right(self, problem)])
    with pytest.raises(WrongResultError, match="'falloff, older' differ by"):
        beside._prepared(case, "cpu", older)


def test_an_older_falloff_that_fails_says_why():
    case = Case("short", "t5", 16, heads=2, head_size=8)
    with (
        Older(sys.executable, "no such one") as older,
        pytest.raises(OSError, match="older falloff failed: ValueError: impl"),
    ):
        older.take(problem_of(case))
    assert older.process.returncode is not None


def test_what_is_no_python_with_falloff(monkeypatch, tmp_path):
    with pytest.raises(
        ValueError, match="--against: got '/no/python', No such file or directory, expected the path of a Py"
    ):
        Older("/no/python", "cpu")
    monkeypatch.setattr(against, "_PROGRAM", tmp_path / "none.py")
    with pytest.raises(ValueError, match="expected a Python that has falloff: the older falloff failed: "):
        Older(sys.executable, "cpu")


def test_processes_spin_and_end():
    with spinning(2) as started:
        assert [process.poll() for process in started] == [None, None]
    assert all(process.returncode is not None for process in started)


def test_processes_that_spin_end_with_their_parent():
    program = "import os; from falloff.bench.busy import spinning\nspinning(1).__enter__(); os._exit(0)"
    # The read ends where the last process that holds the pipe has ended.
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, timeout=60)
    assert done.stderr == b""


def test_operators_are_counted_beside_falloffs_own(tiny):
    found = {case.bias: operators_of(problem_of(case), "cpu") for case in tiny["calls"]}
    assert found["none"]["forward"] == 0
    assert all(counts["training"] >= counts["forward"] for counts in found.values())
    assert found["kerple-log"]["backward"] > 0


def test_an_instruction_set(monkeypatch, tiny):
    seen = []
    monkeypatch.setattr("falloff.bench.beside.time_all", lambda *arguments: seen.append(cpu.instruction_set()) or iter(()))
    least = cpu._module.instruction_sets()[-1]
    forced = os.environ.get("FALLOFF_CPU_ISA")
    assert run_suite(Options("calls", isa=least), Progress())["isa"] == least
    assert seen == [least]
    assert os.environ.get("FALLOFF_CPU_ISA") == forced


def test_grouped_heads_are_verified():
    case = Case("decode", "t5", 1, causal=True, cache=30, heads=4, key_heads=2, head_size=8)
    assert verify(case, "cpu").keys == 30

import pytest

from falloff.bench.cases import CALLS_CASES, CPU_CASES, LONG_CASES, SHORT_CASES, Case, cases_named
from falloff.bench.suites import CASES
from falloff.bench.targets import targets_of


@pytest.mark.parametrize("suite", CASES)
def test_names_tell_cases_apart(suite):
    assert len({case.name for case in CASES[suite]}) == len(CASES[suite])


def test_what_is_aimed_at():
    for case in (*CALLS_CASES, *SHORT_CASES, *LONG_CASES):
        assert targets_of(case, "avx2")
    assert targets_of(Case("calls", "fire", 1, cache=128), None)["ratio"] == 1 / 4
    assert targets_of(Case("short", "t5", 512, causal=True, training=True), "avx2") == {"ratio": 2.2}
    assert targets_of(Case("short", "t5", 128), "avx2") == {"ratio": 1.2}
    assert targets_of(Case("long", "t5", 4096), "avx2") == {"share_of_peak": 0.80}
    assert targets_of(Case("long", "t5", 4096, causal=True), "avx512bf16") == {"share_of_peak": 0.78}


def test_what_the_cpu_suite_promises():
    groups = {
        group: [case for case in CPU_CASES if case.group == group] for group in dict.fromkeys(c.group for c in CPU_CASES)
    }
    assert list(groups) == ["forward", "forms", "far", "training", "bfloat16", "bfloat16 training", "decode", "short"]
    assert {(case.causal, case.length) for case in groups["forward"]} == {
        (causal, length) for causal in (False, True) for length in (512, 1024, 2048, 4096, 8192)
    }
    assert {case.bias for case in groups["forms"]} == {"fire", "band"}
    assert all(case.training for case in groups["training"])
    assert {case.dtype for case in groups["bfloat16"]} == {"bfloat16"}
    assert sum(case.flex for case in CPU_CASES) <= 8  # each compiles for half a minute


def test_operations():
    full = Case("forward", "t5", 100, heads=3, head_size=10, batch=2)
    assert full.gflop == pytest.approx(4 * 2 * 3 * 100 * 100 * 10 / 1e9)
    assert Case("training", "t5", 100, causal=True, training=True, heads=3, head_size=10, batch=2).gflop == pytest.approx(
        full.gflop * 3.5 / 2
    )


def test_long_cases_are_verified_shorter():
    assert Case("far", "alibi", 16384, causal=True).verified_as == Case("far", "alibi", 1024, causal=True)
    assert Case("forward", "t5", 2048).verified_as == Case("forward", "t5", 2048)
    decode = Case("decode", "t5", 1, cache=8192)
    assert decode.verified_as == decode


def test_part_of_a_name():
    assert {case.group for case in cases_named("SHORT", CPU_CASES)} == {"short"}
    assert cases_named(None, CPU_CASES) == CPU_CASES
    with pytest.raises(ValueError, match="--cases: got 'gpu', expected part of a name such as 'forward: T5 full N=512'"):
        cases_named("gpu", CPU_CASES)

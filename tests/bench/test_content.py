"""The suite `content`, of toy sizes: verified first, and every contestant with the same result."""

import json
from io import StringIO

import pytest
from rich.console import Console

from falloff.bench import content
from falloff.bench.cases import CONTENT_CASES, Case
from falloff.bench.contestants import BAND, EAGER, NO_BIAS, OURS, PLAIN
from falloff.bench.problem import problem_of
from falloff.bench.progress import Progress
from falloff.bench.suites import Options, run_suite
from falloff.bench.tables import tables
from falloff.bench.targets import content_targets
from falloff.bench.verify import WrongResultError, verify


def test_the_suite(tiny):
    result = run_suite(Options("content", "blockwise", turns=1), Progress())
    assert json.loads(json.dumps(result))["cases"][0]["targets"] == {
        "falloff, no bias": [0.8, 0.9],
        "falloff, band": [1.2, 1.5],
    }
    found = [set(case["milliseconds"]) for case in result["cases"]]
    assert found == [{OURS, PLAIN, NO_BIAS, BAND}, {OURS, PLAIN, NO_BIAS, EAGER}, {OURS, PLAIN, NO_BIAS}]
    console = Console(width=80, record=True, file=StringIO())
    for drawn in tables(result):
        console.print(drawn)
    text = console.export_text()
    assert "[1.2; 1.5]" in text
    assert "…" not in text


@pytest.mark.parametrize("causal", [True, False])
def test_the_last_rows_of_long_cases_are_checked(monkeypatch, causal):
    """Those of each bias, whose tensors have a number or a vector for each row."""
    monkeypatch.setattr("falloff.bench.cases._LARGEST_DENSE", 24**2)
    monkeypatch.setattr("falloff.bench.cases._VERIFIED_LENGTH", 24)
    for bias in ("profiles", "transformer-xl", "forgetting"):
        problem = problem_of(Case("content", bias, 90, causal, heads=2, head_size=8))
        out = content.ours(problem, "blockwise")()[0]
        assert content.check_last_rows(problem, out) < 1e-5
        with pytest.raises(WrongResultError, match="the last 64 rows"):
            content.check_last_rows(problem, out.flip(1))


def test_every_target_is_of_a_case_and_a_contestant():
    with_targets = [case for case in CONTENT_CASES if content_targets(case)]
    assert len(with_targets) == 4
    for case in with_targets:
        problem = problem_of(Case("content", case.bias, 24, case.causal, case.training, heads=2, head_size=8))
        assert set(content_targets(case)) <= set(content._contestants(problem, "blockwise"))


def test_gradients_are_verified():
    assert set(verify(Case("content", "forgetting", 24, True, True, heads=2, head_size=8), "blockwise").errors) >= {
        "bias",
        "key",
    }

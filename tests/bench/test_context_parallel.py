"""The suite that times processes which share a sequence: its results, at toy size."""

from rich.console import Console

from falloff.bench import context_parallel
from falloff.bench.context_model import METHODS


def test_each_method_is_verified_and_timed(monkeypatch):
    monkeypatch.setattr(context_parallel, "_CASES", ((2, 50),))
    doing = []
    result = context_parallel.run_suite(1, doing.append)
    assert doing == ["2 ranks, N=50"]
    (case,) = result["cases"]
    for of_methods in (case["milliseconds"], case["estimated"]):
        assert of_methods.keys() == set(METHODS)
        assert all(number > 0 for number in of_methods.values())
    assert 0 < max(case["errors"].values()) < 1e-4  # another bias on each rank gives 1e-2
    console = Console(width=140, record=True)
    console.print(*context_parallel.table(result))
    assert "2 \u2502     50" in console.export_text()

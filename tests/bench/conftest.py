"""Toy sizes: what a suite does, not how fast it is."""

import pytest

from falloff.bench import suites
from falloff.bench.cases import CONTENT, Case


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tests beside this one leave no core free."""


@pytest.fixture(autouse=True)
def _quick_peak(monkeypatch):
    monkeypatch.setattr("falloff.bench.peak._SIZES", (32,))


@pytest.fixture
def tiny(monkeypatch):
    """Each suite with tiny cases, one of every kind."""
    sizes = {"heads": 2, "head_size": 8}
    cpu = [
        Case("forward", "t5", 20, **sizes),
        Case("forms", "fire", 24, causal=True, **sizes),
        Case("forms", "band", 24, causal=True, **sizes),
        Case("training", "t5", 24, causal=True, training=True, **sizes),
        Case("training", "alibi", 24, causal=True, training=True, **sizes),
        Case("bfloat16", "t5", 24, causal=True, training=True, dtype="bfloat16", **sizes),
        Case("decode", "t5", 1, cache=40, **sizes),
        Case("short", "t5", 16, causal=True, training=True, batch=3, **sizes),
    ]
    scaling = [
        Case(group, bias, length, causal=True, training=group == "training", **sizes)
        for group in ("forward", "training")
        for length in (16, 32)
        for bias in ("alibi", "fire")
    ]
    memory = [Case("memory", bias, 300, causal=True, training=True, **sizes) for bias in ("t5", "alibi")]
    calls = [Case("calls", bias, 1, causal=True, cache=20, **sizes) for bias in ("none", "t5", "kerple-log", "sandwich")]
    calls += [Case("decode", "t5", 1, causal=True, cache=40, heads=4, key_heads=2, head_size=8)]
    content = [Case("content", bias, 24, causal=True, training=True, **sizes) for bias in CONTENT]
    suites_tiny = {"cpu": cpu, "scaling": scaling, "memory": memory, "calls": calls, "content": content}
    for name, cases in suites_tiny.items():
        monkeypatch.setitem(suites.CASES, name, cases)
    return suites.CASES

import dataclasses

import pytest

from falloff.bench import memory
from falloff.bench.cases import MEMORY_CASES
from falloff.bench.contestants import LEARNED, NO_BIAS, OURS
from falloff.bench.progress import Progress

linux = pytest.mark.skipif(memory.unmeasurable() is not None, reason=str(memory.unmeasurable()))


@linux
def test_a_dense_bias_takes_memory_and_a_form_does_not():
    case = dataclasses.replace(MEMORY_CASES[0], length=1000, heads=4, head_size=16)
    dense = 4 * 1000 * 1000 * 4
    ours, theirs = memory.measure(case, OURS, "cpu"), memory.measure(case, LEARNED, "cpu")
    assert ours["inputs"] == 3 * 4 * 1000 * 16 * 4
    assert ours["results"] >= 4 * 4 * 1000 * 16 * 4
    assert ours["extra"] < dense / 2 < 2 * dense < theirs["extra"]


@linux
def test_a_process_that_fails_says_why():
    case = dataclasses.replace(MEMORY_CASES[0], length=64)
    with pytest.raises(OSError, match="measuring the memory of 'falloff' in 'memory: T5 causal N=64' failed: "):
        memory.measure(case, OURS, "no such implementation")


def test_who_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "unmeasurable", lambda: None)
    monkeypatch.setattr(memory, "measure", lambda case, name, impl: asked.append((case.name, name)) or {"extra": 1})
    found = [one for measured in memory.measure_all(MEMORY_CASES, "cpu", Progress()) for one in measured]
    assert len(asked) == len(MEMORY_CASES) + 3 + 2  # SDPA without bias once for each length, dense at 4096 twice
    by_name = {case.name: keys for case, keys in found}
    assert set(by_name["memory: T5 causal N=4096"]["memory"]) == {OURS, NO_BIAS, LEARNED}
    assert by_name["memory: ALiBi causal N=4096"]["skipped"] == {LEARNED: "nothing of this bias is learned"}


def test_elsewhere_it_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(memory, "unmeasurable", lambda: "not here")
    for ((_, keys),) in memory.measure_all(MEMORY_CASES, "cpu", Progress()):
        assert keys["memory"] == {}
        assert keys["skipped"] == {OURS: "not here", NO_BIAS: "not here", LEARNED: "not here"}


def test_a_rival_that_runs_out_of_memory_is_left_out(monkeypatch):
    def measure(case, name, impl):
        if name != OURS:
            raise OSError("killed")
        return {"extra": 1}

    monkeypatch.setattr(memory, "unmeasurable", lambda: None)
    monkeypatch.setattr(memory, "measure", measure)
    (((_, keys),),) = memory.measure_all(MEMORY_CASES[:1], "cpu", Progress())
    assert (keys["memory"], keys["skipped"]) == ({OURS: {"extra": 1}}, {NO_BIAS: "killed", LEARNED: "killed"})

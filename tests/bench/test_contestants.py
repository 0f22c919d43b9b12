import pytest
import torch

from falloff.bench import contestants as module
from falloff.bench.contestants import DENSE, EAGER, FLEX, LEARNED, NO_BIAS, OURS, contestants
from falloff.bench.problem import problem_of


@pytest.mark.parametrize("impl", ["cpu", "blockwise"])
def test_all_who_have_the_bias_compute_the_same(tiny, impl):
    for case in tiny["cpu"]:
        found = contestants(problem_of(case), impl, with_flex=False)
        tolerance = 0.1 if case.dtype == "bfloat16" else 1e-4
        want = found.runs[OURS]()
        for name in found.same_result:
            got = found.runs[name]()
            for ours, theirs in zip(want[:4], got[:4], strict=True):  # output, and gradients of query, key and value
                torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)


def test_without_bias_differs(tiny):
    found = contestants(problem_of(tiny["cpu"][0]), "cpu", with_flex=False)
    assert (found.runs[NO_BIAS]()[0] - found.runs[OURS]()[0]).abs().max() > 0.1


def test_who_takes_part(tiny):
    forward, _, _, training, alibi, *_ = (contestants(problem_of(case), "cpu", with_flex=False) for case in tiny["cpu"])
    assert list(forward.runs) == [OURS, NO_BIAS, DENSE, EAGER]
    assert forward.skipped == {FLEX: "left out: it is compiled for each case; --flex includes it"}
    assert list(training.runs) == [OURS, NO_BIAS, DENSE, LEARNED, EAGER]
    assert training.skipped == {FLEX: "it cannot train on the CPU"}
    assert LEARNED not in {**alibi.runs, **alibi.skipped}


def test_inference_keeps_no_graph_and_training_gives_gradients(tiny):
    for case in tiny["cpu"]:
        problem = problem_of(case)
        for name, run in contestants(problem, "cpu", with_flex=False).runs.items():
            out, *gradients = run()
            assert out.requires_grad == case.training, (case.name, name)
            assert len(gradients) >= (3 if case.training else 0)


def test_what_is_too_large_is_left_out_with_a_reason(tiny, monkeypatch):
    monkeypatch.setattr(module, "_MOST_DENSE", 100)
    found = contestants(problem_of(tiny["cpu"][3]), "cpu", with_flex=False)
    assert list(found.runs) == [OURS, NO_BIAS]
    assert {DENSE, LEARNED, EAGER} <= set(found.skipped)
    assert found.skipped[DENSE].startswith("each dense tensor would take")


def test_a_compiler_that_fails_is_a_reason(tiny, monkeypatch):
    def failing(problem):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr("falloff.bench.flex.compiled", failing)
    case = tiny["cpu"][0]
    assert contestants(problem_of(case), "cpu", with_flex=True).skipped[FLEX] == "not compiled for this case"
    object.__setattr__(case, "flex", True)
    assert contestants(problem_of(case), "cpu", with_flex=True).skipped[FLEX] == "RuntimeError: no compiler"


def test_a_problem_is_the_same_every_time(tiny):
    state = torch.get_rng_state()
    for case in tiny["cpu"]:
        one, other = problem_of(case), problem_of(case)
        assert all(map(torch.equal, one.inputs, other.inputs))
        assert all(map(torch.equal, one.bias.leaves().values(), other.bias.leaves().values()))
    assert torch.equal(state, torch.get_rng_state())


def test_fire_is_beyond_its_threshold(tiny):
    case = tiny["cpu"][1]
    assert problem_of(case).bias.scheme.form(case.length, case.keys).kind == "warp"

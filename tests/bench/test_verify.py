import dataclasses

import pytest
import torch

from falloff.bench import verify as module
from falloff.bench.contestants import EAGER, OURS, contestants
from falloff.bench.problem import problem_of
from falloff.bench.verify import WrongResultError, check_last_rows, check_rivals, verify


@pytest.mark.parametrize("impl", ["cpu", "blockwise"])
def test_what_is_right_is_within_its_budget(tiny, impl):
    for case in tiny["cpu"]:
        verified = verify(case, impl)
        assert (verified.queries, verified.keys) == (case.length, case.keys)
        learned = ["bias"] if case.training and case.bias != "alibi" else []
        assert list(verified.errors) == ["output", *(["query", "key", "value"] if case.training else []), *learned]
        for error in verified.errors.values():
            assert error["ours"] <= error["budget"]


@pytest.mark.parametrize("wrong", [0, 1, 4])
@pytest.mark.parametrize("by", [1.001, torch.nan])
def test_what_is_wrong_is_refused(tiny, monkeypatch, wrong, by):
    right = module.ours

    def ours(problem, impl):
        def run():
            results = right(problem, impl)()
            if impl != "reference":
                results[wrong] = results[wrong] * by
            return results

        return run

    monkeypatch.setattr(module, "ours", ours)
    case = tiny["cpu"][3]
    what = {0: "output", 1: "gradient of query", 4: "gradient of bias"}[wrong]
    with pytest.raises(WrongResultError, match=f"wrong result in 'training: T5 causal N=24 D=8', impl 'cpu': .* {what} at"):
        verify(case, "cpu")


def test_a_long_case_is_verified_shorter(tiny, monkeypatch):
    monkeypatch.setattr("falloff.bench.cases._LARGEST_DENSE", 100)
    monkeypatch.setattr("falloff.bench.cases._VERIFIED_LENGTH", 9)
    assert verify(tiny["cpu"][0], "cpu").as_keys()["verified_at"] == {"queries": 9, "keys": 9}


def test_the_last_rows_of_a_long_case(tiny, monkeypatch):
    for case in tiny["cpu"]:
        problem = problem_of(case)
        out = module.ours(problem, "cpu")()[0].detach()
        assert check_last_rows(problem, out) is None  # verified as it is
        with monkeypatch.context() as patch:
            patch.setattr("falloff.bench.cases._LARGEST_DENSE", 1)
            patch.setattr("falloff.bench.cases._VERIFIED_LENGTH", 9)
            patch.setattr(module, "_LAST_ROWS", 5)
            assert 0 < check_last_rows(problem, out) < 0.05
            out[:, :, -1] *= 1.5
            with pytest.raises(WrongResultError, match="the last 5 rows of the output are wrong"):
                check_last_rows(problem, out)


def test_a_wrong_rival_is_refused(tiny):
    case = dataclasses.replace(tiny["cpu"][0], length=12)
    found = contestants(problem_of(case), "cpu", with_flex=False)
    outputs = {name: run()[0] for name, run in found.runs.items()}
    check_rivals(case, found.same_result, outputs)
    outputs[EAGER] = outputs[EAGER] + 0.1
    with pytest.raises(WrongResultError, match=f"{OURS} and '{EAGER}' differ by"):
        check_rivals(case, found.same_result, outputs)

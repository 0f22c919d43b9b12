"""The suite `gpu`, as far as a machine without a GPU can run it: tiny cases in Triton's interpreter."""

import json

import pytest
import torch

from falloff.bench import gpu
from falloff.bench.cases import Case

pytest.importorskip("triton")
CPU = torch.device("cpu")


def tiny(bias, **settings):
    return Case("tiny", bias, 40, causal=True, heads=2, head_size=16, dtype="float32", **settings)


def test_a_case_that_trains():
    counts = []
    result = gpu.measure_cases(
        [(tiny("t5", training=True), gpu.measure)], CPU, lambda found: counts.append(len(found["cases"]))
    )
    (case,) = result["cases"]
    assert counts == [1]
    assert json.loads(json.dumps(result)) == result
    assert {gpu.OURS, gpu.OURS_NO_BIAS, gpu.DENSE, gpu.LEARNED, gpu.EAGER} <= set(case["milliseconds"])
    assert set(case["milliseconds"]) | set(case["skipped"]) >= {gpu.FLASH, gpu.CUDNN}
    assert case["errors"]["bias"]["ours"] <= case["errors"]["bias"]["budget"]
    assert case["ratio"][gpu.EAGER] == case["milliseconds"][gpu.EAGER]["median"] / case["milliseconds"][gpu.OURS]["median"]
    assert "TFLOP/s" in gpu.line_of(case)
    assert gpu.all_well(result)


def test_tiles_are_tried_and_put_back(monkeypatch):
    from falloff.ops.triton import tiles

    monkeypatch.setattr(tiles, "HALF", {"forward": {64: tiles.Tiles(64, 64, 4, 1)}})
    monkeypatch.setattr(tiles, "CANDIDATES", {"forward": (tiles.Tiles(32, 32, 4, 1),)})
    monkeypatch.setattr(gpu, "_milliseconds", lambda run, device: run() and 1.0)
    case = Case("tiny", "t5", 40, heads=1, head_size=64, dtype="float16")
    found = gpu.measure_tiles(case, CPU)["tiles"]
    assert found == {"forward 64x64, 4 warps, 1 stages": 1.0, "forward 32x32, 4 warps, 1 stages": 1.0}
    assert {"forward": {64: tiles.Tiles(64, 64, 4, 1)}} == tiles.HALF


def test_the_tiles_that_are_timed_are_launched_whatever_the_table(monkeypatch):
    """An A100 has another table than Hopper: with the candidates in Hopper's, its own would be timed again and again."""
    from falloff.ops.triton import tiles
    from falloff.ops.triton.host import device, problem

    candidate, launched = tiles.Tiles(32, 16, 4, 1), []
    monkeypatch.setattr(tiles, "CANDIDATES", {"forward": (candidate,)})
    monkeypatch.setattr(problem, "device_of", lambda tensor: device.Device("interpreter", 80, tiles.LARGE))
    monkeypatch.setattr(gpu, "_milliseconds", lambda run, device: run() and 1.0)
    options = tiles.Tiles.options
    monkeypatch.setattr(tiles.Tiles, "options", lambda sizes: launched.append(sizes) or options(sizes))
    gpu.measure_tiles(Case("tiny", "t5", 40, heads=1, head_size=128, dtype="float16"), CPU)
    assert set(launched) == {tiles.HALF_AMPERE["forward"][128], candidate}


def test_a_failing_case_is_reported_and_the_others_run():
    def fails(case, device):
        raise RuntimeError("out of memory\nand more")

    result = gpu.measure_cases([(tiny("t5"), fails), (tiny("alibi"), gpu.measure_longest)], CPU, lambda found: None)
    assert result["cases"][0]["failed"] == "RuntimeError: out of memory"
    assert result["cases"][1]["milliseconds"][gpu.OURS]["median"] > 0
    assert not gpu.all_well(result)


def test_the_cases_are_those_that_people_run():
    cases = gpu.gpu_cases()
    assert {case.dtype for case in cases} == {"bfloat16"}
    assert {case.head_size for case in cases} == {64, 128}
    assert {case.bias for case in cases} == {"t5", "fire", "alibi", "band"}
    assert max(case.length for case in cases) == 16384


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--cases"])
def test_an_empty_name_is_refused_before_anything_runs(capsys, monkeypatch, option):
    monkeypatch.setattr(gpu, "run_suite", None)
    for value in ("", " "):
        with pytest.raises(SystemExit) as stopped:
            gpu.main([option, value])
        assert stopped.value.code == 2
        assert f"argument {option}: got {value!r}, expected a name" in capsys.readouterr().err

"""Processes that share windows give what one gives, to the rounding of float32; `shared_windows.py` is what they run."""

import json
import os
import random
from pathlib import Path

import pytest
import torch

from falloff.lab.compare import compare_schemes
from falloff.lab.config import KNOWN_SCHEMES
from falloff.lab.tasks import TASKS
from lab import many_processes, shared_windows
from lab.test_processes import ROUNDING, launch


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The folder of the job, and what one process and each of four found there."""
    folder = tmp_path_factory.mktemp("job")
    words = ["bucket", "offset", "slope", "query", "key", "head", "strip", "bias", "reach"]
    (folder / "words.txt").write_text(" ".join(random.Random(0).choices(words, k=7000)))
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "text", many_processes.Ragged)
        torch.set_num_threads(1)
        one = shared_windows.run(folder, "one")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        done = launch(folder, launcher=("lab.shared_windows",))
        assert done.returncode == 0, done.stderr
        yield folder, one, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "kind", "schemes"),
    [("ddp", "MULTI_CPU", shared_windows.SCHEMES), ("fsdp", "FSDP", shared_windows.IN_PARTS)],
)
def test_the_losses_are_those_of_one_process(job, name, kind, schemes):
    _, one, (main, *others) = job
    assert main[name]["kind"] == kind
    assert list(main[name]["losses"]) == [f"{scheme}, text, seed 0" for scheme in schemes]
    for trial, losses in main[name]["losses"].items():
        assert len(losses) == 4
        assert losses == pytest.approx(one["losses"][trial], abs=ROUNDING, rel=0)
    found = main[name]["results"]
    expected = [line for line in one["results"] if line["scheme"] in schemes]
    _check_results(found, expected)
    assert all(other[name]["results"] == found for other in others)


def _check_results(found, expected):
    keys = ("scheme", "length", "measure", "parameters", "bias_parameters", "test_batch")
    assert [[line[key] for key in keys] for line in found] == [[line[key] for key in keys] for line in expected]
    assert {(line["processes"], line["context_parallel"]) for line in found} == {(4, 2)}
    assert {(line["processes"], line["context_parallel"]) for line in expected} == {(1, 1)}
    for line, wanted in zip(found, expected, strict=True):
        assert len(line["items"]) == 9
        assert line["items"] == pytest.approx(wanted["items"], abs=ROUNDING, rel=0)
        assert 0 < line["peak_memory_mb"] < wanted["peak_memory_mb"]


@pytest.mark.parametrize("ranks", ["2", "4"])  # of 2 heads: by Ulysses, and by all-gather
def test_each_scheme_gives_what_it_gives_for_whole_windows(job, ranks):
    for found in job[2]:
        assert list(found["errors"]) == [*KNOWN_SCHEMES, "summed"]
        for scheme, by_ranks in found["errors"].items():
            errors = by_ranks[ranks]
            assert errors["gradient"] < 1e-4, scheme  # of sums over 27 targets
            assert errors["nats"] < ROUNDING, scheme
            assert errors["missed"] == 0, scheme


def test_one_process_continues_a_training_of_shared_windows(job):
    folder, one, _ = job
    found = shared_windows.run(folder, "stopped", resume=True)
    last = f"{shared_windows.SCHEMES[-1]}, text, seed 0"
    assert found["continued"] == {last: many_processes.STOPPED_AFTER}
    rest = one["losses"][last][many_processes.STOPPED_AFTER :]
    assert found["losses"] == {last: pytest.approx(rest, abs=ROUNDING, rel=0)}
    assert [line["context_parallel"] for line in found["results"][::4]] == [2, 2, 2, 2, 1]


def test_what_does_not_fit_is_refused_everywhere(job):
    for found in job[2]:
        assert found["refused"] == {
            "ranks": "ValueError: context_parallel: got 3, expected a divisor of 4, the number of processes",
            "batch": (
                "ValueError: batch_size: got 5, expected a multiple of 2, the number of processes / context_parallel 2"
            ),
            "compile": "ValueError: compile: got True with context_parallel 2, expected False",
        }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_parallel": 2}, "context_parallel: got 2, expected 1 on one process, or that torchrun"),
        ({"context_parallel": 0}, "context_parallel: got 0, expected 1 on one process"),
        ({"context_parallel": 2, "cluster": "local"}, "context_parallel: got 2 with cluster, expected 1"),
    ],
)
def test_one_process_has_windows_whole(toy, text_path, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compare_schemes(toy(text=(str(text_path),)), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()

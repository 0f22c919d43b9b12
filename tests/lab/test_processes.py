"""Two processes give what one gives, to the rounding of float32; `many_processes.py` is what they run."""

import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from falloff.lab import processes
from falloff.lab.accelerating import accelerator_for
from falloff.lab.config import Settings
from falloff.lab.tasks import TASKS
from lab import many_processes

ROUNDING = 1e-5  # nats; a wrong weight of one process's targets, or a norm of its own gradient, changes far more


def launch(*arguments, launcher=("torch.distributed.run", "--nproc-per-node", "2", "--standalone")):
    """Two processes on this machine."""
    command = [sys.executable, "-m", *launcher, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The folder of the job, and what one process and each of two found there."""
    folder = tmp_path_factory.mktemp("job")
    words = ["bucket", "offset", "slope", "query", "key", "head", "strip", "bias", "reach"]
    for seed, name in enumerate(("words.txt", "others.txt")):
        (folder / name).write_text(" ".join(random.Random(seed).choices(words, k=7000)))
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "text", many_processes.Ragged)
        torch.set_num_threads(1)
        one = many_processes.run(folder, "one")
        (folder / "one-stopped").rename(folder / "stopped")
        done = launch(many_processes.__file__, folder)
        assert done.returncode == 0, done.stderr
        torch.set_num_threads(before)
        yield folder, one, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_CPU"), ("fsdp", "FSDP")])
def test_the_losses_are_those_of_one_process(job, name, kind):
    _, one, (main, other) = job
    assert main[name]["kind"] == kind
    assert list(main[name]["losses"]) == [f"{scheme}, text, seed 0" for scheme in many_processes.SCHEMES]
    for trial, losses in one["losses"].items():
        assert len(losses) == 6
        assert main[name]["losses"][trial] == pytest.approx(losses, abs=ROUNDING, rel=0)
    assert other[name]["losses"] == {}  # only the main process tells
    _check_results(main[name]["results"], one["results"])
    assert other[name]["results"] == main[name]["results"]


def _check_results(found, expected):
    keys = ("scheme", "length", "measure", "parameters", "bias_parameters", "test_batch")
    assert [[line[key] for key in keys] for line in found] == [[line[key] for key in keys] for line in expected]
    assert [line["processes"] for line in found] == [2] * len(found)
    for line, wanted in zip(found, expected, strict=True):
        assert len(line["items"]) == 9
        assert line["items"] == pytest.approx(wanted["items"], abs=ROUNDING, rel=0)
        assert 0 < line["peak_memory_mb"] < wanted["peak_memory_mb"]


def test_a_compiled_model_gives_the_losses_of_one_that_is_not(job):
    folder, _, (main, _) = job
    found = main["compiled"]
    assert found["frames"] > 0
    trial = "t5, text, seed 0"
    plain = many_processes.run(folder, "plain", **many_processes.COMPILED | {"compile": False})
    assert found["losses"] == {trial: pytest.approx(plain["losses"][trial], abs=ROUNDING, rel=0)}
    _check_results(found["results"], plain["results"])
    models = [folder / name / "trials/text/t5/0/model.safetensors" for name in ("plain", "compiled")]
    assert load_file(models[0]).keys() == load_file(models[1]).keys()


@pytest.mark.parametrize("name", ["ddp resumes one", "fsdp resumes ddp"])
def test_a_training_continues_on_other_processes(job, name):
    _, one, (main, _) = job
    last = f"{many_processes.SCHEMES[-1]}, text, seed 0"
    assert main[name]["continued"] == {last: many_processes.STOPPED_AFTER}
    rest = one["losses"][last][many_processes.STOPPED_AFTER :]
    assert main[name]["losses"] == {last: pytest.approx(rest, abs=ROUNDING, rel=0)}


def test_one_process_continues_a_training_of_fsdp(job):
    folder, one, _ = job
    found = many_processes.run(folder, "fsdp-stopped", resume=True)
    last = f"{many_processes.SCHEMES[-1]}, text, seed 0"
    assert found["continued"] == {last: many_processes.STOPPED_AFTER}
    assert found["losses"][last] == pytest.approx(one["losses"][last][many_processes.STOPPED_AFTER :], abs=ROUNDING, rel=0)
    assert [line["processes"] for line in found["results"][::4]] == [2, 2, 1]


def test_what_one_process_finds_wrong_stops_all(job):
    _, _, found = job
    main, other = (rank["refused"] for rank in found)
    disk = "[Errno 28] No space left on device: 'disk'"
    assert main["main"] == f"OSError: {disk}"
    assert other["main"] == f"ValueError: {disk}"
    assert main["one"] == f"ValueError: {disk} (process 1)"
    assert other["one"] == f"OSError: {disk}"
    assert (
        main["batch"] == other["batch"] == "ValueError: batch_size: got 5, expected a multiple of 2, the number of processes"
    )
    assert main["text"].startswith("ValueError: processes: got one with text '")
    assert main["text"] == f"{other['text']} (process 1)"
    assert "which holds a run" in main["folder"]
    assert other["folder"] == main["folder"]


def test_the_command_says_what_is_wrong_once(tmp_path):
    done = launch(
        "-m", "falloff", "compare", "--preset", "quick", "--text", tmp_path / "none.txt", "--out", tmp_path / "run"
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("falloff:")]
    assert lines == [f"falloff: text: got {tmp_path / 'none.txt'}, which does not exist, expected readable files or folders"]
    assert done.stdout == ""
    assert done.returncode == 1  # torchrun's
    assert "exitcode  : 2" in done.stderr


def test_accelerate_launches_the_command(text_path, tmp_path):
    sizes = {"train-length": 16, "steps": 3, "lengths": 1, "schemes": "alibi", "device": "cpu", "context-parallel": 2}
    options = [part for name, value in sizes.items() for part in (f"--{name}", value)]
    done = launch(
        *("-m", "falloff", "compare", "--preset", "quick", "--text", text_path, *options, "--out", tmp_path),
        # On a CPU, accelerate launch starts several processes by MPI alone: this is the road that it takes with GPUs.
        launcher=("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["scheme"], line["processes"], line["context_parallel"]) for line in lines] == [("alibi", 2, 2)] * 2
    assert json.loads((tmp_path / "config.json").read_text())["machine"]["processes"] == 2


@pytest.mark.parametrize("written", ["", "two", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_named(monkeypatch, written):
    monkeypatch.setenv("WORLD_SIZE", written)
    with pytest.raises(ValueError, match=f"^WORLD_SIZE: got '{written}' in the environment, expected"):
        processes.launched()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend: got it from accelerate launch, expected --compile"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "accelerate launch: got another way to share a model"),
    ],
)
def test_what_accelerate_would_do_without_a_setting_is_refused(monkeypatch, variable, value, message):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")  # as accelerate launch always sets it
    accelerator_for(Settings.of_preset("quick", device="cpu"))
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        accelerator_for(Settings.of_preset("quick", device="cpu"))

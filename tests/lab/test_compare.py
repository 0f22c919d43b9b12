import dataclasses
import errno
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from falloff.lab.compare import compare_schemes, resolve
from falloff.lab.config import BASELINES, DEFAULT_SCHEMES, Settings
from falloff.lab.describing import code_of
from falloff.lab.progress import Progress
from falloff.lab.store.folder import RunFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks.text import LanguageModelling
from falloff.lab.training import cpu_threads
from falloff.named import scheme_class

KEYS = (
    "task", "protocol", "scheme", "kind", "seed", "train_length", "length", "measure", "value", "low", "high", "items",
    "depths", "together", "parameters", "bias_parameters", "seconds_per_step", "tokens_per_second", "peak_memory_mb",
    "processes", "context_parallel", "test_batch", "test_seconds", "test_tokens_per_second", "test_peak_memory_mb", "sha256",
)  # fmt: skip
"""The keys of each line of results.jsonl."""

_MEASURED = ("seconds_per_step", "tokens_per_second", "peak_memory_mb", "test_seconds", "test_tokens_per_second", "sha256")


def _numbers(results):
    """Everything but time and memory, and the checksum of the line with them."""
    return [{key: line[key] for key in line if key not in _MEASURED} for line in results]


def _models(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("model.safetensors")}


def _text(scheme, seed=0):
    return Trial("text", scheme, seed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text_path, toy):
    """All schemes at toy size, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with cpu_threads(1):
        return compare_schemes(toy(text=(str(text_path),)), out)


def test_all_schemes_at_all_lengths(whole):
    assert [(line["scheme"], line["length"], line["measure"]) for line in whole.results] == [
        (name, length, measure) for name in DEFAULT_SCHEMES for length in (16, 32, 64, 128) for measure in ("tail", "all")
    ]
    assert whole.results == whole.folder.results(whole.config)
    assert whole.results == [json.loads(line) for line in whole.folder.results_path.read_text().splitlines()]
    for line in whole.results:
        assert tuple(line) == KEYS
        fixed = {"alibi": "heuristic", "sandwich": "heuristic"} | dict.fromkeys(BASELINES, "baseline")
        assert line["kind"] == fixed.get(line["scheme"], "learned")
        assert (line["task"], line["protocol"], line["seed"], line["depths"]) == ("text", "last-k", 0, None)
        assert 1 < line["low"] <= line["value"] <= line["high"] < 1000
        assert line["parameters"] > line["bias_parameters"] >= 0
        assert line["tokens_per_second"] == pytest.approx(4 * 16 / line["seconds_per_step"])
        assert line["test_tokens_per_second"] == pytest.approx(line["test_batch"] * line["length"] / line["test_seconds"])
        assert line["peak_memory_mb"] > 4 * line["parameters"] / 1e6
        logits = 4 * 256 * line["test_batch"] * line["length"] / 1e6
        assert line["test_peak_memory_mb"] > 4 * line["parameters"] / 1e6 + logits
        assert (line["bias_parameters"] > 0) == (line["kind"] == "learned")
        assert len(line["items"]) == 8
        assert line["value"] == pytest.approx(math.exp(sum(line["items"]) / 8))
    result = json.loads(whole.folder.trial(_text("t5"), whole.config).result_path.read_text())
    content = whole.folder.trial(_text("t5"), whole.config).model_path.read_bytes()
    assert result["model_sha256"] == hashlib.sha256(content).hexdigest()
    files = {path.relative_to(whole.folder.path).as_posix() for path in whole.folder.path.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "results.jsonl",
        "report.html",
        "lock",
        *(f"trials/text/{name}/0/{file}" for name in DEFAULT_SCHEMES for file in ("result.json", "model.safetensors")),
    }


def test_config_has_all_that_the_results_depend_on(whole):
    config = json.loads(whole.folder.config_path.read_text())
    assert len(config.pop("sha256")) == 64
    assert config == whole.config
    assert Settings.from_json(config["settings"]).seeds == (0,)
    assert config["versions"]["torch"] == torch.__version__
    assert {"falloff", "python", "numpy", "accelerate"} <= set(config["versions"])
    assert config["machine"]["threads"] == 1
    assert config["lengths"] == [16, 32, 64, 128]
    assert len(config["text"]["sha256"]) == 64
    assert config["git_commit"] is None or len(config["git_commit"].rstrip("+")) == 40
    assert set(KEYS) - {"scheme", "kind", "seed", "train_length", "length"} == set(", ".join(config["measures"]).split(", "))
    assert [measure["name"] for measure in config["tasks"]["text"]["measures"]] == ["tail", "all"]


def test_same_seed_same_bits_and_another_seed_others(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),))
    again = compare_schemes(settings, tmp_path / "again")
    assert _numbers(again.results) == _numbers(whole.results)
    assert _models(tmp_path / "again") == _models(whole.folder.path)
    both = compare_schemes(settings.changed(seeds=(1, 0), schemes=("t5",)), tmp_path / "other").results
    other, same = both[:8], both[8:]
    assert _numbers(same) == _numbers(line for line in whole.results if line["scheme"] == "t5")
    assert {line["seed"] for line in other} == {1}
    assert all(line["value"] != before["value"] for line, before in zip(other, same, strict=True))


def test_order_and_company_of_schemes_change_nothing(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("tisa", "fire"))
    alone = compare_schemes(settings, tmp_path / "alone")
    wanted = [line for name in settings.schemes for line in whole.results if line["scheme"] == name]
    assert _numbers(alone.results) == _numbers(wanted)


def test_an_error_loses_only_the_trial_under_way(toy, text_path, tmp_path, whole, monkeypatch):
    settings = toy(text=(str(text_path),), schemes=("alibi", "t5", "rope"))
    test = LanguageModelling.test

    def stop_at_rope(task, *rest):
        if len(list((tmp_path / "run").rglob("result.json"))) == 2:
            raise KeyboardInterrupt
        return test(task, *rest)

    monkeypatch.setattr(LanguageModelling, "test", stop_at_rope)
    with pytest.raises(KeyboardInterrupt):
        compare_schemes(settings, tmp_path / "run")
    monkeypatch.undo()
    torch.set_num_threads(1)
    done = RunFolder(tmp_path / "run").results_path.read_bytes()
    assert len(done.splitlines()) == 16
    with pytest.raises(ValueError, match="which holds a run"):
        compare_schemes(settings, tmp_path / "run")
    with pytest.raises(ValueError, match=r"resume: got another run than the folder's \(steps was 3 and is 4\)"):
        compare_schemes(settings.changed(steps=4), tmp_path / "run", resume=True)
    resumed = compare_schemes(settings, tmp_path / "run", resume=True)
    assert resumed.folder.results_path.read_bytes().startswith(done)
    assert _numbers(resumed.results) == _numbers([line for line in whole.results if line["scheme"] in settings.schemes])


def test_resume_adds_schemes_and_seeds_and_replaces_lost_models(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("none", "sandwich"))
    out = tmp_path / "run"
    first = compare_schemes(settings, out, resume=True)  # nothing there yet: a new run
    first.folder.trial(_text("none"), first.config).model_path.unlink()
    (out / "report.html").unlink()
    more = compare_schemes(settings.changed(schemes=("alibi",)), out, resume=True)
    assert [line["scheme"] for line in more.results[::8]] == ["none", "sandwich", "alibi"]
    assert more.config["settings"]["schemes"] == ["none", "sandwich", "alibi"]
    assert (out / "report.html").exists()
    by_name = {line["scheme"]: line for line in _numbers(whole.results)[::8]}
    assert _numbers(more.results)[::8] == [by_name[name] for name in ("none", "sandwich", "alibi")]
    progress = _Notes()
    seeds = compare_schemes(settings.changed(schemes=("alibi",), seeds=(0, 4)), out, resume=True, progress=progress)
    assert progress.begun == ["none, text, seed 4", "sandwich, text, seed 4", "alibi, text, seed 4"]
    assert seeds.results[:24] == more.results
    assert len(seeds.results) == 48


def test_a_folder_serves_one_run_at_a_time(toy, text_path, tmp_path):
    settings = toy(text=(str(text_path),), schemes=("none",))
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(ValueError, match=r"out: got .*run, in which another run is at work, expected"):
        compare_schemes(settings, folder.path)
    assert not folder.config_path.exists()
    compare_schemes(settings, folder.path)  # a lock that is not held does no harm


def test_files_of_one_name_have_their_own_code(tmp_path):
    """The checksum of both was that of the file which was imported last."""
    names = tuple(f"{tmp_path}/{folder}/own.py:Mine" for folder in "ab")
    for name in names:
        file = Path(name.removesuffix(":Mine"))
        file.parent.mkdir()
        file.write_text(f"from falloff import ALiBi\n\n\nclass Mine(ALiBi):\n    at = ALiBi.at  # {file}\n")
        scheme_class(name)
    assert len(set(code_of(names).values())) == 2


def test_commits_are_kept(toy, text_path, tmp_path, monkeypatch):
    settings = toy(text=(str(text_path),), schemes=("none",))
    for commit in ("one", "two", "two", "one"):
        monkeypatch.setattr("falloff.environment.git_commit", lambda commit=commit: commit)
        config = compare_schemes(settings, tmp_path / "run", resume=True).config
    assert (config["git_commit"], config["resumed_at_commits"]) == ("one", ["two"])


def test_resolve_takes_from_the_folder_what_is_not_given(toy, text_path, tmp_path):
    out = tmp_path / "run"
    settings = toy(text=(str(text_path),), schemes=("none",), seeds=(5,))
    compare_schemes(settings, out)
    assert resolve(None, out, resume=True) == (settings, out)
    assert resolve(None, out, resume=True, schemes=("t5",))[0].schemes == ("t5",)
    assert resolve("quick", out, resume=True)[0].text == settings.text
    assert resolve("quick", out, resume=True)[0].steps == 200  # a preset that is named again replaces other settings
    assert resolve(None, out, resume=False)[0].preset == "small"
    assert resolve(None, None)[1].as_posix() == "runs/compare-small"
    assert resolve("gpu", None, resume=True)[1].as_posix() == "runs/compare-gpu"


def test_a_text_takes_the_place_of_a_dataset_in_a_resumed_run(toy, text_path, tmp_path):
    """So that the error, if the content is not the same, is of the content."""
    settings = toy(text=(str(text_path),), schemes=("none",))
    out = tmp_path / "run"
    compare_schemes(settings, out)
    found, _ = resolve(None, out, resume=True, dataset="rows.jsonl")
    assert (found.text, found.dataset) == ((), "rows.jsonl")
    config = RunFolder(out).stored_config()
    RunFolder(out).write_config(config | {"settings": found.to_json()})
    assert resolve(None, out, resume=True, text=settings.text)[0] == settings


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_seconds": math.nan}, "save_seconds: got nan, expected a number of seconds, at least 0"),
        ({"save_seconds": -1}, "save_seconds: got -1"),
        ({"save_seconds": "60"}, "save_seconds: got '60'"),
        ({"save_seconds": True}, "save_seconds: got True"),
    ],
)
def test_how_to_run_is_checked_before_the_work(toy, text_path, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compare_schemes(toy(text=(str(text_path),)), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_line(toy, text_path, tmp_path, monkeypatch, error):
    def failing(*arguments):
        raise error

    monkeypatch.setattr("falloff.lab.running.train", failing)
    with pytest.raises(ValueError, match=r"^memory: got too little for none, text, seed 0 \([^\n]+\), expected") as found:
        compare_schemes(toy(text=(str(text_path),), schemes=("none",)), tmp_path / "run")
    assert "\n" not in str(found.value)


def test_a_text_too_short_writes_nothing(toy, tmp_path):
    (tmp_path / "short").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="text: got 100 bytes"):
        compare_schemes(toy(text=(str(tmp_path / "short"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kill_and_resume_equals_uninterrupted(text_path, tmp_path):
    """A real process, killed in the midst of its second scheme without a chance to clean up."""
    options = {
        "schemes": ("t5", "fire", "none"),
        "train_length": 16,
        "steps": 30,
        "text": (str(text_path),),
        "device": "cpu",
    }
    command = [sys.executable, "-m", "falloff", "compare", "--preset", "quick", "--schemes", "t5,fire,none"]
    command += [
        "--train-length",
        "16",
        "--steps",
        "30",
        "--text",
        str(text_path),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "killed"),
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    result = tmp_path / "killed" / "trials" / "text" / "t5" / "0" / "result.json"
    deadline = time.monotonic() + 120
    while not result.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    stderr = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, stderr
    killed = RunFolder(tmp_path / "killed")
    assert {line["scheme"] for line in killed.results(killed.stored_config())} == {"t5"}

    settings, _ = resolve("quick", tmp_path / "killed", resume=True, **options)
    resumed = compare_schemes(settings, tmp_path / "killed", resume=True)
    uninterrupted = compare_schemes(settings, tmp_path / "uninterrupted")
    assert len(resumed.results) == 24
    assert _numbers(resumed.results) == _numbers(uninterrupted.results)
    assert _models(tmp_path / "killed") == _models(tmp_path / "uninterrupted")


def _run_of(whole, settings, out):
    """A finished run of these schemes, a part of `whole`."""
    run = RunFolder(out)
    out.mkdir()
    run.write_config({**whole.config, "settings": settings.to_json()})
    for name in settings.schemes:
        shutil.copytree(whole.folder.trial(_text(name), whole.config).path, run.trial(_text(name), whole.config).path)
    return run


class _Notes(Progress):
    def __init__(self):
        self.lines, self.begun = [], []

    def note(self, line):
        self.lines.append(line)

    def start_trial(self, name, work):
        self.begun.append(name)


def test_what_was_damaged_is_named_and_done_again(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("alibi", "none"))
    wanted = _numbers([line for line in whole.results if line["scheme"] in settings.schemes])

    def damage_result(content):
        def damage(trial):
            trial.result_path.write_bytes(content(trial.result_path.read_bytes()))

        return damage

    def flip_weight(trial):
        content = bytearray(trial.model_path.read_bytes())
        content[-3] ^= 0x40
        trial.model_path.write_bytes(content)

    def nan_weight(trial):
        content = trial.model_path.read_bytes()
        trial.model_path.write_bytes(content[:-4] + b"\0\0\xc0\x7f")

    cases = [
        (damage_result(lambda line: line.replace(b'"none"', b'["none"]')), "its checksum does not fit"),
        (damage_result(lambda line: b"null"), "it is no object of JSON"),
        (damage_result(lambda line: b"[" * 200_000), "brackets nested too deeply"),
        (damage_result(lambda line: line.replace(b'"low": ', b'"low": Infinity, "was": ')), "Infinity is no number"),
        (damage_result(lambda line: line.replace(b'"high": ', b'"high": "1", "was": ')), "its checksum does not fit"),
        (damage_result(lambda line: line.replace(b'"value": ', b'"value": 1')), "checksum does not fit"),
        (damage_result(lambda line: b"\xff" + line), "it is no JSON"),
        (damage_result(lambda line: b"{}"), "it has no 'sha256'"),
        (damage_result(lambda line: line[:-100]), "it is no JSON"),
        (flip_weight, "model.safetensors has changed since it was written"),
        (nan_weight, "model.safetensors has changed since it was written"),
        (lambda trial: trial.model_path.unlink(), "model.safetensors: No such file"),
        (
            lambda trial: shutil.copytree(trial.path.parents[1] / "alibi" / "0", trial.path, dirs_exist_ok=True),
            "other settings",
        ),
    ]
    for index, (damage, reason) in enumerate(cases):
        run = _run_of(whole, settings, tmp_path / str(index))
        damage(run.trial(_text("none"), whole.config))
        progress = _Notes()
        again = compare_schemes(settings, run.path, resume=True, progress=progress)
        assert progress.begun == ["none, text, seed 0"], reason
        assert f"none, text, seed 0 is run again: {run.path}" in "\n".join(progress.lines)
        assert reason in "\n".join(progress.lines)
        assert _numbers(again.results) == wanted, reason
        assert again.results == [json.loads(line) for line in run.results_path.read_text().splitlines()]


def test_no_damage_gives_a_traceback_or_another_result(toy, text_path, tmp_path, whole):
    """Flipped bytes and cut ends, anywhere: config.json is refused, everything else is done again, to the same numbers."""
    settings = toy(text=(str(text_path),), schemes=("none",))
    wanted = _numbers([line for line in whole.results if line["scheme"] == "none"])
    draw = random.Random(5)
    names = ["config.json", "trials/text/none/0/result.json", "trials/text/none/0/model.safetensors"]
    done_again = 0
    for index in range(24):
        run = _run_of(whole, settings, tmp_path / str(index))
        path = run.path / names[index % 3]
        content = bytearray(path.read_bytes())
        where = draw.randrange(len(content) - 1)
        if index % 2:
            content[where] ^= 1 << draw.randrange(8)
        else:
            del content[where:]
        path.write_bytes(content)
        progress = _Notes()
        try:
            again = compare_schemes(settings, run.path, resume=True, progress=progress)
        except ValueError as error:
            assert names[index % 3] == "config.json", error  # noqa: PT017
            assert str(error).startswith(f"out: got {path}, expected the config.json of a run: ")  # noqa: PT017
        else:
            assert _numbers(again.results) == wanted
            done_again += progress.begun == ["none, text, seed 0"]
    assert done_again >= 12


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "result.json", "results.jsonl", "report.html"])
def test_a_full_disk_is_one_error_that_names_the_file_and_resume_goes_on(toy, text_path, tmp_path, whole, monkeypatch, name):
    settings = toy(text=(str(text_path),), schemes=("none", "t5"))
    replace = Path.replace
    left = 0 if name in ("config.json", "report.html") else 1  # how many of them fit

    def full(part, target):
        nonlocal left
        if target.name == name:
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device; free at least [0-9,]+ bytes there") as caught:
        compare_schemes(settings, tmp_path / "run")
    assert Path(caught.value.filename).name == name
    assert not list((tmp_path / "run").rglob("*.part"))
    monkeypatch.undo()
    torch.set_num_threads(1)
    progress = _Notes()
    resumed = compare_schemes(settings, tmp_path / "run", resume=True, progress=progress)
    begun = {"config.json": ["none", "t5"], "report.html": [], "results.jsonl": []}.get(name, ["t5"])
    assert progress.begun == [f"{scheme}, text, seed 0" for scheme in begun]
    wanted = [line for scheme in settings.schemes for line in whole.results if line["scheme"] == scheme]
    assert _numbers(resumed.results) == _numbers(wanted)
    assert resumed.folder.report_path.exists()
    assert len(resumed.folder.results_path.read_bytes().splitlines()) == 16


def test_a_name_that_is_not_utf_8_is_shown_with_escapes(toy, text_path, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    shutil.copy(text_path, path)
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    comparison = compare_schemes(toy(text=(str(path),), schemes=("none", "alibi")), out)
    assert "caf\\udce9.txt" in comparison.folder.report_path.read_text(encoding="utf-8")
    comparison.folder.trial(_text("none"), comparison.config).model_path.unlink()
    settings, _ = resolve(None, out, resume=True)
    assert settings.text == (str(path),)
    resumed = compare_schemes(settings, out, resume=True)
    assert _numbers(resumed.results) == _numbers(comparison.results)


def test_files_have_the_permissions_of_the_umask(toy, text_path, tmp_path):
    before = os.umask(0o027)
    try:
        compare_schemes(toy(text=(str(text_path),), schemes=("none",)), tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()}
    names = ("config.json", "results.jsonl", "report.html", "result.json", "model.safetensors", "lock")
    assert modes == dict.fromkeys(names, 0o640)


def test_planted_links_are_not_followed(toy, text_path, tmp_path, whole):
    """In a shared folder: links in the places of files."""
    target, out = tmp_path / "thesis.tex", tmp_path / "run"
    target.write_text("years of work")
    run = RunFolder(out)
    trial = run.trial(_text("none"), whole.config)
    trial.path.mkdir(parents=True)
    for path in (run.config_path, run.results_path, run.report_path, trial.model_path, trial.result_path, trial.state_path):
        path.symlink_to(target)
    for write in (
        lambda: run.write_config({}),
        lambda: run.write_results([]),
        lambda: run.write_report(""),
        lambda: trial.write_result({}, {}),
        lambda: trial.write_state(1, {}),
    ):
        with pytest.raises(OSError, match="this is a link, which is not written over"):
            write()
    with pytest.raises(ValueError, match="which holds a run"):
        compare_schemes(toy(text=(str(text_path),), schemes=("none",)), out)
    assert target.read_text() == "years of work"


def test_a_model_that_is_not_finite_when_tested_is_refused_by_name(toy, text_path, tmp_path, monkeypatch):
    from falloff.lab import running

    def broken(*arguments):
        trained = train(*arguments)
        return dataclasses.replace(trained, predict=lambda tokens: trained.predict(tokens) * math.nan)

    train = running.train
    monkeypatch.setattr(running, "train", broken)
    with pytest.raises(ValueError, match="none, text, seed 0: got the loss nan at length 16, expected a finite number"):
        compare_schemes(toy(text=(str(text_path),), schemes=("none",)), tmp_path / "run")

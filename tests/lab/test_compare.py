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

from falloff.lab.compare import code_of, compare_schemes, resolve
from falloff.lab.config import BASELINES, DEFAULT_SCHEMES, Settings
from falloff.lab.folder import RESULT_KEYS, RunFolder
from falloff.lab.progress import Progress
from falloff.lab.training import cpu_threads
from falloff.named import scheme_class


def _numbers(results):
    """Everything but the time, and the checksum of the line with it."""
    return [{key: line[key] for key in line if key not in ("seconds_per_step", "sha256")} for line in results]


def _checkpoints(folder):
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text_path, toy):
    """All schemes at toy size, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with cpu_threads(1):
        return compare_schemes(toy(text=(str(text_path),)), out)


def test_all_schemes_at_all_lengths(whole):
    assert [(line["scheme"], line["length"]) for line in whole.results] == [
        (name, length) for name in DEFAULT_SCHEMES for length in (16, 32, 64, 128)
    ]
    assert whole.results == whole.folder.results()
    for line in whole.results:
        assert tuple(line) == RESULT_KEYS
        fixed = {"alibi": "heuristic", "sandwich": "heuristic"} | dict.fromkeys(BASELINES, "baseline")
        assert line["kind"] == fixed.get(line["scheme"], "learned")
        assert 1 < line["low"] <= line["perplexity"] <= line["high"] < 1000
        assert 1 < line["tail_low"] <= line["perplexity_tail"] <= line["tail_high"] < 1000
        assert line["parameters"] > line["bias_parameters"] >= 0
        assert line["seconds_per_step"] > 0
        assert line["peak_memory_mb"] > 4 * line["parameters"] / 1e6
        assert (line["bias_parameters"] > 0) == (line["kind"] == "learned")
        assert len(line["losses"]) == len(line["tail_losses"]) == 8
        assert line["perplexity"] == pytest.approx(math.exp(sum(line["losses"]) / 8))
        assert line["perplexity_tail"] == pytest.approx(math.exp(sum(line["tail_losses"]) / 8))
        content = whole.folder.checkpoint_path(line["scheme"]).read_bytes()
        assert line["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
    files = {path.relative_to(whole.folder.path).as_posix() for path in whole.folder.path.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "results.jsonl",
        "report.html",
        *(f"checkpoints/{n}.safetensors" for n in DEFAULT_SCHEMES),
    }


def test_config_has_all_that_the_results_depend_on(whole):
    config = json.loads(whole.folder.config_path.read_text())
    assert len(config.pop("sha256")) == 64
    assert config == whole.config
    assert Settings.from_json(config["settings"]).seed == 0
    assert config["versions"]["torch"] == torch.__version__
    assert {"falloff", "python", "numpy", "accelerate"} <= set(config["versions"])
    assert config["machine"]["threads"] == 1
    assert config["lengths"] == [16, 32, 64, 128]
    assert len(config["text"]["sha256"]) == 64
    assert config["git_commit"] is None or len(config["git_commit"].rstrip("+")) == 40
    assert set(RESULT_KEYS) - {"scheme", "kind", "seed", "train_length", "length"} <= set(
        ", ".join(config["measures"]).split(", ")
    )


def test_same_seed_same_bits_and_another_seed_others(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),))
    again = compare_schemes(settings, tmp_path / "again")
    assert _numbers(again.results) == _numbers(whole.results)
    assert _checkpoints(tmp_path / "again") == _checkpoints(whole.folder.path)
    other = compare_schemes(settings.changed(seed=1, schemes=("t5",)), tmp_path / "other")
    assert other.results[0]["perplexity"] != whole.results[0]["perplexity"]


def test_order_and_company_of_schemes_change_nothing(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("tisa", "fire"))
    alone = compare_schemes(settings, tmp_path / "alone")
    wanted = [line for name in settings.schemes for line in whole.results if line["scheme"] == name]
    assert _numbers(alone.results) == _numbers(wanted)


def test_an_error_loses_only_the_scheme_under_way(toy, text_path, tmp_path, whole, monkeypatch):
    from falloff.lab import compare

    settings = toy(text=(str(text_path),), schemes=("alibi", "t5", "rope"))
    evaluate = compare.evaluate

    def stop_at_rope(predict, *rest):
        if len(RunFolder(tmp_path / "run").results()) == 8:
            raise KeyboardInterrupt
        return evaluate(predict, *rest)

    monkeypatch.setattr(compare, "evaluate", stop_at_rope)
    with pytest.raises(KeyboardInterrupt):
        compare_schemes(settings, tmp_path / "run")
    monkeypatch.undo()
    torch.set_num_threads(1)
    done = RunFolder(tmp_path / "run").results_path.read_bytes()
    with pytest.raises(ValueError, match="which holds a run"):
        compare_schemes(settings, tmp_path / "run")
    with pytest.raises(ValueError, match=r"resume: got another run than the folder's \(steps was 3 and is 4\)"):
        compare_schemes(settings.changed(steps=4), tmp_path / "run", resume=True)
    resumed = compare_schemes(settings, tmp_path / "run", resume=True)
    assert resumed.folder.results_path.read_bytes().startswith(done)
    assert _numbers(resumed.results) == _numbers([line for line in whole.results if line["scheme"] in settings.schemes])


def test_resume_adds_schemes_and_replaces_lost_checkpoints(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("none", "sandwich"))
    out = tmp_path / "run"
    compare_schemes(settings, out, resume=True)  # nothing there yet: a new run
    (out / "checkpoints" / "none.safetensors").unlink()
    (out / "report.html").unlink()
    more = compare_schemes(settings.changed(schemes=("alibi",)), out, resume=True)
    assert [line["scheme"] for line in more.results[::4]] == ["none", "sandwich", "alibi"]
    assert len(more.folder.results()) == 12
    assert more.config["settings"]["schemes"] == ["none", "sandwich", "alibi"]
    assert (out / "report.html").exists()
    by_name = {line["scheme"]: line for line in _numbers(whole.results)[::4]}
    assert _numbers(more.results)[::4] == [by_name[name] for name in ("none", "sandwich", "alibi")]


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
    settings = toy(text=(str(text_path),), schemes=("none",), seed=5)
    compare_schemes(settings, out)
    assert resolve(None, out, resume=True) == (settings, out)
    assert resolve(None, out, resume=True, schemes=("t5",))[0].schemes == ("t5",)
    assert resolve("quick", out, resume=True)[0].text == settings.text
    assert resolve("quick", out, resume=True)[0].seed == 0  # a preset that is named again replaces all settings
    assert resolve(None, out, resume=False)[0].preset == "small"
    assert resolve(None, None)[1].as_posix() == "runs/compare-small"
    assert resolve("gpu", None, resume=True)[1].as_posix() == "runs/compare-gpu"


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
    results = tmp_path / "killed" / "results.jsonl"
    deadline = time.monotonic() + 120
    while not results.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    stderr = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, stderr
    assert {line["scheme"] for line in RunFolder(tmp_path / "killed").results()} == {"t5"}

    settings, _ = resolve("quick", tmp_path / "killed", resume=True, **options)
    resumed = compare_schemes(settings, tmp_path / "killed", resume=True)
    uninterrupted = compare_schemes(settings, tmp_path / "uninterrupted")
    assert len(resumed.results) == 12
    assert _numbers(resumed.results) == _numbers(uninterrupted.results)
    assert _checkpoints(tmp_path / "killed") == _checkpoints(tmp_path / "uninterrupted")


def _run_of_two(whole, settings, out):
    """A finished run of two schemes, a part of `whole`."""
    run = RunFolder(out)
    out.mkdir()
    run.write_config({**whole.config, "settings": settings.to_json()})
    (out / "checkpoints").mkdir()
    written = whole.folder.results_path.read_text().splitlines(keepends=True)
    run.results_path.write_text("".join(line for line in written if json.loads(line)["scheme"] in settings.schemes))
    for name in settings.schemes:
        shutil.copy(whole.folder.checkpoint_path(name), run.checkpoint_path(name))
    return run


class _Notes(Progress):
    def __init__(self):
        self.lines, self.begun = [], []

    def note(self, line):
        self.lines.append(line)

    def start_scheme(self, name):
        self.begun.append(name)


def test_what_was_damaged_is_named_and_done_again(toy, text_path, tmp_path, whole):
    settings = toy(text=(str(text_path),), schemes=("alibi", "none"))
    wanted = _numbers([line for line in whole.results if line["scheme"] in settings.schemes])

    def damage_line(content):
        def damage(run):
            lines = run.results_path.read_bytes().split(b"\n")
            lines[1] = content(lines[1])
            run.results_path.write_bytes(b"\n".join(lines))

        return damage

    def flip_weight(run):
        content = bytearray(run.checkpoint_path("none").read_bytes())
        content[-3] ^= 0x40
        run.checkpoint_path("none").write_bytes(content)

    def nan_weight(run):
        content = run.checkpoint_path("none").read_bytes()
        run.checkpoint_path("none").write_bytes(content[:-4] + b"\0\0\xc0\x7f")

    cases = [
        (damage_line(lambda line: line.replace(b'"alibi"', b'["alibi"]')), "alibi", "line 2 of "),
        (damage_line(lambda line: b"null"), "alibi", "it is no object of JSON"),
        (damage_line(lambda line: b"[" * 200_000), "alibi", "brackets nested too deeply"),
        (damage_line(lambda line: line.replace(b'"low": ', b'"low": Infinity, "was": ')), "alibi", "Infinity is no number"),
        (damage_line(lambda line: line.replace(b'"high": ', b'"high": "1", "was": ')), "alibi", "its checksum does not fit"),
        (damage_line(lambda line: line.replace(b'"perplexity": ', b'"perplexity": 1')), "alibi", "checksum does not fit"),
        (damage_line(lambda line: b"\xff" + line), "alibi", "it is no JSON"),
        (damage_line(lambda line: b"{}"), "alibi", "it has no 'sha256'"),
        (flip_weight, "none", "none.safetensors has changed since it was written"),
        (nan_weight, "none", "none.safetensors has changed since it was written"),
        (lambda run: run.checkpoint_path("none").unlink(), "none", "none.safetensors: No such file"),
    ]
    for index, (damage, scheme, reason) in enumerate(cases):
        run = _run_of_two(whole, settings, tmp_path / str(index))
        damage(run)
        progress = _Notes()
        again = compare_schemes(settings, run.path, resume=True, progress=progress)
        assert progress.begun == [scheme], reason
        assert reason in "\n".join(progress.lines)
        assert f"{scheme} is run again" in "\n".join(progress.lines)
        assert sorted(_numbers(again.results), key=str) == sorted(wanted, key=str), reason
        assert again.results == [line for name in settings.schemes for line in run.results() if line["scheme"] == name]


def test_no_damage_gives_a_traceback_or_another_result(toy, text_path, tmp_path, whole):
    """Flipped bytes and cut ends, anywhere: config.json is refused, everything else is done again, to the same numbers."""
    settings = toy(text=(str(text_path),), schemes=("none",))
    wanted = _numbers([line for line in whole.results if line["scheme"] == "none"])
    draw = random.Random(5)
    names = ["config.json", "results.jsonl", "checkpoints/none.safetensors"]
    done_again = 0
    for index in range(24):
        run = _run_of_two(whole, settings, tmp_path / str(index))
        path = run.path / names[index % 3]
        content = bytearray(path.read_bytes())
        where = draw.randrange(len(content))
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
            done_again += progress.begun == ["none"]
    assert done_again >= 12


@pytest.mark.parametrize("name", ["config.json", "t5.safetensors", "results.jsonl", "report.html"])
def test_a_full_disk_is_one_error_that_names_the_file_and_resume_goes_on(toy, text_path, tmp_path, whole, monkeypatch, name):
    settings = toy(text=(str(text_path),), schemes=("none", "t5"))
    replace = Path.replace
    left = {"config.json": 0, "results.jsonl": 1}.get(name, 0)  # how many of them fit

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
    assert progress.begun == {"config.json": ["none", "t5"], "report.html": []}.get(name, ["t5"])
    wanted = [line for scheme in settings.schemes for line in whole.results if line["scheme"] == scheme]
    assert _numbers(resumed.results) == _numbers(wanted)
    assert resumed.folder.report_path.exists()


def test_a_name_that_is_not_utf_8_is_shown_with_escapes(toy, text_path, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    shutil.copy(text_path, path)
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    comparison = compare_schemes(toy(text=(str(path),), schemes=("none", "alibi")), out)
    assert "caf\\udce9.txt" in comparison.folder.report_path.read_text(encoding="utf-8")
    comparison.folder.checkpoint_path("none").unlink()
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
    names = ("config.json", "results.jsonl", "report.html", "none.safetensors")
    assert modes == dict.fromkeys(names, 0o640)


def test_planted_links_are_not_followed(toy, text_path, tmp_path):
    """In a shared folder: links by the fixed names that incomplete files had, and one in the place of a file."""
    target, out = tmp_path / "thesis.tex", tmp_path / "run"
    target.write_text("years of work")
    (out / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "results.jsonl", "report.html", "checkpoints/none.safetensors"):
        (out / f"{name}.part").symlink_to(target)
    settings = toy(text=(str(text_path),), schemes=("none",))
    run = RunFolder(out)
    run.write_config({})
    run.add_scheme("none", {}, [])
    run.write_report("")
    assert target.read_text() == "years of work"
    run.config_path.unlink()
    run.config_path.symlink_to(target)
    with pytest.raises(OSError, match="this is a link, which is not written over"):
        run.write_config({})
    with pytest.raises(ValueError, match="which holds a run"):
        compare_schemes(settings, out)
    assert target.read_text() == "years of work"


def test_a_model_that_is_not_finite_when_tested_is_refused_by_name(toy, text_path, tmp_path, monkeypatch):
    from falloff.lab import compare

    def broken(*arguments):
        trained = train(*arguments)
        return dataclasses.replace(trained, predict=lambda tokens: trained.predict(tokens) * math.nan)

    train = compare.train
    monkeypatch.setattr(compare, "train", broken)
    with pytest.raises(ValueError, match="none: got the perplexity nan at length 16, expected a finite number"):
        compare_schemes(toy(text=(str(text_path),), schemes=("none",)), tmp_path / "run")

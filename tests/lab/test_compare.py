import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from falloff.lab.compare import compare_schemes, resolve
from falloff.lab.config import DEFAULT_SCHEMES, KINDS, Settings
from falloff.lab.folder import RESULT_KEYS, RunFolder


def _numbers(results):
    """Everything but the time."""
    return [{key: value for key, value in line.items() if key != "seconds_per_step"} for line in results]


def _checkpoints(folder):
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text_path, toy):
    """All schemes at toy size, uninterrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    comparison = compare_schemes(toy(text=(str(text_path),)), out)
    torch.set_num_threads(before)
    return comparison


def test_all_schemes_at_all_lengths(whole):
    assert [(line["scheme"], line["length"]) for line in whole.results] == [
        (name, length) for name in DEFAULT_SCHEMES for length in (16, 32, 64, 128)
    ]
    assert whole.results == whole.folder.results()
    for line in whole.results:
        assert tuple(line) == RESULT_KEYS
        assert line["kind"] == KINDS[line["scheme"]]
        assert 1 < line["low"] <= line["perplexity"] <= line["high"] < 1000
        assert 1 < line["tail_low"] <= line["perplexity_tail"] <= line["tail_high"] < 1000
        assert line["parameters"] > line["bias_parameters"] >= 0
        assert line["seconds_per_step"] > 0
        assert line["peak_memory_mb"] > 4 * line["parameters"] / 1e6
        assert (line["bias_parameters"] > 0) == (line["kind"] == "learned")
    files = {path.relative_to(whole.folder.path).as_posix() for path in whole.folder.path.rglob("*") if path.is_file()}
    assert files == {
        "config.json",
        "results.jsonl",
        "report.html",
        *(f"checkpoints/{n}.safetensors" for n in DEFAULT_SCHEMES),
    }


def test_config_says_what_decides(whole):
    config = json.loads(whole.folder.config_path.read_text())
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

    settings = toy(text=(str(text_path),), schemes=("t5", "alibi", "rope"))
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


def test_resume_adds_schemes_and_mends_lost_checkpoints(toy, text_path, tmp_path, whole):
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


def test_commits_are_kept(toy, text_path, tmp_path, monkeypatch):
    settings = toy(text=(str(text_path),), schemes=("none",))
    for commit in ("one", "two", "two", "one"):
        monkeypatch.setattr("falloff.lab.environment.git_commit", lambda commit=commit: commit)
        config = compare_schemes(settings, tmp_path / "run", resume=True).config
    assert (config["git_commit"], config["resumed_at_commits"]) == ("one", ["two"])


def test_resolve_takes_from_the_folder_what_is_not_given(toy, text_path, tmp_path):
    out = tmp_path / "run"
    settings = toy(text=(str(text_path),), schemes=("none",), seed=5)
    compare_schemes(settings, out)
    assert resolve(None, out, resume=True) == (settings, out)
    assert resolve(None, out, resume=True, schemes=("t5",))[0].schemes == ("t5",)
    assert resolve("quick", out, resume=True)[0].text == settings.text
    assert resolve("quick", out, resume=True)[0].seed == 0  # a preset asked for again is the whole preset
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
    said = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, said
    assert {line["scheme"] for line in RunFolder(tmp_path / "killed").results()} == {"t5"}

    settings, _ = resolve("quick", tmp_path / "killed", resume=True, **options)
    resumed = compare_schemes(settings, tmp_path / "killed", resume=True)
    uninterrupted = compare_schemes(settings, tmp_path / "uninterrupted")
    assert len(resumed.results) == 12
    assert _numbers(resumed.results) == _numbers(uninterrupted.results)
    assert _checkpoints(tmp_path / "killed") == _checkpoints(tmp_path / "uninterrupted")

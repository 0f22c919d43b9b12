"""What a run has computed is kept, and nothing else is taken for it: torn states, full disks, clocks, two runs at once."""

import dataclasses
import errno
import random
import shutil
import threading
from pathlib import Path

import pytest
import torch

from falloff.lab.compare import compare_schemes, run_trial
from falloff.lab.progress import Progress
from falloff.lab.store.folder import RunFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks import TASKS
from lab.killing import TIMES, arguments, start, words


def _numbers(comparison):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in comparison.results]


class _Steps(Progress):
    """Notes what is done; stops before the state of a step is stored."""

    def __init__(self, stop_at=None):
        self.stop_at, self.doing, self.lines = stop_at, [], []

    def advance(self, work, *, doing, **rest):
        self.doing.append(doing)
        if doing == self.stop_at:
            raise KeyboardInterrupt

    def note(self, line):
        self.lines.append(line)


@pytest.fixture(scope="module")
def settings(toy, text_path):
    return toy(text=(str(text_path),), schemes=("fire",), steps=6)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _numbers(compare_schemes(settings, tmp_path_factory.mktemp("whole") / "run"))
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def stopped(settings, tmp_path):
    """A run with a state after step 3: its trial's folder, and the run's."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        compare_schemes(settings, out, progress=_Steps("step 4/6"), save_seconds=0.0)
    return out / "trials" / "text" / "fire" / "0", out


def test_training_goes_on_from_its_state(settings, stopped, whole):
    trial, out = stopped
    (trial / "falloff-0123.part").write_bytes(b"half")
    (out / "falloff-0123.part").write_bytes(b"half")
    (trial / "progress.json").write_text("{}")
    progress = _Steps()
    assert _numbers(compare_schemes(settings, out, resume=True, progress=progress)) == whole
    assert progress.doing[:2] == ["step 3/6", "step 4/6"]
    assert {path.name for path in trial.iterdir()} == {"result.json", "model.safetensors"}
    assert {path.name for path in out.iterdir()} == {"config.json", "results.jsonl", "report.html", "lock", "trials"}


def test_a_torn_or_flipped_state_is_named_and_not_taken(settings, stopped, whole):
    trial, out = stopped
    state = trial / "state.safetensors"
    content = state.read_bytes()
    draw = random.Random(3)
    anew = 0
    for index in range(8):
        damaged = bytearray(content)
        where = draw.randrange(len(content) if index % 4 < 2 else 2000)  # also in the header
        if index % 2:
            damaged[where] ^= 1 << draw.randrange(8)
        else:
            del damaged[where:]
        shutil.rmtree(trial)
        trial.mkdir()
        state.write_bytes(damaged)
        progress = _Steps()
        again = compare_schemes(settings, out, resume=True, progress=progress)
        assert _numbers(again) == whole, (index, where)
        anew += progress.lines[:1] != [] and progress.lines[0].startswith(f"training begins anew: {state}: ")
        assert progress.doing[0] == ("step 1/6" if progress.lines else "step 3/6")
    assert anew >= 7  # a bit of the header may be one that says nothing


def test_the_state_of_another_trial_is_not_taken(settings, stopped, whole, tmp_path):
    trial, out = stopped
    other = settings.changed(seeds=(5,))
    with pytest.raises(KeyboardInterrupt):
        compare_schemes(other, tmp_path / "other", progress=_Steps("step 4/6"), save_seconds=0.0)
    shutil.copy(tmp_path / "other" / "trials" / "text" / "fire" / "5" / "state.safetensors", trial)
    progress = _Steps()
    assert _numbers(compare_schemes(settings, out, resume=True, progress=progress)) == whole
    assert progress.lines == [f"training begins anew: {trial / 'state.safetensors'}: it is of other settings"]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "No space left on device; free at least"), (errno.EROFS, "Read-only file system")]
)
def test_a_state_that_cannot_be_written_loses_only_the_steps_since_the_last(
    settings, stopped, whole, monkeypatch, number, message
):
    trial, out = stopped
    replace, left = Path.replace, 2

    def full(part, target):
        nonlocal left
        left -= target.name == "state.safetensors"
        if left < 0:
            raise OSError(number, message.partition(";")[0])
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=message) as caught:
        compare_schemes(settings, out, resume=True, save_seconds=0.0, progress=Progress())
    assert caught.value.filename == str(trial / "state.safetensors")
    monkeypatch.undo()
    torch.set_num_threads(1)
    progress = _Steps()
    assert _numbers(compare_schemes(settings, out, resume=True, progress=progress)) == whole
    assert progress.doing[0] == "step 5/6"


def test_a_clock_that_jumps_back_does_no_harm(settings, stopped, whole, monkeypatch):
    """A run takes no time of day for anything."""
    now = [2e9]

    def earlier():
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr("time.time", earlier)
    monkeypatch.setattr("time.time_ns", lambda: int(earlier() * 1e9))
    progress = _Steps()
    assert _numbers(compare_schemes(settings, stopped[1], resume=True, progress=progress, save_seconds=0.0)) == whole
    assert progress.doing[0] == "step 3/6"


def test_a_trial_that_another_process_runs_is_waited_for_and_not_run_again(settings, stopped, tmp_path, text_path):
    """Such as a worker of a cluster that was taken for dead."""
    from falloff.lab.text.corpus import read_text

    done = compare_schemes(settings, tmp_path / "done")
    trial = Trial("text", "fire", 0)
    folder = RunFolder(stopped[1]).trial(trial, done.config)
    source = done.folder.trial(trial, done.config).path
    held, waits = threading.Event(), threading.Event()

    def other():
        with folder.locked(lambda: None):
            held.set()
            waits.wait(60)
            for name in ("model.safetensors", "result.json"):
                shutil.copy(source / name, folder.path)

    class Waiting(_Steps):
        def note(self, line):
            super().note(line)
            waits.set()

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    progress = Waiting()
    result = run_trial(settings, trial, TASKS["text"](settings, read_text(settings)), folder, progress, 60.0)
    thread.join()
    assert progress.lines == ["fire, text, seed 0 waits for another process that is at work on it"]
    assert progress.doing == []
    assert result["sha256"] == done.results[0]["sha256"]
    assert {path.name for path in folder.path.iterdir()} == {"result.json", "model.safetensors"}


def test_a_second_run_in_a_folder_is_one_line(tmp_path):
    text = words(tmp_path / "words.txt")
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        process = start(arguments(text, folder.path), tmp_path / "log")
        process.join(120)
    assert process.exitcode == 2
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"falloff: out: got {folder.path}, in which another run is at work, expected")
    assert {path.name for path in folder.path.iterdir()} == {"lock"}


def test_a_resumed_run_keeps_its_threads(toy, text_path, tmp_path):
    """Threads decide the last bits; a machine may give another number by itself."""
    settings = dataclasses.replace(toy(text=(str(text_path),), schemes=("none",)), threads=None)
    torch.set_num_threads(2)
    first = compare_schemes(settings, tmp_path / "run")
    assert first.config["machine"]["threads"] == 2
    torch.set_num_threads(1)
    more = compare_schemes(settings.changed(schemes=("none", "alibi")), tmp_path / "run", resume=True)
    assert more.config["machine"]["threads"] == 2
    assert len(more.results) == 16
    assert torch.get_num_threads() == 1

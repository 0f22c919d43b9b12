"""Trials on Ray: a worker and a driver that are killed lose nothing; what no Ray is needed for is tested without."""

import hashlib
import json
import os
import random
import signal
import time
import types
from pathlib import Path

import pytest
import torch

from falloff.lab.cluster.driver import _Driver
from falloff.lab.cluster.start import check_cluster
from falloff.lab.cluster.worker import Order, UnfitWorkerError, run_order
from falloff.lab.compare import compare_schemes
from falloff.lab.progress import Progress
from falloff.lab.store.checksums import with_checksum
from falloff.lab.store.trials import Trial
from falloff.lab.tasks import TASKS
from falloff.named import scheme_class
from lab.killing import KILLS, arguments, complete, lines, numbers, start, stored, words

STEPS = 60


def _until(condition, process, log):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _under_way(out):
    """The folders of trials that have stored a state and are not complete."""
    states = out.glob("trials/*/*/*/state.safetensors")
    return [path.parent for path in states if not (path.parent / "result.json").exists()]


def _killed_at_work(out):
    """Kill the worker of a trial that is under way, if there is one."""
    for trial in _under_way(out):
        if (trial / "progress.json").exists():
            pid = json.loads((trial / "progress.json").read_bytes())["pid"]
            os.kill(pid, signal.SIGSTOP)
            if not (trial / "result.json").exists():  # it was not about to begin another one
                os.kill(pid, signal.SIGKILL)
                return True
            os.kill(pid, signal.SIGCONT)
    return False


def test_a_killed_driver_and_a_killed_worker_lose_nothing(tmp_path):
    text = words(tmp_path / "words.txt")
    reference = tmp_path / "in turn"
    complete(arguments(text, reference, steps=STEPS), tmp_path / "log0")
    out, log = tmp_path / "run", tmp_path / "log"
    command = arguments(text, out, "--resume", "--cluster", "local", steps=STEPS)
    draw = random.Random(0)
    before = {}
    for _ in range(max(KILLS // 10, 1)):
        process = start(command, log)
        _until(lambda: _under_way(out) or len(stored(out)) == 4, process, log)
        time.sleep(draw.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        after = stored(out)
        assert before.items() <= after.items()
        before = after

    for path in out.rglob("progress.json"):  # the old Ray's workers end by themselves
        pid = json.loads(path.read_bytes())["pid"]
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        path.unlink()
    log = tmp_path / "log of the last"
    process = start(command, log)
    _until(lambda: stored(out) and _killed_at_work(out), process, log)
    before = stored(out)
    process.join()
    said = log.read_text()
    assert process.exitcode == 0, said
    assert numbers(out) == numbers(reference)
    assert before.items() <= stored(out).items(), "a complete trial was run again"
    assert said.count("lost its worker") == 1
    assert said.count("is run again") == 0
    assert {line["sha256"] for line in lines(out)} == set(stored(out).values())
    assert {path.name for path in out.rglob("*")} == {path.name for path in reference.rglob("*")}
    assert "raylet" not in said  # nothing that Ray prints


class _Notes(Progress):
    def __init__(self):
        self.lines, self.finished = [], []

    def note(self, line):
        self.lines.append(line)

    def finish_trial(self, name, summary):
        self.finished.append(name)


class _Tasks:
    """In the place of Ray: a task is done when its result is asked for; some end otherwise."""

    def __init__(self, run, deaths):
        self.run, self.deaths, self.orders = run, deaths, []
        import ray

        self.ray = types.ModuleType("ray")
        self.ray.exceptions = ray.exceptions
        self.ray.wait = lambda refs, timeout: (refs[:1], refs[1:])
        self.ray.get = self._get

    def remote(self, order):
        self.orders.append(order)
        return len(self.orders) - 1

    def _get(self, ref):
        order = self.orders[ref]
        if self.deaths.get(order.trial.scheme, 0):
            self.deaths[order.trial.scheme] -= 1
            raise self.ray.exceptions.WorkerCrashedError
        try:
            return self.run(order)
        except Exception as error:
            raise self.ray.exceptions.RayTaskError("run_order", "traceback", error) from None


@pytest.fixture
def stopped(toy, text_path, tmp_path):
    """A run of three schemes without results: its folder, config, trials and tasks."""
    comparison = compare_schemes(toy(text=(str(text_path),), schemes=("none",)), tmp_path / "run")
    settings = toy(text=(str(text_path),), schemes=("none", "t5", "alibi"))
    config = comparison.config | {"settings": settings.to_json()}
    comparison.folder.write_config(config)
    text = TASKS["text"](settings, _text(settings))
    trials = [Trial("text", scheme, 0) for scheme in ("t5", "alibi")]
    return comparison.folder, config, trials, {"text": text}


def _text(settings):
    from falloff.lab.text.corpus import read_text

    return read_text(settings)


def _driver(stopped, run=run_order, deaths=None):
    folder, config, trials, tasks = stopped
    fake, progress = _Tasks(run, deaths or {}), _Notes()
    driver = _Driver(fake.ray, fake, folder, config, tasks, progress, 60.0)
    return driver.run(trials), fake, progress


@pytest.fixture
def _here(monkeypatch, tmp_path):
    """Orders change the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
def test_a_trial_whose_worker_dies_is_tried_again_and_the_others_are_not(stopped, monkeypatch):
    monkeypatch.setattr("falloff.lab.cluster.driver._LONGEST_PAUSE", 0.01)
    found, fake, progress = _driver(stopped, deaths={"t5": 2})
    assert [trial.scheme for trial, _ in found] == ["alibi", "t5"]
    assert [order.trial.scheme for order in fake.orders] == ["t5", "alibi", "t5", "t5"]
    assert len({order.attempt for order in fake.orders}) == 4
    assert [line.split(" on another")[0] for line in progress.lines] == [
        "t5, text, seed 0 lost its worker and goes on in 0 s"
    ] * 2
    assert progress.finished == ["alibi, text, seed 0", "t5, text, seed 0"]


@pytest.mark.usefixtures("_here")
def test_a_trial_that_kills_every_worker_ends_the_run(stopped, monkeypatch):
    monkeypatch.setattr("falloff.lab.cluster.driver._LONGEST_PAUSE", 0.01)
    found, fake, _ = _driver(stopped, deaths={"t5": 100})
    assert next(found)[0].scheme == "alibi"
    with pytest.raises(ValueError, match="6 workers died one after the other in t5, text, seed 0, the last by Worker"):
        next(found)
    assert len(fake.orders) == 7


@pytest.mark.usefixtures("_here")
def test_a_trial_that_fails_lets_the_others_finish(stopped):
    def run(order):
        if order.trial.scheme == "t5":
            raise ValueError("learning_rate: got 1e9")
        return run_order(order)

    found, fake, _ = _driver(stopped, run)
    assert next(found)[0].scheme == "alibi"
    with pytest.raises(
        ValueError, match=r"compare: 1 of 2 trials failed, the others are stored: t5, text, seed 0: learning_rate: got 1e9$"
    ):
        next(found)
    assert len(fake.orders) == 2  # nothing is tried again


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("error", [UnfitWorkerError("cluster: got the worker a"), OSError(28, "No space left", "state")])
def test_what_all_trials_would_meet_ends_the_run_at_once(stopped, error):
    def run(order):
        raise error

    found, _, _ = _driver(stopped, run)
    with pytest.raises(type(error), match=r"worker a|No space left"):
        next(found)


def _order(stopped, **changes):
    folder, config, trials, _ = stopped
    given = {"folder": str(folder.path), "config_sha256": with_checksum(config)["sha256"], "trial": trials[0]}
    return Order(**given | {"work_folder": str(folder.path), "attempt": "a", "save_seconds": 60.0} | changes)


@pytest.mark.usefixtures("_here")
def test_a_worker_that_sees_another_folder_text_or_library_is_unfit(stopped, tmp_path, text_path, monkeypatch):
    sees = r"cluster: got the worker .*, which cannot run t5, text, seed 0: "
    with pytest.raises(UnfitWorkerError, match=sees + "out: got .*, where it sees no config.json"):
        run_order(_order(stopped, folder=str(tmp_path / "elsewhere")))
    with pytest.raises(UnfitWorkerError, match=sees + "out: got .*, where it sees another config.json"):
        run_order(_order(stopped, config_sha256="0" * 64))
    versions = {**stopped[1]["versions"], "torch": "2.0"}
    with monkeypatch.context() as patch:
        patch.setattr("falloff.environment.versions", lambda: versions)
        with pytest.raises(UnfitWorkerError, match=sees + "it has torch 2.0, expected "):
            run_order(_order(stopped))
    content = text_path.read_bytes()
    try:
        text_path.write_bytes(content.replace(b"bucket", b"budget"))
        with pytest.raises(UnfitWorkerError, match=sees + "text: got one with the SHA-256 "):
            run_order(_order(stopped))
    finally:
        text_path.write_bytes(content)
    assert not stopped[0].trial(stopped[2][0], stopped[1]).result_path.exists()


@pytest.mark.usefixtures("_here")
def test_a_worker_runs_the_code_of_a_scheme_of_the_users_own_if_it_is_the_drivers(stopped, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text("from falloff import ALiBi\n\n\nclass Mine(ALiBi):\n    pass\n")
    name = "mine.py:Mine"  # relative to the driver's folder
    folder, config, _, _ = stopped
    code = hashlib.sha256(own.read_bytes()).hexdigest()
    for sha256 in ("0" * 64, code):
        config["settings"]["schemes"] = [name]
        config["code"] = {name: sha256}
        folder.write_config(config)
        order = _order(stopped, trial=Trial("text", name, 0), work_folder=str(tmp_path))
        if sha256 == code:
            result, notes = run_order(order)
            assert (result["scheme"], notes) == (name, [])
        else:
            with pytest.raises(UnfitWorkerError, match=r"schemes: got another code of mine.py:Mine than the driver has"):
                run_order(order)
    assert scheme_class(name).__name__ == "Mine"


def test_addresses(toy):
    settings = toy()
    for cluster in ("local", "auto", "10.0.0.1:6379", "[::1]:6379", "head.example:6379"):
        check_cluster(cluster, settings)
    for cluster in ("", "6379", "ray://head:10001", "head:0", "head:99999", "a b:1"):
        with pytest.raises(ValueError, match=r"cluster: got '.*', expected 'local' \(.*\), HOST:PORT"):
            check_cluster(cluster, settings)
    object.__setattr__(settings, "device", "cuda:1")
    with pytest.raises(ValueError, match="device: got 'cuda:1' together with a cluster, expected cpu or cuda"):
        check_cluster("local", settings)


def test_where_nothing_listens_is_one_error(toy, text_path, tmp_path):
    settings = toy(text=(str(text_path),), schemes=("none",))
    with pytest.raises(ValueError, match=r"cluster: got '127.0.0.1:1', expected the address of a Ray that runs: Conn"):
        compare_schemes(settings, tmp_path / "run", cluster="127.0.0.1:1")
    resumed = compare_schemes(settings, tmp_path / "run", resume=True)  # in turn
    assert len(resumed.results) == 8
    assert torch.get_num_threads() == 1

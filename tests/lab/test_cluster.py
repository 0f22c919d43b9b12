"""Trials on Ray: a worker and a driver that are killed lose nothing; what no Ray is needed for is tested without."""

import json
import os
import random
import signal
import time
import types
from pathlib import Path

import pytest
import torch

from falloff.lab.cluster import _Driver
from falloff.lab.cluster_start import check_cluster
from falloff.lab.cluster_worker import Order, UnfitWorkerError, run_order
from falloff.lab.compare import compare_schemes
from falloff.lab.progress import Progress
from falloff.lab.tasks import TASKS
from falloff.lab.trials import trials_of
from lab.killing import KILLS, arguments, complete, lines, numbers, start, stored, words

STEPS = 60


def _until(condition, process, log):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


def _under_way(out):
    """The folders of trials that have stored a state and are not complete."""
    states = out.glob("trials/*/*/*/state.safetensors")
    return [path.parent for path in states if not (path.parent / "result.json").exists()]


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

    # Trials go on with the workers of another Ray; those of the old one may be at work for a moment still.
    log = tmp_path / "log of the last"
    process = start(command, log)
    _until(lambda: stored(out) and _under_way(out), process, log)
    before = stored(out)
    (trial, *_) = _under_way(out)
    os.kill(json.loads((trial / "progress.json").read_bytes())["pid"], signal.SIGKILL)
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

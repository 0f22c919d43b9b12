"""Runs of `falloff compare` in processes of their own, which tests kill."""

import json
import multiprocessing
import os
import random
import sys
from pathlib import Path

KILLS = int(os.environ.get("FALLOFF_TEST_KILLS", "5"))
"""How often the tests kill a run: `make test-kill` kills it more often."""

TIMES = ("seconds_per_step", "tokens_per_second", "test_seconds", "test_tokens_per_second", "sha256")
"""What differs from run to run; a result's checksum covers its times."""

_processes = multiprocessing.get_context("forkserver")
# Forked from a process that has imported all of it, a command starts at once.
_processes.set_forkserver_preload(
    ["falloff.cli.comparing", "falloff.lab.compare", "accelerate", "plotly.graph_objects", "scipy.stats", "rich.progress"]
)


def arguments(text, out, *more, steps=12):
    """A comparison of four trials, whose state is stored after every step."""
    return [
        *("compare", "--preset", "quick", "--schemes", "t5,none", "--seeds", "0,1", "--train-length", "16"),
        *("--steps", str(steps), "--text", str(text), "--device", "cpu", "--save-every", "0", "--out", str(out), *more),
    ]


def start(command, log):
    """Start falloff with these arguments in a process of its own; what it prints goes to the file `log`."""
    process = _processes.Process(target=_falloff, args=(command, str(log)))
    process.start()
    return process


def _falloff(command, log):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["falloff", *command]
    from falloff.__main__ import main

    main()


def complete(command, log):
    """Run falloff to its end."""
    process = start(command, log)
    process.join(300)
    assert process.exitcode == 0, Path(log).read_text()


def lines(out):
    """results.jsonl."""
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def numbers(out):
    """results.jsonl without times, and the bytes of every model."""
    kept = [{key: value for key, value in line.items() if key not in TIMES} for line in lines(out)]
    return kept, {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("model.safetensors")}


def stored(out):
    """The checksum of every trial's result: it covers the times, so that a trial that ran twice has another."""
    found = {}
    for path in out.rglob("result.json"):
        found[path.relative_to(out).as_posix()] = json.loads(path.read_text())["sha256"]
    return found


def words(path):
    """A text of words that repeat."""
    path.write_text(" ".join(random.Random(0).choices(["bucket", "offset", "slope", "query", "key", "head"], k=7000)))
    return path

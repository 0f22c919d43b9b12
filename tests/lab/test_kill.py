"""A run that is killed by SIGKILL again and again: it goes on, loses nothing that was stored, and ends with the same bits.

FALLOFF_TEST_KILLS kills: 5, or 50 in `make test-kill`.
"""

import random
import shutil
import signal
import time

import pytest

from lab.killing import KILLS, arguments, complete, numbers, start, stored, words

ROUNDS = max(KILLS // 25, 1)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return words(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    """The run without interruption, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole")
    complete(["--help"], folder / "help")  # after this, a command starts at once
    began = time.monotonic()
    complete(arguments(text, folder / "run"), folder / "log")
    return folder / "run", time.monotonic() - began


def _half_written(folder):
    return any(folder.glob("falloff-*.part")) if folder.exists() else False


def _trials(out):
    return [path for path in out.glob("trials/*/*/*") if path.is_dir()]


MOMENTS = {
    "a file of a trial is being written": lambda out: any(map(_half_written, _trials(out))),
    "a model is there, and its result not yet": lambda out: any(
        (trial / "model.safetensors").exists() and not (trial / "result.json").exists() for trial in _trials(out)
    ),
    "results.jsonl, config.json or the report is being written": _half_written,
    "a model is tested": lambda out: any(
        b'"step":"12"' in path.read_bytes()[:20_000] for path in out.glob("trials/*/*/*/state.safetensors")
    ),
}
"""When to kill, beside moments by the clock."""


def _kill_when(process, reached, out, from_then, draw):
    """Kill a process when a moment is reached after some time: at once, or a little later. Whether it was still at work."""
    while process.is_alive():
        try:
            if time.monotonic() > from_then and reached(out):
                break
        except OSError:  # a file that was renamed meanwhile
            continue
        time.sleep(0.001)
    time.sleep(draw.choice([0.0, draw.uniform(0.0, 0.02)]))
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, text, whole, seed):
    draw = random.Random(seed)
    kills = runs = 0
    while kills < KILLS // ROUNDS:
        kills = _kill_until_complete(tmp_path / f"run{runs}", text, whole, draw, kills)
        runs += 1


def _kill_until_complete(out, text, whole, draw, kills):
    """Kill a run and resume it, again and again, until it is complete; the number of kills so far is counted on."""
    reference, seconds = whole
    moments = [*MOMENTS.values(), lambda out: True]
    before = {}
    log = out.with_suffix(".log")
    while True:
        process = start(arguments(text, out, "--resume"), log)
        # Not the first time that a moment comes: also a later trial is hit.
        from_then = time.monotonic() + draw.uniform(0.0, seconds)
        killed = _kill_when(process, moments[kills % len(moments)], out, from_then, draw)
        after = stored(out)
        assert before.items() <= after.items(), "a complete trial was run again"
        before = after
        if not killed:
            break
        kills += 1
    assert process.exitcode == 0, log.read_text()
    assert numbers(out) == numbers(reference)
    assert "is run again" not in log.read_text()
    assert _names(out) == _names(reference), "something was left behind"
    shutil.rmtree(out)
    return kills


def _names(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}

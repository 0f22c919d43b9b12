"""A run that is killed by SIGKILL again and again: it goes on, loses nothing that was stored, and ends with the same bits.

FALLOFF_TEST_KILLS kills: 5, or 50 in `make test-kill`.
"""

import random
import shutil
import signal
import time

import pytest
from lab.killing import KILLS, arguments, complete, numbers, start, stored, words


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return words(tmp_path_factory.mktemp("text") / "words.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    """The run without interruption, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole")
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


def _kill_when(process, reached, draw):
    """Kill a process a random time after a moment is reached: half of the times at once."""
    while process.is_alive():
        try:
            if reached():
                break
        except OSError:  # a file that was renamed meanwhile
            continue
        time.sleep(0.001)
    time.sleep(draw.choice([0.0, draw.uniform(0.0, 0.02)]))
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(max(KILLS // 25, 1)))
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, text, whole, seed):
    reference, seconds = whole
    wanted = numbers(reference)
    draw = random.Random(seed)
    kills = round_ = 0
    moments = [*MOMENTS, "clock"]
    while kills < KILLS // max(KILLS // 25, 1):
        out, log = tmp_path / f"run{round_}", tmp_path / f"log{round_}"
        round_ += 1
        before = {}
        done = False
        while not done:
            moment = moments[kills % len(moments)]
            process = start(arguments(text, out, "--resume"), log)
            until = time.monotonic() + draw.uniform(0.0, seconds)
            if moment == "clock":
                killed = _kill_when(process, lambda until=until: time.monotonic() > until, draw)
            else:
                # Not the first time that it comes: also a later trial is hit.
                skip = time.monotonic() + draw.uniform(0.0, seconds / 2)
                killed = _kill_when(
                    process, lambda moment=moment, skip=skip: time.monotonic() > skip and MOMENTS[moment](out), draw
                )
            kills += killed
            done = not killed
            after = stored(out)
            assert before.items() <= after.items(), "a complete trial was run again"
            before = after
        assert process.exitcode == 0, log.read_text()
        assert numbers(out) == wanted
        assert "is run again" not in log.read_text()
        assert not list(out.rglob("*.part"))
        assert {path.name for path in out.rglob("*") if path.is_file()} == {
            path.name for path in reference.rglob("*") if path.is_file()
        }
        shutil.rmtree(out)

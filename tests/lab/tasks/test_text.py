import math

import numpy as np
import pytest
import torch

from falloff.lab.findings.evaluation import value
from falloff.lab.metering import Metered
from falloff.lab.progress import Progress
from falloff.lab.tasks.text import LanguageModelling
from falloff.lab.text.corpus import Text
from falloff.lab.text.token_file import Contents


def _metered(predict):
    return Metered(predict, torch.device("cpu"))


HELD_OUT = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
TRAIN = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 100, dtype=np.uint8)


def _task(settings, train=TRAIN, held_out=HELD_OUT):
    contents = Contents((0, len(train)), (0, len(held_out)), len(train), len(held_out), "a split", 1, True, ())
    return LanguageModelling(settings, Text(train, held_out, "a source", contents, "0" * 64))


def _uniform(tokens):
    return torch.zeros(*tokens.shape, 256)


@pytest.mark.parametrize(
    ("protocol", "measures"), [("last-k", ["tail", "all"]), ("non-overlapping", ["all"]), ("sliding", ["tail"])]
)
def test_a_model_that_knows_nothing(toy, protocol, measures):
    task = _task(toy(protocol=protocol))
    outcomes = task.test(_metered(_uniform), Progress())
    assert [(outcome.length, outcome.measure) for outcome in outcomes] == [
        (length, measure) for length in (16, 32, 64, 128) for measure in measures
    ]
    for outcome in outcomes:
        assert value(task.measures[0], outcome.items) == pytest.approx(256.0)


def test_tail_is_the_end_of_the_window(toy):
    """A model that knows the last 16 bytes, because it knows the text, and nothing else."""
    content = HELD_OUT.tobytes()

    def predict(tokens):
        logits = torch.zeros(*tokens.shape, 256)
        for row, logit in zip(tokens, logits, strict=True):
            end = content.index(bytes(row.tolist())) + len(row)
            for index in range(-16, 0):
                logit[index, content[end + 1 + index]] = 1e4
        return logits

    for outcome in _task(toy()).test(_metered(predict), Progress()):
        expected = 0.0 if outcome.measure == "tail" else math.log(256) * (1 - 16 / outcome.length)
        assert outcome.items == pytest.approx([expected] * 8, rel=1e-6, abs=1e-8)


def test_tails_are_the_same_bytes_at_every_length(toy):
    seen = {}

    def predict(tokens):
        seen.setdefault(tokens.shape[1], []).append(tokens[:, -16:])
        return _uniform(tokens)

    settings = toy(windows=12)
    _task(settings).test(_metered(predict), Progress())
    tails = [torch.cat(seen[length]) for length in settings.lengths]
    assert all(torch.equal(tail, tails[0]) for tail in tails)
    assert len(tails[0]) == 12


def test_windows_that_do_not_overlap_cover_the_same_bytes_at_every_length(toy):
    seen = {}

    def predict(tokens):
        seen.setdefault(tokens.shape[1], []).append(tokens.flatten())
        return _uniform(tokens)

    _task(toy(protocol="non-overlapping", windows=8)).test(_metered(predict), Progress())
    texts = [torch.cat(parts) for parts in seen.values()]
    assert texts[0].tolist() == HELD_OUT[: 8 * 128].tolist()
    assert all(torch.equal(text, texts[0]) for text in texts)


def test_sliding_windows_score_each_byte_of_a_stretch_once(toy):
    task = _task(toy(protocol="sliding", windows=20))
    for windows in task.windows.values():
        scored = np.concatenate([np.arange(end - 16, end) for end in windows.ends])
        assert scored.tolist() == list(range(scored[0], scored[0] + 20 * 16))


@pytest.mark.parametrize("size", [129 + 7 * 16, 500, 4999, 100_000])
def test_windows_fit_and_do_not_overlap(toy, size):
    task = _task(toy(windows=50), held_out=np.zeros(size, np.uint8))
    ends = task.windows[128].ends
    assert 8 <= len(ends) <= 50
    assert ends[0] == 129
    assert ends[-1] <= size
    assert np.diff(ends).min() >= 16
    assert task.windows[128].overlap == (1 if size == 100_000 else -(-128 // np.diff(ends).min()))
    if size == 100_000:
        assert len(ends) == 50
        assert np.diff(ends).min() > 128  # where there is room, whole windows do not overlap


def test_progress_adds_up_to_the_work(toy):
    class Counting(Progress):
        total = 0

        def advance(self, work, **rest):
            self.total += work

    progress = Counting()
    task = _task(toy(windows=20))
    task.test(_metered(_uniform), progress)
    assert progress.total == task.work() > 0


def test_a_loss_that_is_not_finite_is_refused(toy):
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"got the loss (nan|inf) at length 16, expected a finite number"):
            _task(toy()).test(_metered(lambda tokens, v=bad: torch.full((*tokens.shape, 256), v)), Progress())


def test_windows_depend_on_seed_and_index_alone(toy):
    task, again = _task(toy()), _task(toy(steps=50))
    assert all(torch.equal(task.training_item(0, k)[0], again.training_item(0, k)[0]) for k in (11, 3, 0))
    assert not all(torch.equal(task.training_item(0, k)[0], task.training_item(1, k)[0]) for k in range(12))
    inputs, targets = task.training_item(0, 0)
    assert torch.equal(inputs[1:], targets[:-1])
    assert not torch.equal(inputs, task.training_item(0, 1)[0])


def test_windows_reach_both_ends(toy):
    short = np.arange(19, dtype=np.uint8)  # a window of 17 can start at 3 positions
    starts = {int(_task(toy(), short).training_item(0, index)[0][0]) for index in range(100)}
    assert starts == {0, 1, 2}
    inputs, targets = _task(toy(), short[:17]).training_item(0, 0)
    assert [*inputs.tolist(), int(targets[-1])] == list(range(17))

import math

import numpy as np
import pytest
import torch

from falloff.lab.evaluation import difference_interval, evaluate, interval, perplexity, window_ends, work
from falloff.lab.progress import Progress

TEXT = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)


def test_a_model_that_knows_nothing(toy):
    scores = evaluate(lambda tokens: torch.zeros(*tokens.shape, 256), toy(), TEXT, Progress())
    assert [score.length for score in scores] == [16, 32, 64, 128]
    for score in scores:
        values = [score.perplexity, score.low, score.high, score.perplexity_tail, score.tail_low, score.tail_high]
        assert values == pytest.approx([256.0] * 6)


def test_tail_is_the_end_of_the_window(toy):
    """A model that knows the last 16 bytes, because it knows the text, and nothing else."""
    content = TEXT.tobytes()

    def predict(tokens):
        logits = torch.zeros(*tokens.shape, 256)
        for row, logit in zip(tokens, logits, strict=True):
            end = content.index(bytes(row.tolist())) + len(row)
            for index in range(-16, 0):
                logit[index, content[end + 1 + index]] = 1e4
        return logits

    scores = evaluate(predict, toy(), TEXT, Progress())
    for score in scores:
        assert score.perplexity_tail == pytest.approx(1.0)
        assert score.perplexity == pytest.approx(256 ** (1 - 16 / score.length))


def test_tails_are_the_same_bytes_at_every_length(toy):
    seen = {}

    def predict(tokens):
        seen.setdefault(tokens.shape[1], []).append(tokens[:, -16:])
        return torch.zeros(*tokens.shape, 256)

    settings = toy(windows=12)
    evaluate(predict, settings, TEXT, Progress())
    tails = [torch.cat(seen[length]) for length in settings.lengths]
    assert all(torch.equal(tail, tails[0]) for tail in tails)
    assert len(tails[0]) == 12


@pytest.mark.parametrize("size", [129 + 7 * 16, 500, 4999, 100_000])
def test_windows_fit_and_do_not_overlap(toy, size):
    ends = window_ends(toy(windows=50), size)
    assert 8 <= len(ends) <= 50
    assert ends[0] == 129
    assert ends[-1] <= size
    assert np.diff(ends).min() >= 16
    if size == 100_000:
        assert len(ends) == 50
        assert np.diff(ends).min() > 128  # where there is room, whole windows do not overlap


def test_too_short_is_refused(toy):
    with pytest.raises(ValueError, match="held_out: got 240 bytes, expected at least 241"):
        window_ends(toy(), 240)


def test_interval_is_the_bootstrap():
    nats = np.random.default_rng(1).normal(2.0, 0.3, 40)
    low, high = interval(nats, 4000, 0)
    assert low < perplexity(nats) < high
    # The normal approximation of the mean's error, which a bootstrap of a mean approaches.
    error = 1.96 * nats.std() / math.sqrt(len(nats))
    assert math.log(low) == pytest.approx(nats.mean() - error, abs=0.012)
    assert math.log(high) == pytest.approx(nats.mean() + error, abs=0.012)
    assert interval(nats, 4000, 0) == (low, high)
    assert interval(nats, 4000, 1) != (low, high)


def test_progress_adds_up_to_the_work(toy):
    class Counting(Progress):
        total = 0

        def advance(self, work, **rest):
            self.total += work

    progress = Counting()
    settings = toy(windows=20)
    evaluate(lambda tokens: torch.zeros(*tokens.shape, 256), settings, TEXT, progress)
    assert progress.total == work(settings) > 0


@pytest.mark.parametrize(("count", "quantile"), [(8, 2.364624), (48, 2.011741), (256, 1.969311)])
def test_difference_is_students_interval_of_pairs(count, quantile):
    """Quantiles of Student's t from tables. What the windows share cancels."""
    draw = np.random.default_rng(3)
    shared, differences = draw.normal(2.0, 5.0, count), draw.normal(0.1, 0.02, count)
    low, high = difference_interval(shared.tolist(), (shared + differences).tolist())
    reach = quantile * differences.std(ddof=1) / math.sqrt(count)
    assert (low, high) == pytest.approx((differences.mean() - reach, differences.mean() + reach), rel=1e-4)


def test_a_loss_that_is_not_finite_is_refused(toy):
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"got the perplexity (nan|inf) at length 16, expected a finite number"):
            evaluate(lambda tokens, v=value: torch.full((*tokens.shape, 256), v), toy(), TEXT, Progress())

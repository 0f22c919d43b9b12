import math

import numpy as np
import pytest
import torch

from falloff.lab.model import build_model
from falloff.lab.progress import Progress
from falloff.lab.training import TrainingWindows, build_optimizer, cpu_threads, deterministic, rate, train

TEXT = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 100, dtype=np.uint8)


def test_windows_depend_on_seed_and_index_alone(toy):
    windows, again = TrainingWindows(TEXT, toy()), TrainingWindows(TEXT, toy(steps=50))
    assert len(windows) == 12
    assert len(again) == 200
    assert all(torch.equal(windows[index], again[index]) for index in (11, 3, 0))
    other = TrainingWindows(TEXT, toy(seed=1))
    assert not all(torch.equal(windows[index], other[index]) for index in range(12))
    assert not torch.equal(windows[0], windows[1])


def test_windows_reach_both_ends(toy):
    short = np.arange(19, dtype=np.uint8)  # a window of 17 can start at 3 positions
    starts = {int(TrainingWindows(short, toy(steps=50))[index][0]) for index in range(100)}
    assert starts == {0, 1, 2}
    exact = TrainingWindows(short[:17], toy())
    assert exact[0].tolist() == list(range(17))


def test_learns(toy):
    settings = toy(steps=80, width=32, batch_size=8, learning_rate=1e-2)
    trained = train(settings, "t5", TEXT, Progress())
    counts = np.unique(TEXT, return_counts=True)[1] / len(TEXT)
    unigram = -(counts * np.log(counts)).sum()
    assert trained.loss < 0.6 * unigram
    assert trained.seconds_per_step > 0


def test_moves_weights_and_bias_and_reports_each_step(toy):
    class Counting(Progress):
        def __init__(self):
            self.steps = []

        def advance(self, work, *, doing, loss=None, tokens_per_second=None):
            self.steps.append((work, doing, loss))

    progress = Counting()
    start = build_model(toy(), "fire")
    trained = train(toy(), "fire", TEXT, progress)
    for (name, before), after in zip(start.named_parameters(), trained.model.parameters(), strict=True):
        assert not torch.equal(before, after), name
    assert [(work, doing) for work, doing, _ in progress.steps] == [(1, f"step {k}/3") for k in (1, 2, 3)]
    assert all(math.isfinite(loss) for _, _, loss in progress.steps)


def test_peak_memory_counts_weights_moments_and_gradients(toy):
    trained = train(toy(), "none", TEXT, Progress())
    weights = 4 * sum(parameter.numel() for parameter in trained.model.parameters())
    assert trained.peak_bytes > 4 * weights
    again = train(toy(), "none", TEXT, Progress())
    assert again.peak_bytes == trained.peak_bytes
    assert train(toy(batch_size=16), "none", TEXT, Progress()).peak_bytes > trained.peak_bytes


def test_bias_has_its_own_rate_and_no_decay(toy):
    model = build_model(toy(), "t5")
    groups = build_optimizer(model, toy(bias_learning_rate=0.5)).param_groups
    assert [len(group["params"]) for group in groups] == [6, 3, 1]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    assert [group["lr"] for group in groups] == [4e-3, 4e-3, 0.5]
    assert groups[2]["params"][0] is model.scheme.weight
    assert len(build_optimizer(build_model(toy(), "none"), toy()).param_groups) == 2


def test_rate_rises_then_falls(toy):
    settings = toy(steps=100)
    rates = [rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rate(0, toy(warmup=0.0)) == 1.0
    assert rate(2, toy(warmup=1.0)) == 1.0


def test_a_loss_that_is_not_finite_is_refused(toy):
    with pytest.raises(
        ValueError, match=r"learning_rate: got 1e\+30, with which the loss of none is (nan|inf) at step [23];"
    ):
        train(toy(learning_rate=1e30), "none", TEXT, Progress())


def test_deterministic_leaves_settings_as_they_were():
    def fail():
        with deterministic():
            assert torch.are_deterministic_algorithms_enabled()
            raise KeyError

    before = torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError):
        fail()
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_number_of_threads_is_restored():
    torch.set_num_threads(2)
    with cpu_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with cpu_threads(None):
        assert torch.get_num_threads() == 2

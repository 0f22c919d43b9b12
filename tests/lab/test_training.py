import math

import numpy as np
import pytest
import torch

from falloff.lab.model import build_model
from falloff.lab.progress import Progress
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks.text import LanguageModelling
from falloff.lab.text.corpus import Text
from falloff.lab.text.token_file import Contents
from falloff.lab.training import build_optimizer, cpu_threads, deterministic, rate, train

TEXT = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 100, dtype=np.uint8)


def _train(settings, scheme, folder, progress=None, save_seconds=1e9):
    contents = Contents((0, len(TEXT)), (0, len(TEXT)), len(TEXT), len(TEXT), "a split", 1, True, ())
    task = LanguageModelling(settings, Text(TEXT, TEXT, "a source", contents, "0" * 64))
    trial = Trial("text", scheme, 0)
    return train(settings, trial, task, TrialFolder(folder, "x"), progress or Progress(), save_seconds)


class Steps(Progress):
    def __init__(self, stop_after=None):
        self.steps, self.notes, self.stop_after = [], [], stop_after

    def advance(self, work, *, doing, loss=None, tokens_per_second=None):
        self.steps.append((work, doing, loss))
        if len(self.steps) == self.stop_after:
            raise KeyboardInterrupt

    def note(self, line):
        self.notes.append(line)


def test_learns(toy, tmp_path):
    settings = toy(steps=80, width=32, batch_size=8, learning_rate=1e-2)
    progress = Steps()
    trained = _train(settings, "t5", tmp_path, progress)
    counts = np.unique(TEXT, return_counts=True)[1] / len(TEXT)
    unigram = -(counts * np.log(counts)).sum()
    assert progress.steps[-1][2] < 0.6 * unigram
    assert trained.seconds_per_step > 0


def test_moves_weights_and_bias_and_reports_each_step(toy, tmp_path):
    progress = Steps()
    start = build_model(toy(), "fire", 0, 256)
    trained = _train(toy(), "fire", tmp_path, progress)
    for (name, before), after in zip(start.named_parameters(), trained.model.parameters(), strict=True):
        assert not torch.equal(before, after), name
    assert [(work, doing) for work, doing, _ in progress.steps] == [(1, f"step {k}/3") for k in (1, 2, 3)]
    assert all(math.isfinite(loss) for _, _, loss in progress.steps)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())  # nothing is stored before its time


@pytest.mark.parametrize("stop_after", [1, 5, 7, 8])
@pytest.mark.parametrize("scheme", ["fire", "forgetting"])
def test_a_training_that_goes_on_from_its_state_gives_the_same_bits(toy, tmp_path, scheme, stop_after):
    settings = toy(steps=8)
    whole = _train(settings, scheme, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(settings, scheme, tmp_path / "stopped", Steps(stop_after), save_seconds=0.0)
    progress = Steps()
    resumed = _train(settings, scheme, tmp_path / "stopped", progress, save_seconds=0.0)
    done = stop_after - 1  # the interrupt came before the state of its own step was stored
    assert [doing for _, doing, _ in progress.steps] == [f"step {k}/8" for k in range(max(done, 1), 9)]
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.model.state_dict().items())
    assert resumed.peak_bytes == whole.peak_bytes


def test_a_trained_model_that_was_not_tested_is_not_trained_again(toy, tmp_path):
    whole = _train(toy(), "fire", tmp_path, save_seconds=0.0)
    progress = Steps()
    again = _train(toy(), "fire", tmp_path, progress)
    assert [doing for _, doing, _ in progress.steps] == ["step 3/3"]
    assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))
    assert (again.seconds_per_step, again.peak_bytes) == (whole.seconds_per_step, whole.peak_bytes)


def test_a_damaged_state_is_named_and_training_begins_anew(toy, tmp_path):
    whole = _train(toy(), "fire", tmp_path, save_seconds=0.0)
    path = tmp_path / "state.safetensors"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-9] ^= 1
    other = content.replace(b'"decides":"x"', b'"decides":"y"')
    for damage in (content[:-8], bytes(flipped), other, b"", content.replace(b'"step":"3"', b'"step":"2"')):
        assert damage != content
        path.write_bytes(damage)
        progress = Steps()
        again = _train(toy(), "fire", tmp_path, progress)
        assert len(progress.steps) == 3
        assert len(progress.notes) == 1
        assert progress.notes[0].startswith(f"training begins anew: {path}: ")
        assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))


def test_peak_memory_counts_weights_moments_and_gradients(toy, tmp_path):
    trained = _train(toy(), "none", tmp_path)
    weights = 4 * sum(parameter.numel() for parameter in trained.model.parameters())
    assert trained.peak_bytes > 4 * weights
    again = _train(toy(), "none", tmp_path)
    assert again.peak_bytes == trained.peak_bytes
    assert _train(toy(batch_size=16), "none", tmp_path).peak_bytes > trained.peak_bytes


def test_bias_has_its_own_rate_and_no_decay(toy):
    model = build_model(toy(), "t5", 0, 256)
    groups = build_optimizer(model, toy(bias_learning_rate=0.5)).param_groups
    assert [len(group["params"]) for group in groups] == [6, 3, 1]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
    assert [group["lr"] for group in groups] == [4e-3, 4e-3, 0.5]
    assert groups[2]["params"][0] is model.scheme.weight
    assert len(build_optimizer(build_model(toy(), "none", 0, 256), toy()).param_groups) == 2


def test_rate_rises_then_falls(toy):
    settings = toy(steps=100)
    rates = [rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rate(0, toy(warmup=0.0)) == 1.0
    assert rate(2, toy(warmup=1.0)) == 1.0


def test_a_loss_that_is_not_finite_is_refused(toy, tmp_path):
    with pytest.raises(
        ValueError, match=r"learning_rate: got 1e\+30, with which the loss of none, text, seed 0 is (nan|inf) at step [23];"
    ):
        _train(toy(learning_rate=1e30), "none", tmp_path)


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

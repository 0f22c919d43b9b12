import math
import sys

import pytest

from falloff.lab.compare import compare_schemes
from falloff.lab.trackers import check_trackers

LOGGED = ["train/loss", "train/learning_rate", "test/tail/16", "test/all/16"]


def _run(toy, text_path, tmp_path, *trackers):
    settings = toy(text=(str(text_path),), schemes=("t5",), steps=12, length_multiples=(1,), learning_rate=0.25)
    return compare_schemes(settings, tmp_path / "run", trackers=trackers)


def test_tensorboard_shows_the_training_and_the_tests(toy, text_path, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    comparison = _run(toy, text_path, tmp_path, "tensorboard")
    events = accumulators.EventAccumulator(str(tmp_path / "run/trials/text/t5/0/tensorboard"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in LOGGED}
    assert [step for step, _ in found["train/loss"]] == [10, 12]
    assert all(1 < loss < 10 for _, loss in found["train/loss"])
    rates = [value for _, value in found["train/learning_rate"]]
    assert 0.25 > rates[0] > rates[1] > 0.025  # the cosine falls from 0.25 to a tenth of it
    for line in comparison.results:
        [(step, value)] = found[f"test/{line['measure']}/16"]
        assert step == 12
        assert math.isclose(value, line["value"], rel_tol=1e-6)  # it stores float32


def test_nothing_is_tracked_by_default(toy, text_path, tmp_path):
    _run(toy, text_path, tmp_path)
    assert {path.name for path in (tmp_path / "run/trials/text/t5/0").iterdir()} == {"result.json", "model.safetensors"}


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_tracker_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="tracker: got 'excel', expected names among tensorboard, wandb, trackio"):
        check_trackers(("excel",))
    with pytest.raises(ValueError, match="trackers: got 'wandb', expected a tuple of names"):
        check_trackers("wandb")
    monkeypatch.setitem(sys.modules, "trackio", sys)
    with pytest.raises(ValueError, match="tracker: got 'trackio' twice"):
        check_trackers(("trackio", "trackio"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="wandb is not installed: pip install wandb"):
        check_trackers(("wandb",))

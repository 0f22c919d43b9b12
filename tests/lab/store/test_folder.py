import json

import pytest
import torch

from falloff.lab.config import Settings
from falloff.lab.store.folder import RunFolder, check_same
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial


def _config(**changes):
    settings = Settings.of_preset("quick", device="cpu", **changes)
    return {
        "format": 2,
        "settings": settings.to_json(),
        "tasks": {"text": {"needs_text": True, "vocabulary": 256, "measures": []}},
        "text": {"sha256": "abc"},
        "versions": {"torch": "2.13.0", "falloff": "0.1.0"},
        "machine": {"cpu": "a", "threads": 2, "gpu": None},
        "git_commit": None,
    }


def test_new_and_empty_folders_are_free(tmp_path):
    RunFolder(tmp_path).check_free()
    RunFolder(tmp_path / "new" / "deep").check_free()
    (tmp_path / "config.json.part").write_text("a kill left this")
    RunFolder(tmp_path).check_free()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="which holds other files"):
        RunFolder(tmp_path).check_free()
    with pytest.raises(ValueError, match="which is not a folder"):
        RunFolder(tmp_path / "thesis.tex").check_usable()
    run = RunFolder(tmp_path / "run")
    run.write_config(_config())
    with pytest.raises(ValueError, match=r"which holds a run, expected .* --resume goes on .* another --out"):
        run.check_free()


def test_config_comes_back(tmp_path):
    run = RunFolder(tmp_path)
    assert run.stored_config() is None
    run.write_config(_config())
    assert run.stored_config() == _config()


def test_a_config_that_changed_since_it_was_written_is_refused(tmp_path):
    """Another seed in a config that is JSON all the same would mix two runs."""
    run = RunFolder(tmp_path)
    run.write_config(_config())
    written = run.config_path.read_text()
    for old, new in (
        ('"batch_size": 16', '"batch_size": 17'),
        ('"sha256": "abc"', '"sha256": "abd"'),
        ('"rope"', '["rope"]'),
        ('"steps": 200', '"steps": null'),
        ('"steps": 200', '"steps": "200"'),
        ('"steps": 200', '"steps": 1e999'),
        ('"steps": 200', '"steps": NaN'),
        ('"steps": 200', '"steps": ' + "[" * 200_000),
        ('"threads": 2', '"threads": ' + "9" * 5000),
        ('"sha256"', '"sha255"'),
    ):
        assert old in written
        run.config_path.write_text(written.replace(old, new))
        with pytest.raises(ValueError, match=r"out: got .*config.json, expected the config.json of a run: .") as caught:
            run.stored_config()
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("lost", ["versions", "machine", "settings"])
def test_a_config_whose_parts_are_missing_or_of_another_kind_is_refused(tmp_path, lost):
    """Even where its checksum fits, as in a run of another version."""
    for content in (None, [], 3, "x"):
        run = RunFolder(tmp_path)
        run.write_config({**_config(), lost: content})
        with pytest.raises(ValueError, match=r"expected the config.json of a run"):
            run.stored_config()
    run.write_config({name: value for name, value in _config().items() if name != lost})
    with pytest.raises(ValueError, match=f"expected the config.json of a run: it has no '{lost}'"):
        run.stored_config()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"settings": {}}', '{"settings": 3}', "\0\xff"])
def test_a_foreign_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"out: got .*config.json, expected the config.json of a run"):
        RunFolder(tmp_path).stored_config()


def test_a_run_of_another_version_is_refused(tmp_path):
    for other in (1, 3, None):
        RunFolder(tmp_path).write_config(_config() | {"format": other})
        with pytest.raises(
            ValueError, match=r"expected the config.json of a run: it was written by another version of falloff"
        ):
            RunFolder(tmp_path).stored_config()


def test_a_folder_of_a_trial_has_a_name_that_file_systems_take(tmp_path):
    """At most 255 bytes, also for a path of letters that take several."""
    config = _config()
    trial = Trial("text", "\u6f22" * 60 + "/" + "\u6f22" * 60 + "/own.py:Mine", 0)
    folder = RunFolder(tmp_path).trial(trial, config)
    folder.write_state(1, {"weight": torch.zeros(2)})
    assert folder.state()[0] == 1


def test_a_trial_is_stored_whole(tmp_path):
    trial = TrialFolder(tmp_path / "trial", "x")
    assert trial.result() is None
    weights = {"weight": torch.arange(6.0).view(2, 3).T}  # not contiguous
    trial.write_state(3, weights)
    assert trial.result() is None
    trial.write_result(weights, {"scheme": "t5"})
    assert trial.result()["scheme"] == "t5"
    assert torch.equal(trial.model()["weight"], weights["weight"])
    assert {path.name for path in trial.path.iterdir()} == {"result.json", "model.safetensors"}


def test_a_result_of_other_settings_is_not_taken(tmp_path):
    TrialFolder(tmp_path, "x").write_result({}, {"scheme": "t5"})
    with pytest.raises(ValueError, match=r"result.json: it is of other settings"):
        TrialFolder(tmp_path, "y").result()


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    trial = TrialFolder(tmp_path, "x")
    trial.write_result({}, {"scheme": "t5"})
    before = trial.result()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        trial.write_result({}, {"scheme": "alibi"})
    assert trial.result() == before


def test_the_state_comes_back(tmp_path):
    trial = TrialFolder(tmp_path, "x")
    assert trial.state() is None
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor([2**53 + 1]), "c": torch.tensor(1.5, dtype=torch.bfloat16)}
    trial.write_state(7, tensors)
    step, found = trial.state()
    assert step == 7
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_missing_and_damaged_models_are_refused(tmp_path):
    trial = TrialFolder(tmp_path, "x")
    with pytest.raises(ValueError, match=r"out: got .*model.safetensors, expected the model of a trial"):
        trial.model()
    trial.write_result({"weight": torch.ones(100)}, {})
    trial.model_path.write_bytes(trial.model_path.read_bytes()[:50])
    with pytest.raises(ValueError, match="expected the model of a trial"):
        trial.model()


def test_what_decides_results_must_be_the_same():
    check_same(_config(), _config())
    check_same(_config(), _config(schemes=("rope",), text=("elsewhere",), seeds=(3,)))
    cases = [
        (_config(steps=7), "steps was 200 and is 7"),
        (_config(train_length=32), "train_length was 64 and is 32"),
        ({**_config(), "text": {"sha256": "def"}}, "text was 'abc' and is 'def'"),
        ({**_config(), "versions": {"torch": "3.0", "falloff": "0.1.0"}}, "torch was '2.13.0' and is '3.0'"),
        ({**_config(), "machine": {"cpu": "a", "threads": 1, "gpu": None}}, "threads was 2 and is 1"),
    ]
    for now, message in cases:
        with pytest.raises(ValueError, match=f"resume: got another run than the folder's .*{message}"):
            check_same(json.loads(json.dumps(_config())), now)

import dataclasses
import json

import pytest
import torch

from falloff.lab.config import BASELINES, DEFAULT_SCHEMES, KNOWN_SCHEMES, Settings, check_device
from falloff.lab.presets import PRESETS
from falloff.schemes import SCHEMES

HOSTILE = [
    ({"schemes": ("t6",)}, "schemes: got 't6', expected names among alibi"),
    ({"schemes": ("t5", "alibi", "t5")}, "schemes: got 't5' twice"),
    ({"schemes": ()}, "schemes: got"),
    ({"schemes": ("",)}, "schemes: got ''"),
    ({"schemes": "t5"}, "schemes: got 't5', expected names"),
    ({"train_length": 7}, "train_length: got 7, expected a whole number from 8"),
    ({"train_length": 2**20}, "train_length: got 1048576"),
    ({"train_length": 64.0}, "train_length: got 64.0"),
    ({"train_length": True}, "train_length: got True"),
    ({"steps": 1}, "steps: got 1, expected a whole number from 2"),
    ({"steps": -5}, "steps: got -5"),
    ({"steps": "10"}, "steps: got '10'"),
    ({"seeds": (-1,)}, "seeds: got -1"),
    ({"seeds": (2**32,)}, "seeds: got 4294967296"),
    ({"seeds": ()}, r"seeds: got \(\), expected whole numbers from 0"),
    ({"seeds": (1, 1)}, "seeds: got 1 twice"),
    ({"seeds": 3}, "seeds: got 3, expected whole numbers"),
    ({"seeds": (*range(200_000), 199_999)}, "seeds: got 199999 twice"),  # in linear time
    ({"tasks": ("chess",)}, "tasks: got 'chess', expected names among text"),
    ({"tasks": ("text", "text")}, "tasks: got 'text' twice"),
    ({"tasks": ()}, "tasks: got"),
    ({"tasks": (["text"],)}, r"tasks: got \['text'\]"),
    ({"length_multiples": (2, 1)}, r"length_multiples: got \(2, 1\), expected them in rising order"),
    ({"length_multiples": (0,)}, "length_multiples: got 0"),
    ({"length_multiples": (2**15,)}, "length_multiples: got 32768, expected a whole number from 1 to 16,384"),
    ({"protocol": "last"}, "protocol: got 'last', expected one of last-k, non-overlapping, sliding"),
    ({"tail_length": 0}, "tail_length: got 0"),
    ({"tokenizer": ""}, "tokenizer: got ''"),
    ({"compile": 1}, "compile: got 1, expected True or False"),
    ({"batch_size": 0}, "batch_size: got 0"),
    ({"layers": 0}, "layers: got 0"),
    ({"heads": 0}, "heads: got 0"),
    ({"width": 66}, "width: got 66, expected a multiple of 2"),
    ({"width": 4}, "width: got 4"),
    ({"windows": 7}, "windows: got 7"),
    ({"resamples": 1}, "resamples: got 1"),
    ({"text_limit": 0}, "text_limit: got 0"),
    ({"learning_rate": 0.0}, "learning_rate: got 0.0, expected a number above 0"),
    ({"learning_rate": float("nan")}, "learning_rate: got nan"),
    ({"bias_learning_rate": float("inf")}, "bias_learning_rate: got inf"),
    ({"clip_norm": -1.0}, "clip_norm: got -1.0"),
    ({"weight_decay": -0.1}, "weight_decay: got -0.1"),
    ({"warmup": 1.5}, "warmup: got 1.5, expected a number"),
    ({"text": ("",)}, r"text: got \('',\), expected the paths of files or folders"),
    ({"text": ("a", "  ")}, "text: got"),
    ({"text": "abc"}, "text: got 'abc', expected the paths"),
    ({"text": (3,)}, "text: got"),
    ({"schemes": (["t5"],)}, r"schemes: got \['t5'\]"),
    ({"learning_rate": 10**400}, "learning_rate: got 1000"),
    ({"text": ("a",), "dataset": "b"}, "dataset: got 'b' together with text"),
    ({"dataset": " "}, "dataset: got ' '"),
    ({"device": "tpu"}, "device: got 'tpu', expected 'auto', 'cpu'"),
    ({"device": "mps"}, "device: got 'mps'"),
    ({"device": "cpu:1"}, "device: got 'cpu:1'"),
    ({"device": "cuda:99"}, "device: got 'cuda:99'.*CUDA devices"),
    ({"device": 0}, "device: got 0"),
    ({"threads": 0}, "threads: got 0"),
    ({"precision": "fp16"}, "precision: got 'fp16'"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("changes", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings.of_preset("quick", **changes)


def test_refuses_an_unknown_preset():
    with pytest.raises(ValueError, match=r"preset: got 'huge', expected one of quick, small, gpu"):
        Settings.of_preset("huge")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_survive_json(preset):
    settings = Settings.of_preset(preset, text=("a", "b"))
    assert settings.dataset is None  # a text that is given takes the place of the preset's
    assert settings.schemes == PRESETS[preset].settings.get("schemes", DEFAULT_SCHEMES)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_settings_of_other_versions_are_refused():
    stored = Settings.of_preset("quick").to_json()
    with pytest.raises(ValueError, match="settings: got other names than expected: colour"):
        Settings.from_json({**stored, "colour": 1})
    del stored["steps"]
    with pytest.raises(ValueError, match="steps"):
        Settings.from_json(stored)


@pytest.mark.usefixtures("unchecked")
def test_a_stored_preset_is_a_name():
    with pytest.raises(ValueError, match=r"preset: got \('quick',\), expected a name"):
        Settings.from_json({**Settings.of_preset("quick").to_json(), "preset": ["quick"]})


def test_none_changes_nothing():
    settings = Settings.of_preset("quick", steps=None, seeds=None)
    assert settings == Settings.of_preset("quick")
    assert settings.changed(steps=None) == settings
    assert settings.changed(steps=7).steps == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 3


def test_every_scheme_is_compared_by_default_but_those_that_need_content():
    without = {name for name, scheme in SCHEMES.items() if not scheme.needs_content}
    assert set(DEFAULT_SCHEMES) == without | set(BASELINES)
    assert set(KNOWN_SCHEMES) == set(SCHEMES) | set(BASELINES)
    assert DEFAULT_SCHEMES[-2:] == BASELINES


def test_lengths(toy):
    assert toy().lengths == (16, 32, 64, 128)
    assert toy().tail == 16
    assert toy(train_length=100).tail == 64
    assert toy().least_tokens == 129 + 7 * 16
    assert toy(protocol="non-overlapping").least_tokens == 8 * 128 + 1
    assert toy(length_multiples=(1, 3)).lengths == (16, 48)


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert check_device("auto") == torch.device(expected)
    if expected == "cpu":
        assert Settings.of_preset("gpu").precision == "fp32"

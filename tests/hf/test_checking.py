"""The parity of every family, by `falloff hf check`: in another process, without the shape checks of the tests."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from falloff.hf import checking, small_models


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "falloff", "hf", "check", *arguments], capture_output=True, text=True, check=False
    )


def test_every_family_is_green():
    done = command("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["versions", "budgets", "families"]
    assert [family["family"] for family in found["families"]] == list(small_models.MODELS)
    for family in found["families"]:
        assert family["green"], family
        assert 0 < family["logits"] <= found["budgets"]["logits"]  # 0 would mean a model compared with itself
        assert family["loss"] <= found["budgets"]["logits"]


@pytest.mark.parametrize("family", ["t5", "bloom"])
def test_labels_are_those_of_trainer(family):
    """Each token has a label, but not padding, nor a first token that a row predicts which sees no token."""
    model = small_models.MODELS[family]()
    batches = checking._batches(model)
    assert list(batches) == list(checking.SIDES)
    for side, batch in batches.items():
        if family == "bloom":
            labels = batch["input_ids"].clone()
            labels[batch.get("attention_mask", torch.ones_like(labels)) == 0] = -100
            if side == "left":
                labels[1, 5] = labels[2, 13] = -100
            assert torch.equal(batch["labels"], labels)
        assert ("attention_mask" in batch) == (side != "none")
    between = batches["between"]["attention_mask"]
    assert between[:, 0].all()
    assert between[:, -1].all()
    assert not between.all()


def test_for_people():
    done = command("--family", "bloom")
    assert done.returncode == 0
    assert "bloom" in done.stdout
    assert "green" in done.stdout


def test_an_unknown_family():
    done = command("--family", "gpt2")
    assert done.returncode == 2
    assert done.stderr.startswith("falloff: --family: got 'gpt2', expected one of t5, byt5")


def test_beyond_a_budget_is_not_green():
    parity = checking.Parity("t5", "T5", 1e-7, 1e-7, "w", 1e-7, 1e-7, tokens=True, beams=True, bfloat16=1.0)
    assert parity.green
    assert not checking.Parity(
        **{**parity.__dict__, "logits": checking._error(torch.ones(2), torch.tensor([1.0, torch.nan]))}
    ).green
    worse = {
        "logits": 3e-5,
        "gradients": 2e-4,
        "loss": 3e-5,
        "generation": 3e-5,
        "tokens": False,
        "beams": False,
        "bfloat16": 2.1,
    }
    for name, value in worse.items():
        assert not checking.Parity(**{**parity.__dict__, name: value}).green

"""The suite `hf`, with models small enough for a test."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from falloff.bench import memory, models
from falloff.bench.progress import Progress
from falloff.bench.verify import WrongResultError

SIZES = {"vocab_size": 1000, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def tiny(shape, training):
    if shape == "bloom":
        return transformers.BloomModel(transformers.BloomConfig(vocab_size=1000, hidden_size=16, n_layer=1, n_head=2))
    config = transformers.T5Config(**SIZES, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config) if training else transformers.T5EncoderModel(config)


CASES = [
    models.ModelCase("a-encoder", "encoder", "encode", "t5", 1, 30, ("eager", "sdpa")),
    models.ModelCase("a-step", "step", "train", "t5", 2, 30, ("eager", "sdpa")),
    models.ModelCase("a-prefill", "prefill", "prefill", "bloom", 1, 30, ("eager",)),
    models.ModelCase("a-decode", "decode", "decode", "bloom", 1, 30, ("eager", "sdpa")),
]


def test_all_kinds_of_work(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "model_of", tiny)
    monkeypatch.setattr(models, "CASES", CASES)
    result = models.run_suite("a-", 2, tmp_path / "out.json", Progress())
    assert json.loads((tmp_path / "out.json").read_text()) == result
    assert [case["name"] for case in result["cases"]] == [case.name for case in CASES]
    for case in result["cases"]:
        assert case["turns"] == 2
        assert case["errors"][models.OURS] < 1e-5
        assert case["ratio"]["eager"] == pytest.approx(
            case["milliseconds"]["eager"]["median"] / case["milliseconds"][models.OURS]["median"]
        )
    assert "sdpa" in result["cases"][-1]["skipped"]  # BLOOM has eager attention alone
    assert len(models.tables(result)) >= 2


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.setattr(models, "model_of", tiny)
    prepared = models.prepared

    def off(model, contestant):
        made = prepared(model, contestant)
        if contestant == models.OURS:
            with torch.no_grad():
                made.encoder.block[0].layer[0].SelfAttention.v.weight.mul_(1.1)
        return made

    monkeypatch.setattr(models, "prepared", off)
    with pytest.raises(WrongResultError, match="a-encoder: falloff is off by"):
        models.measure(CASES[0], 2, lambda share: None)


def test_an_unknown_case():
    with pytest.raises(ValueError, match=r"^--cases: got 'gpt', which is part of no name"):
        models.run_suite("gpt", 2, None, Progress())


@pytest.mark.skipif(memory.unmeasurable() is not None, reason="the peak of a process cannot be measured here")
def test_a_fused_encoder_takes_what_a_model_without_attention_takes():
    """Without gradients: below 1.5 times that; a dense bias alone would be H N N."""
    case = replace(models.MEMORY, length=4096, others=(models.NO_SCORES,))
    grown = models.measure_memory(case)["memory"]
    assert grown[models.OURS] < 1.5 * grown[models.NO_SCORES]
    assert grown[models.OURS] < 8 * 4096 * 4096 * 4

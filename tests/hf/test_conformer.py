"""Wav2Vec2-Conformer: every frame, texts longer than its first table of positions, and what is left alone."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

from falloff import hf
from falloff.hf import checking, small_models


def model_of(kind="relative", **more):
    torch.manual_seed(0)
    return small_models._speech(
        "Wav2Vec2Conformer", position_embeddings_type=kind, conv_depthwise_kernel_size=5, **more
    ).eval()


@pytest.mark.parametrize("most", [40, 5000])
def test_every_frame(most):
    """Of a text with padding, of several lengths."""
    plain = model_of(max_source_positions=most)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "pos_bias_" in name:
                parameter.normal_()
    fused = copy.deepcopy(plain)
    assert len(hf.fuse(fused).fused) == 3
    batch = checking._batch(plain, "right")
    del batch["labels"]
    for samples in (30, 300, 710):
        given = {name: tensor[:, :samples].contiguous() for name, tensor in batch.items()}
        with torch.no_grad():
            want, got = (model.wav2vec2_conformer(**given).last_hidden_state for model in (plain, fused))
        assert checking._error(want, got) <= checking.LOGITS


@pytest.mark.parametrize(("kind", "reason"), [("rotary", "it has rotary positions"), (None, "it has no positions")])
def test_other_positions_are_left_alone(kind, reason):
    with pytest.raises(ValueError, match=reason):
        hf.fuse(model_of(kind))


def test_another_implementation_is_not_mixed_in():
    fused = model_of()
    hf.fuse(fused)
    fused.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"^attn_implementation: got 'eager' for a fused model"):
        fused(**checking._batch(fused, "right"))

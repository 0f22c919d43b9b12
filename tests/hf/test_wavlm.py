"""WavLM: its buckets by offset beside Transformers' matrix, both kinds of encoder, frames of padding."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from falloff import hf
from falloff.hf import checking, small_models

# Transformers passes a boolean mask beside a bias of real numbers to torch, which warns.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")


def models(**more):
    torch.manual_seed(0)
    plain = small_models._speech("WavLM", **{"num_buckets": 16, "max_bucket_distance": 40} | more).eval()
    with torch.no_grad():
        plain.wavlm.encoder.layers[0].attention.rel_attn_embed.weight.normal_()
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    return plain, fused


@pytest.mark.parametrize(
    ("buckets", "largest", "length"),
    [
        (320, 800, 1),
        (320, 800, 900),
        (16, 40, 9),
        (16, 40, 900),
        (64, 12, 15),
    ],
)
def test_values_by_offset_are_those_of_the_matrix(buckets, largest, length):
    plain, fused = models(num_buckets=buckets, max_bucket_distance=largest)
    matrix = plain.wavlm.encoder.layers[0].attention.compute_bias(length, length)
    values = fused.wavlm.encoder.layers[0].attention._by_offset(length, torch.device("cpu"))
    index = torch.arange(length)[:, None] - torch.arange(length) + values.shape[1] // 2
    assert torch.equal(values[:, index.clamp(0, values.shape[1] - 1)], matrix)
    assert values.shape[1] <= 2 * length + 1


@pytest.mark.parametrize("stable", [False, True])
def test_every_frame(stable):
    """Frames of padding attend to the frames of the text, as in Transformers."""
    more = {"do_stable_layer_norm": stable, "feat_extract_norm": "layer" if stable else "group"}
    plain, fused = models(**more)
    batch = checking._batch(plain, "right")
    del batch["labels"]
    with torch.no_grad():
        want, got = (model.wavlm(**batch).last_hidden_state for model in (plain, fused))
    assert checking._error(want, got) <= checking.LOGITS


def test_layers_that_are_dropped_while_training():
    """The bias passes by a layer that is skipped."""
    _, fused = models(layerdrop=0.5)
    batch = checking._batch(fused, "right")
    for _ in range(4):
        loss = fused.train()(**batch).loss
        loss.backward()
        assert loss.isfinite()
    assert fused.wavlm.encoder.layers[0].attention.rel_attn_embed.weight.grad.abs().max() > 0


def test_other_models_of_the_family():
    config = models()[0].config
    fused = transformers.WavLMForCTC(config)
    assert len(hf.fuse(fused).fused) == 3

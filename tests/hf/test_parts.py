"""Models of which a part is fused: UDOP's and Pix2Struct's decoders, with encoders that stay as they are."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

from falloff import hf
from falloff.hf import small_models
from falloff.hf.families.fused import Fused


@pytest.mark.parametrize(
    ("family", "fused", "reason"),
    [
        ("udop", 4, "two of its three biases depend on bounding boxes, not on the offset"),
        ("pix2struct", 4, "no additive positional bias that falloff knows"),
    ],
)
def test_the_encoder_is_left_alone(family, fused, reason):
    torch.manual_seed(0)
    plain = small_models.MODELS[family]().eval()
    model = copy.deepcopy(plain)
    report = hf.fuse(model)
    assert len(report.fused) == fused
    assert {why for _, why in report.left_alone.values()} == {reason}
    assert not any(isinstance(module, Fused) for module in model.encoder.modules())
    given = small_models.inputs(plain, 2, 30)
    with torch.no_grad():
        want, got = (each.encoder(**given).last_hidden_state for each in (plain, model))
    assert torch.equal(got, want)


def test_sinks_take_their_share():
    """Inkling-2 with larger sinks is another model, and both have the same."""
    torch.manual_seed(0)
    plain = small_models.MODELS["inkling2"]().eval()
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    ids = torch.randint(2, 80, (2, 40))
    with torch.no_grad():
        with_sinks = fused(ids, use_cache=False).logits
        for model in (plain, fused):
            for layer in model.model.layers:
                layer.self_attn.sink_proj.weight.mul_(8.0)
        want, got = (model(ids, use_cache=False).logits for model in (plain, fused))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert (got - with_sinks).abs().max() > 0.01

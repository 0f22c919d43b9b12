"""One-token steps with a cache give the attention of the whole text at once, in every dtype."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from falloff import hf
from falloff.hf import checking, small_models

STEPS = 5
GENERATING = [name for name in small_models.MODELS if not name.startswith(("deberta", "conformer", "wavlm"))]


def model_of(family):
    if family == "bloom":  # long enough that bfloat16 cannot hold slope * position: eager's error is 13 times ours
        config = transformers.BloomConfig(vocab_size=80, hidden_size=64, n_layer=2, n_head=8, initializer_range=0.2)
        return transformers.BloomForCausalLM(config), 1900
    return small_models.MODELS[family](), 60 if family == "switch" else 400  # its experts drop tokens of longer texts


def last_logits(model, ids, mask, *, steps):
    """The logits of the last STEPS tokens: one step for each, or all at once."""
    decoder, encoded = model.config.is_encoder_decoder, {}
    tokens = "decoder_input_ids" if decoder else "input_ids"
    if decoder:
        torch.manual_seed(1)
        given = small_models.inputs(model, 1, 30)
        given = {name: ids[:, :30] if name == "input_ids" else tensor.to(model.dtype) for name, tensor in given.items()}
        encoded["encoder_outputs"] = model.get_encoder()(**given)
    masked = "decoder_attention_mask" if decoder else "attention_mask"

    def run(start, stop, **more):
        if mask is not None:
            more[masked] = mask[:, :stop]
        return model(**encoded, **{tokens: ids[:, start:stop]}, **more)

    length = ids.shape[1]
    if not steps:
        return run(0, length, use_cache=False).logits[:, -STEPS:]
    cache = run(0, length - STEPS, use_cache=True).past_key_values
    return torch.cat([run(i, i + 1, past_key_values=cache, use_cache=True).logits for i in range(length - STEPS, length)], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["none", "between tokens"])
@pytest.mark.parametrize("family", GENERATING)
def test_steps_equal_the_whole(family, padding, dtype):
    """Both are compared with Transformers in float64: a step that rounds its bias, as eager does, has a larger error."""
    torch.manual_seed(0)
    model, length = model_of(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in checking.BIASES):
                parameter.normal_()
    model = checking.in_dtype(model.eval(), dtype)
    ids, mask = torch.randint(2, 80, (1, length)), None
    if padding != "none":
        mask = torch.ones_like(ids)
        # Less than Inkling's window, or in float64 eager attention makes NaN of rows that see nothing.
        mask[0, length // 2 : length // 2 + (600 if family == "bloom" else 10)] = 0
    fused = copy.deepcopy(model)
    hf.fuse(fused)
    with torch.no_grad():
        exact = last_logits(checking.in_dtype(model, torch.float64), ids, mask, steps=False).double()
        whole, steps = (
            (last_logits(fused, ids, mask, steps=steps).double() - exact).square().mean().sqrt() for steps in (False, True)
        )
    assert steps <= 2 * whole
    assert whole <= (1e-5 if dtype == torch.float32 else 0.06) * exact.square().mean().sqrt()

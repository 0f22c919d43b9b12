"""Oracles that this project did not write: the biases of Hugging Face Transformers."""

import pytest
import torch
from transformers import T5Config
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from falloff import ALiBi, T5Bias, t5_bucket

SETTINGS = [(32, 128), (32, 64), (16, 20), (64, 512), (8, 9), (10, 100), (36, 200)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), SETTINGS)
def test_t5_buckets(num_buckets, max_distance, bidirectional):
    offsets = torch.arange(-3 * max_distance, 3 * max_distance)
    theirs = T5Attention._relative_position_bucket(-offsets, bidirectional, num_buckets, max_distance)
    assert torch.equal(t5_bucket(offsets, num_buckets, max_distance, bidirectional), theirs)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), SETTINGS)
def test_t5_bias(num_buckets, max_distance, decoder):
    config = T5Config(
        num_heads=4,
        d_kv=8,
        d_model=32,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
        is_decoder=decoder,
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    torch.nn.init.normal_(theirs.relative_attention_bias.weight)
    ours = T5Bias(4, num_buckets, max_distance, bidirectional=not decoder)
    ours.load_state_dict(theirs.relative_attention_bias.state_dict())
    assert torch.equal(ours.dense(150, 150), theirs.compute_bias(150, 150)[0])
    assert torch.equal(ours.dense(1, 150), theirs.compute_bias(1, 150, past_seen_tokens=149)[0])


@pytest.mark.parametrize("num_heads", range(1, 65))
def test_alibi_of_bloom_and_mpt(num_heads):
    length = 40
    ours = ALiBi(num_heads).dense(1, length)[:, 0]
    # Both leave out a constant of the row, which cancels in softmax: compare after taking the last key's bias as 0.
    bloom = build_alibi_tensor(torch.ones(1, length), num_heads, torch.float32).view(num_heads, length)
    mpt = build_mpt_alibi_tensor(num_heads, length)[:, 0]
    for theirs in (bloom, mpt):
        torch.testing.assert_close(ours, theirs - theirs[:, -1:], rtol=1e-6, atol=2e-6)

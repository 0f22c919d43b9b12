"""Oracles that this project did not write: the biases of Hugging Face Transformers."""

import pytest
import torch
from transformers import DebertaV2Config, T5Config, Wav2Vec2BertConfig, Wav2Vec2ConformerConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert import modeling_wav2vec2_bert as wav2vec2_bert
from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as conformer
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from falloff import ALiBi, DisentangledBias, GatedT5Bias, ShawBias, T5Bias, TransformerXLBias, attention, t5_bucket

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


def test_shaw_of_wav2vec2_bert():
    config = Wav2Vec2BertConfig(
        hidden_size=16,
        num_attention_heads=2,
        left_max_position_embeddings=5,
        right_max_position_embeddings=2,
        position_embeddings_type="relative_key",
    )
    theirs = wav2vec2_bert.Wav2Vec2BertSelfAttention(config)
    ours = ShawBias(2, head_dim=8, max_distance=5, future_distance=2)
    ours.load_state_dict({"distance_embedding.weight": theirs.distance_embedding.weight})
    query = torch.randn(2, 2, 11, 8)
    _, expected = wav2vec2_bert._apply_relative_key_position_encoding(theirs, query, query)
    torch.testing.assert_close(ours.dense(11, 11, query=query), expected)


def test_transformer_xl_of_wav2vec2_conformer():
    config = Wav2Vec2ConformerConfig(hidden_size=16, num_attention_heads=2, max_source_positions=50)
    theirs = conformer.Wav2Vec2ConformerSelfAttention(config)
    ours = TransformerXLBias(2, head_dim=8, bidirectional=True)
    for parameter in (theirs.pos_bias_u, theirs.pos_bias_v):
        torch.nn.init.normal_(parameter)
    ours.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if "pos" in name})
    query = torch.randn(2, 2, 11, 8)
    waves = conformer.Wav2Vec2ConformerRelPositionalEmbedding(config)(torch.zeros(1, 11, 16))
    expected_query, expected = conformer._apply_relative_position_encoding(theirs, query, query, waves)
    torch.testing.assert_close(ours.content_query(query), expected_query)
    torch.testing.assert_close(ours.dense(11, 11, query=query), expected, rtol=1e-4, atol=1e-5)


WAVLM = [(320, 800), (32, 128), (64, 256), (320, 1000), (100, 400), (16, 40), (128, 512)]


@pytest.mark.parametrize(("num_buckets", "max_distance"), WAVLM)
def test_buckets_of_wavlm(num_buckets, max_distance):
    offsets = torch.arange(-20_000, 20_001)
    theirs = WavLMAttention(16, 2, num_buckets=num_buckets, max_distance=max_distance)._relative_positions_bucket(-offsets)
    assert torch.equal(GatedT5Bias(2, 8, num_buckets, max_distance).rel_attn_embed.bucket(offsets), theirs)


def test_gated_t5_of_wavlm():
    """A whole layer: what its attention returns."""
    theirs = WavLMAttention(16, 2, num_buckets=16, max_distance=20).eval()
    torch.nn.init.normal_(theirs.rel_attn_embed.weight)
    torch.nn.init.uniform_(theirs.gru_rel_pos_const)
    ours = GatedT5Bias(2, 8, num_buckets=16, max_distance=20)
    ours.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if "rel_" in name})
    hidden = torch.randn(2, 11, 16)
    expected, _, _ = theirs(hidden)
    query, key, value = (
        project(hidden).view(2, 11, 2, 8).transpose(1, 2) for project in (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    )
    out = attention(query, key, value, ours(hidden))
    torch.testing.assert_close(theirs.out_proj(out.transpose(1, 2).flatten(2)), expected, rtol=1e-4, atol=1e-5)


DEBERTA = [(256, 512), (128, 512), (64, 256), (32, 128), (256, 1024), (50, 300), (512, 1024), (16, 64), (256, 2048), (4, 9)]


@pytest.mark.parametrize(("position_buckets", "max_relative_positions"), DEBERTA)
def test_buckets_of_deberta(position_buckets, max_relative_positions):
    offsets = torch.arange(-20_000, 20_001)
    theirs = deberta.make_log_bucket_position(offsets, position_buckets, max_relative_positions).long()
    theirs = torch.clamp(theirs + position_buckets, 0, 2 * position_buckets - 1)
    bias = DisentangledBias(1, 1, position_buckets, max_relative_positions)
    assert torch.equal(bias.row_of(offsets), theirs)
    # The table of the form ends where the rows no longer change.
    reach = max_relative_positions
    assert torch.equal(bias.row_of(offsets.clamp(-reach, reach)), theirs)


@pytest.mark.parametrize("share_att_key", [False, True])
@pytest.mark.parametrize("position_buckets", [8, -1])
@pytest.mark.parametrize("pos_att_type", ["c2p|p2c", "p2c", "c2p"])
def test_disentangled_of_deberta_v2(pos_att_type, position_buckets, share_att_key):
    """A whole layer: what its attention returns."""
    config = DebertaV2Config(
        hidden_size=16, num_attention_heads=2, relative_attention=True, position_buckets=position_buckets,
        max_relative_positions=20, pos_att_type=pos_att_type.split("|"), share_att_key=share_att_key,
    )  # fmt: skip
    theirs = deberta.DisentangledSelfAttention(config).eval()
    ours = DisentangledBias(2, 8, position_buckets, 20, pos_att_type, share_att_key)
    embeddings = torch.randn(2 * ours.span, 16)
    more = {}
    if share_att_key:
        more = {"pos_key": theirs.key_proj(embeddings), "pos_query": theirs.query_proj(embeddings)}
    else:
        state = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("pos_")}
        ours.load_state_dict(state | {"rel_embeddings.weight": embeddings})
    hidden = torch.randn(2, 47, 16)
    expected, _ = theirs(hidden, torch.ones(2, 1, 47, 47), rel_embeddings=embeddings)
    query, key, value = (
        project(hidden).view(2, 47, 2, 8).transpose(1, 2)
        for project in (theirs.query_proj, theirs.key_proj, theirs.value_proj)
    )
    out = attention(query, key, value, ours(query, key, **more), scale=ours.scale)
    torch.testing.assert_close(out.transpose(1, 2).flatten(2), expected, rtol=1e-4, atol=1e-5)

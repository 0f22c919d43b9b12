"""A scheme in the place of rotary and learned positions."""

import copy

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from falloff import FIRE, SCHEMES, ALiBi, ProfileMixture, T5Bias, attention, hf

SIZES = {"vocab_size": 60, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 64}


def decoder(name, **more):
    config = getattr(transformers, f"{name}Config")(**SIZES, eos_token_id=None, pad_token_id=0, **more)
    return getattr(transformers, f"{name}ForCausalLM")(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=60, n_positions=32, n_embd=48, n_layer=2, n_head=6, eos_token_id=None, pad_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


MODELS = {
    "llama": lambda: decoder("Llama", num_key_value_heads=2),
    "mistral": lambda: decoder("Mistral", num_key_value_heads=2, sliding_window=9),
    "qwen2": lambda: decoder("Qwen2", num_key_value_heads=2),
    "qwen3": lambda: decoder("Qwen3", num_key_value_heads=2, head_dim=8),
    "gpt_neox": lambda: decoder("GPTNeoX"),
    "gpt2": gpt2,
}


def steep(heads):
    return T5Bias(heads, std=1.0)


def swapped(name, make_bias=steep, **settings):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    hf.swap(model, make_bias, **settings)
    return model


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_generation_saving_and_gradients(name, share, tmp_path):
    model = swapped(name, share=share)
    ids = torch.randint(2, 60, (2, 50))  # beyond what GPT-2 has learned positions for
    with torch.no_grad():
        logits = model(ids).logits
        steps = ids[:, :20]
        for _ in range(15):
            steps = torch.cat([steps, model(steps, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    settings = {"max_new_tokens": 15, "do_sample": False}
    assert torch.equal(model.generate(ids[:, :20], **settings), steps)
    static = model.generate(ids[:, :20], **settings, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, steps)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :5] = 0
    padded = model.generate(ids[:, :20], attention_mask=mask, **settings)
    assert torch.equal(padded[0, 20:], model.generate(ids[:1, 5:20], **settings)[0, 15:])

    model.save_pretrained(tmp_path)
    loaded = hf.load(tmp_path).eval()
    assert type(loaded) is type(model)
    assert loaded.config.falloff_config == model.config.falloff_config
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, logits)

    model.train()(ids, labels=ids).loss.backward()
    biases = [name for name in model.state_dict() if "falloff_bias" in name]
    assert len(biases) == (1 if share else 2)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if p.requires_grad)


def test_attention_is_that_of_the_scheme():
    """One layer, by hand: no position but the bias."""
    model = swapped("llama", FIRE)
    layer = model.model.layers[1].self_attn
    hidden = torch.randn(2, 30, 48)
    seen = []
    layer.register_forward_hook(lambda module, inputs, named, output: seen.append((named, output[0])), with_kwargs=True)
    with torch.no_grad():
        model(torch.randint(2, 60, (2, 30)))
        hidden = seen[0][0]["hidden_states"]
        query, key, value = (
            projection(hidden).view(2, 30, -1, 8).transpose(1, 2)
            for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        out = attention(query, key, value, layer.falloff_bias, causal=True, impl="reference")
        want = layer.o_proj(out.transpose(1, 2).reshape(2, 30, 48))
    torch.testing.assert_close(seen[0][1], want)


def test_packed_texts_do_not_see_each_other():
    model = swapped("llama")
    ids = torch.randint(2, 60, (1, 30))
    positions = torch.cat([torch.arange(12), torch.arange(18)])[None]
    with torch.no_grad():
        packed = model(ids, position_ids=positions, use_cache=False).logits
        alone = torch.cat([model(part).logits for part in (ids[:, :12], ids[:, 12:])], 1)
    torch.testing.assert_close(packed, alone)


def test_a_scheme_of_ones_own_is_loaded_with_its_function(tmp_path):
    class Own(ALiBi):
        pass

    model = swapped("gpt2", Own)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^make_bias: got None for a model with Own"):
        hf.load(tmp_path)
    assert hf.load(tmp_path, Own).config.falloff_config["scheme"] == "Own"
    gpt2().save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"^folder: got .* whose config has no falloff_config"):
        hf.load(tmp_path / "plain")


@pytest.mark.parametrize("name", [name for name in SCHEMES if name != "profile-mixture"])
def test_every_scheme_is_saved_and_loaded(name, tmp_path):
    model = swapped("llama", SCHEMES[name])
    model.save_pretrained(tmp_path)
    ids = torch.randint(2, 60, (1, 40))
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path).eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("window", [9, 64])
def test_a_static_cache_that_slides(window):
    torch.manual_seed(0)
    model = decoder("Mistral", num_key_value_heads=2, sliding_window=window).eval()
    hf.swap(model, steep)
    ids = torch.randint(2, 60, (2, 5))
    settings = {"max_new_tokens": 20, "do_sample": False}
    with torch.no_grad():
        steps = ids
        for _ in range(20):
            steps = torch.cat([steps, model(steps, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    static = model.generate(ids, **settings, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, steps)


def test_a_window_hides_no_text_from_a_scheme_with_absolute_positions():
    torch.manual_seed(0)
    model = decoder("Mistral", num_key_value_heads=2, sliding_window=9).eval()
    hf.swap(model, lambda heads: FIRE(heads, init_L=4))
    ids = torch.randint(2, 60, (1, 30))
    cache = transformers.DynamicCache()  # keeps all
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        model(ids[:, :29], past_key_values=cache)
        last = model(ids[:, 29:], past_key_values=cache).logits
    torch.testing.assert_close(last, whole[:, 29:])


def test_copies_share_what_was_shared():
    model = copy.deepcopy(swapped("llama", share=True))
    assert model.model.layers[0].self_attn.falloff_bias is model.falloff_bias
    assert model.model.layers[1].self_attn.falloff_bias is model.falloff_bias


def test_absolute_positions_and_a_static_cache():
    model = swapped("llama", lambda heads: FIRE(heads, init_L=4))
    with pytest.raises(ValueError, match=r"^past_key_values: got a static or sliding cache for FIRE"):
        model.generate(
            torch.ones(1, 3, dtype=torch.long), max_new_tokens=3, cache_implementation="static", disable_compile=True
        )


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    bert = transformers.BertModel(transformers.BertConfig(**SIZES))
    with pytest.raises(ValueError, match=r"^model: got BertModel, expected one of llama"):
        hf.swap(bert, ALiBi)
    for make_bias, message in (
        ("fire", "make_bias: got 'fire'"),
        (lambda heads: 3, "it made int"),
        (ProfileMixture, "it made ProfileMixture"),
        (lambda heads: ALiBi(2), "a scheme of 2 heads, expected 6"),
    ):
        with pytest.raises(ValueError, match=message):
            hf.swap(MODELS["llama"](), make_bias)
    model = swapped("llama")
    with pytest.raises(ValueError, match="fused or swapped already"):
        hf.swap(model, ALiBi)
    with pytest.raises(ValueError, match="which is not fused"):
        hf.unfuse(model)
    with pytest.raises(ValueError, match=r"^model: got Sequential, expected a PreTrainedModel"):
        hf.swap(torch.nn.Sequential(MODELS["llama"]()), ALiBi)
    cross = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, add_cross_attention=True))
    with pytest.raises(ValueError, match="with cross-attention"):
        hf.swap(cross, ALiBi)

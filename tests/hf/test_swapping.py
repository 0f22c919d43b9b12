"""A scheme instead of rotary and learned positions."""

import copy
import json
import logging

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import transformers

from falloff import FIRE, SCHEMES, ALiBi, ProfileMixture, Scheme, T5Bias, attention, hf

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
    """One layer computed by hand: nothing but the bias depends on positions."""
    model = swapped("llama", FIRE)
    layer = model.model.layers[1].self_attn
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
    with pytest.raises(ValueError, match=r"^make_bias: got None for a model with Own, .* its class.* load\(folder, Own\)$"):
        hf.load(tmp_path)
    assert hf.load(tmp_path, Own).config.falloff_config["scheme"] == "Own"
    gpt2().save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"^folder: got .* whose config has no falloff_config"):
        hf.load(tmp_path / "plain")


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.needs_content])
def test_every_scheme_is_saved_and_loaded(name, tmp_path):
    model = swapped("llama", SCHEMES[name])
    model.save_pretrained(tmp_path)
    ids = torch.randint(2, 60, (1, 40))
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path).eval()(ids).logits, model(ids).logits)


def test_a_scheme_is_swapped_and_loaded_by_its_name(tmp_path, monkeypatch):
    """Also one of one's own. The folder does not contain its code, so hf.load is given its name again."""
    monkeypatch.chdir(tmp_path)
    source = (
        "from falloff import ALiBi\nclass Steep(ALiBi):\n    def at(self, offsets):\n        return 3 * super().at(offsets)"
    )
    (tmp_path / "own_steep.py").write_text(source)
    ids = torch.randint(2, 60, (1, 20))
    for name, cls in (("fire", "FIRE"), ("own_steep.py:Steep", "Steep"), ("own_steep:Steep", "Steep")):
        model = swapped("llama", name)
        assert model.config.falloff_config["scheme"] == cls
        model.save_pretrained(tmp_path / cls)
        if cls == "Steep":
            with pytest.raises(ValueError, match="make_bias: got None for a model with Steep"):
                hf.load(tmp_path / cls)
        with torch.no_grad():
            assert torch.equal(hf.load(tmp_path / cls, name).eval()(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match="it made Steep"):
        hf.load(tmp_path / "FIRE", "own_steep:Steep")


def test_folders_of_an_older_version_with_fewer_settings_are_loaded(tmp_path):
    """A setting that was no attribute, as T5's std, was not saved: it was at its default."""
    model = swapped("llama", T5Bias)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["falloff_config"]["settings"].pop("std") == 0.02
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = torch.randint(2, 60, (1, 20))
    for make_bias in (None, T5Bias, "t5"):
        with torch.no_grad():
            assert torch.equal(hf.load(tmp_path, make_bias).eval()(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match=r"it made T5Bias\(.*std=1.0\), expected T5Bias\(.*std=0.02\)"):
        hf.load(tmp_path, steep)


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
    cache = transformers.DynamicCache()  # a cache without a sliding window
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
        ("fier", "make_bias: got 'fier', expected one of alibi, bam, .*, or module:Class or file.py:Class of your own"),
        ("none.py:Mine", "make_bias: got 'none.py:Mine', expected a file that exists"),
        (lambda heads: 3, "it made int"),
        (ProfileMixture, "it made ProfileMixture"),
        (lambda heads: ALiBi(2), "a scheme of 2 heads, expected 6"),
        (FIRE(6), r"^make_bias: got FIRE\(...\), an instance, expected the class of a scheme"),
        (nn.Linear(6, 6), r"^make_bias: got Linear\(...\), an instance"),
        (None, r"^make_bias: got None, expected the class of a scheme, such as FIRE, or a function"),
    ):
        with pytest.raises(ValueError, match=message):
            hf.swap(MODELS["llama"](), make_bias)
    with pytest.raises(ValueError, match=r"^share: got 'yes', expected True or False"):
        hf.swap(MODELS["llama"](), ALiBi, share="yes")
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


class Logarithmic(Scheme):
    """The documentation's scheme of one's own: only its bias shows how many heads it has."""

    def __init__(self, num_heads, rate=1.0):
        super().__init__()
        self.rate = rate
        self.strength = nn.Parameter(torch.ones(num_heads))
        self.register_buffer("table", torch.log1p(torch.arange(9) * self.rate), persistent=False)

    def at(self, offsets):
        return -self.strength[:, None] * self.table[offsets.abs().clamp(max=8)]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_scheme_with_nothing_but_at_is_swapped_and_loaded(name, share, tmp_path):
    """Its heads are those of the bias; what it computes once and does not save is computed again."""
    model = swapped(name, Logarithmic, share=share)
    model.save_pretrained(tmp_path)
    ids = torch.randint(2, 60, (1, 20))
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path, Logarithmic).eval()(ids).logits, model(ids).logits)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    """A former version loaded another scheme or setting without an error if the shapes agreed."""
    swapped("llama", lambda heads: Logarithmic(heads, rate=2.0)).save_pretrained(tmp_path)
    saved = r"expected Logarithmic\(rate=2.0\), which the model was saved with$"
    with pytest.raises(ValueError, match=r"^make_bias: it made Logarithmic\(rate=1.0\), " + saved):
        hf.load(tmp_path, Logarithmic)
    with pytest.raises(ValueError, match=r"^make_bias: it made ALiBi\(learned=False\), " + saved):
        hf.load(tmp_path, ALiBi)
    hf.load(tmp_path, lambda heads: Logarithmic(heads, rate=2.0))

    class Grown(Logarithmic):
        def __init__(self, num_heads):
            super().__init__(num_heads, rate=2.0)
            self.more = nn.Parameter(torch.ones(1))

    Grown.__name__ = "Logarithmic"
    with pytest.raises(ValueError, match=r"^make_bias: it made Logarithmic"):
        hf.load(tmp_path, Grown)


def test_a_scheme_of_ones_own_that_has_the_name_of_falloffs(tmp_path):
    class Steep(ALiBi):
        def at(self, offsets):
            return 3 * super().at(offsets)

    Steep.__name__ = "ALiBi"
    model = swapped("llama", Steep)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^make_bias: got None for a model with ALiBi, which is not a scheme of falloff's"):
        hf.load(tmp_path)
    ids = torch.randint(2, 60, (1, 20))
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path, Steep).eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("options", [{}, {"attn_implementation": "sdpa"}, {"dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize(("name", "scheme"), [*((name, ALiBi) for name in MODELS), ("llama", FIRE)])
def test_nothing_else_loads_the_folder_of_a_swapped_model(name, scheme, options, tmp_path):
    """Transformers would load it as a plain model with rotary positions, for ALiBi without a warning."""
    model = swapped(name, scheme)
    model.save_pretrained(tmp_path)
    message = "swapped by falloff: load it by falloff.hf.load"
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel, transformers.AutoConfig):
        with pytest.raises(ValueError, match=message):
            auto.from_pretrained(tmp_path, **options)
    for cls in (type(model), type(model.base_model)):
        with pytest.raises(Exception, match=message):
            cls.from_pretrained(tmp_path, **options)
    assert hf.load(tmp_path, **options).config.hidden_size == 48


def test_a_loaded_model_is_saved_and_loaded_again(tmp_path):
    """In memory the configuration is what it was: PEFT and others look up its model_type."""
    model = swapped("qwen3", FIRE)
    model.save_pretrained(tmp_path / "first")
    again = hf.load(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second
    assert first["falloff_config"]["was"] == {"model_type": "qwen3", "hidden_size": 48}
    assert (again.config.model_type, again.config.hidden_size) == ("qwen3", 48)
    assert isinstance(again.config, transformers.Qwen3Config)
    ids = torch.randint(2, 60, (1, 20))
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path / "second").eval()(ids).logits, model(ids).logits)


def test_loading_says_nothing_of_model_types_and_weights(tmp_path, caplog):
    swapped("mistral", FIRE).save_pretrained(tmp_path)
    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        hf.load(tmp_path)
    transformers.utils.logging.disable_propagation()
    assert not caplog.records


def test_a_tokenizer_beside_a_swapped_model_is_loaded(tmp_path):
    vocabulary = {"<unk>": 0, "a": 1, "b": 2}
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    swapped("llama", ALiBi).save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("a b c")["input_ids"] == [1, 2, 0]


@pytest.mark.parametrize("scheme", [FIRE, ALiBi], ids=lambda scheme: scheme.name)
def test_folders_of_an_older_version_are_loaded(scheme, tmp_path):
    """Saved at 2747a2b: a configuration that any class takes, and FIRE's c, L_multiplier and init_L as scalars."""
    from safetensors.torch import load_file, save_file

    model = swapped("llama", scheme)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= config["falloff_config"].pop("was")
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    scalars = {name: w.reshape(()).clone() for name, w in weights.items() if name.endswith((".c", "_multiplier", ".init_L"))}
    assert len(scalars) == (6 if scheme is FIRE else 0)
    save_file(weights | scalars, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = hf.load(tmp_path).eval()
    ids = torch.randint(2, 60, (1, 20))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert {name: p.shape for name, p in loaded.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}


@pytest.mark.parametrize("share", [False, True])
def test_an_error_leaves_the_model_as_it_was(share):
    torch.manual_seed(0)
    model = MODELS["llama"]().eval()
    ids = torch.randint(2, 60, (1, 20))
    calls = []

    def fails(heads):
        calls.append(heads)
        if share or len(calls) == 2:
            raise RuntimeError("no more")
        return FIRE(heads)

    def state():
        return [type(module) for module in model.modules()], list(model.state_dict()), model.config.to_json_string()

    with torch.no_grad():
        want = model(ids).logits
        before = state()
        with pytest.raises(RuntimeError, match="no more"):
            hf.swap(model, fails, share=share)
        assert state() == before
        assert torch.equal(model(ids).logits, want)
        hf.swap(model, FIRE, share=share)


def test_a_model_that_shared_the_config_stays_as_it_was():
    plain = MODELS["llama"]().eval()
    one = transformers.LlamaForCausalLM(plain.config)
    hf.swap(one, ALiBi)
    assert not hasattr(plain.config, "falloff_config")
    ids = torch.randint(2, 60, (1, 8))
    plain(ids)
    one(ids)


def test_a_part_that_is_swapped_marks_the_whole(tmp_path):
    """Else the whole model's folder would be that of a plain one."""
    whole = MODELS["llama"]().eval()
    hf.swap(whole.model, FIRE, share=False)
    assert whole.config.falloff_config["scheme"] == "FIRE"
    whole.save_pretrained(tmp_path)
    ids = torch.randint(2, 60, (1, 8))
    torch.testing.assert_close(hf.load(tmp_path)(ids).logits, whole(ids).logits)
    with pytest.raises(Exception, match=r"load it by falloff\.hf\.load"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "head", ["LlamaForSequenceClassification", "Qwen2ForSequenceClassification", "LlamaForQuestionAnswering"]
)
def test_heads_that_make_their_parts_by_an_auto_class_are_loaded(tmp_path, head):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, head.partition("For")[0] + "Config")
    model = getattr(transformers, head)(config(vocab_size=60, num_key_value_heads=2, pad_token_id=0, **sizes)).eval()
    hf.swap(model, FIRE)
    model.save_pretrained(tmp_path)
    loaded = hf.load(tmp_path).eval()
    ids = torch.randint(2, 60, (2, 8))
    torch.testing.assert_close(loaded(ids)[0], model(ids)[0])
    assert all(module.config is loaded.config for module in loaded.modules() if hasattr(module, "config"))


def test_an_error_in_the_middle_changes_nothing(monkeypatch):
    model = MODELS["llama"]()
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    monkeypatch.setattr("falloff.hf.swapping.attend_by_falloff", lambda models: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hf.swap(model, ALiBi)
    after = [(type(module), dict(vars(module))) for module in model.modules()]
    assert [cls for cls, _ in after] == [cls for cls, _ in before]
    for (_, now), (_, then) in zip(after, before, strict=True):
        assert all(now[name] is then[name] for name in then if name != "_modules")
    assert not hasattr(model.config, "falloff_config")

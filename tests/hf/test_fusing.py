"""Fused models beside Transformers' own: parity, what must go on working, and what is refused."""

import copy
import io
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("transformers")

import transformers

from falloff import ALiBi, hf
from falloff.hf import checking, masks, small_models
from falloff.hf.families.fused import Fused

# Transformers' WavLM passes a boolean mask beside a bias of real numbers to torch, which warns.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")

FAMILIES = list(small_models.MODELS)
SPEECH = ["conformer", "wavlm"]


def models(family, train=False):
    """A model and its fused twin."""
    torch.manual_seed(0)
    plain = small_models.MODELS[family]().train(train)
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    return plain, fused


def batch_of(model, side):
    return checking._batch(model, side)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_as_large_as_heads_times_queries_times_keys(family):
    plain, fused = models(family, train=True)
    length = 500
    # Of UDOP and Pix2Struct the encoder is not fused.
    batch = small_models.inputs(plain, 1, 20 if family in ("udop", "pix2struct") else length)
    batch["labels"] = torch.zeros(1, dtype=torch.long) if family in SPEECH else torch.randint(2, 80, (1, length))
    heads = 4 if "inkling" in family else 6
    largest = {}
    for name, model in (("plain", plain), ("fused", fused)):
        with Largest() as largest[name]:
            model(**batch, use_cache=False).loss.backward()
    assert largest["plain"].elements >= heads * length * length
    assert largest["fused"].elements < length * length


@pytest.mark.parametrize("family", ["inkling", "inkling2"])
def test_inkling_makes_no_values_of_each_query_by_offset(family):
    """Its states and profiles go to the kernel: a band would take heads * queries * profiles."""
    plain, _ = models(family, train=True)
    profiles, length = 1500, 200
    for module in plain.modules():
        if hasattr(module, "rel_extent") and hasattr(module, "proj"):
            module.proj, module.rel_extent = torch.nn.Parameter(torch.randn(4, profiles)), profiles
    hf.fuse(plain)
    ids = torch.randint(2, 80, (1, length))
    with Largest() as largest:
        plain(ids, labels=ids, use_cache=False).loss.backward()
    assert largest.elements < length * profiles


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize(
    "family", ["t5", "umt5", "bloom", "mpt", "falcon", "inkling", "inkling2", "deberta-v3", "conformer", "wavlm"]
)
def test_gradient_checkpointing(family):
    plain, fused = models(family, train=True)
    fused.gradient_checkpointing_enable({"use_reentrant": False})
    error, name = checking._gradient_error(plain, fused, batch_of(plain, "right"))
    assert error <= checking.GRADIENTS, name


@pytest.mark.parametrize("family", ["t5", "umt5", "bloom", "mpt"])
def test_a_static_cache(family):
    """Its positions are known on the device alone. (Falcon's and Inkling's fail in Transformers itself.)"""
    plain, fused = models(family)
    prompts = {name: tensor[:, :20] for name, tensor in batch_of(plain, "left").items() if name != "labels"}
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "disable_compile": True, "use_cache": True}
    expected = plain.generate(**prompts, **settings)
    assert torch.equal(fused.generate(**prompts, **settings, cache_implementation="static"), expected)


@pytest.mark.parametrize("family", ["t5", "falcon", "inkling", "deberta-v3"])
def test_a_fused_checkpoint_is_a_plain_one(family, tmp_path):
    plain, fused = models(family)
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused.save_pretrained(tmp_path)
    assert "falloff" not in (tmp_path / "config.json").read_text()
    loaded = type(plain).from_pretrained(tmp_path)
    assert not any(isinstance(module, Fused) for module in loaded.modules())
    batch = batch_of(plain, "right")
    assert checking._error(checking._logits(plain, batch), checking._logits(loaded, batch)) <= checking.LOGITS
    hf.fuse(loaded)
    assert torch.equal(checking._logits(fused, batch), checking._logits(loaded, batch))


def test_copies_and_pickles_stay_fused():
    plain, fused = models("t5")
    batch = batch_of(plain, "left")
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert sum(isinstance(module, Fused) for module in twin.modules()) == 6
        assert torch.equal(checking._logits(fused, batch), checking._logits(twin, batch))


def test_a_pickle_is_read_by_a_process_that_has_fused_nothing(tmp_path):
    plain, fused = models("bloom")
    batch = batch_of(plain, "left")
    torch.save((fused, batch["input_ids"], batch["attention_mask"], checking._logits(fused, batch)), tmp_path / "model")
    code = f"""
import torch
model, ids, mask, logits = torch.load({str(tmp_path / "model")!r}, weights_only=False)
with torch.no_grad():
    found = model(ids, attention_mask=mask).logits
torch.testing.assert_close(found[mask.roll(1, 1) * mask != 0], logits)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_part_can_be_unfused_alone():
    plain, fused = models("bloom")
    hf.unfuse(fused.transformer)
    batch = batch_of(plain, "left")
    assert torch.equal(checking._logits(fused, batch), checking._logits(plain, batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_unfuse_restores_the_model(family):
    plain, fused = models(family)
    hf.fuse(fused)  # stays as it is
    hf.unfuse(fused)
    assert [type(module) for module in fused.modules()] == [type(module) for module in plain.modules()]
    assert fused.config._attn_implementation == plain.config._attn_implementation
    batch = batch_of(plain, "left")
    assert torch.equal(checking._logits(fused, batch), checking._logits(plain, batch))
    with pytest.raises(ValueError, match="which is not fused"):
        hf.unfuse(fused)


def test_the_report_names_what_was_left_alone():
    from transformers import BertConfig, BertModel

    bert = BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    wrapped = torch.nn.ModuleDict({"text": small_models.MODELS["t5"](), "other": bert})
    report = hf.fuse(wrapped)
    assert str(report).splitlines()[0] == "fused: 6 T5Attention (T5, by offset)"
    assert any(cls == "BertSelfAttention" for cls, _ in report.left_alone.values())
    assert "no additive positional bias that falloff knows" in str(report)
    assert bert.config._attn_implementation != "falloff"


def test_an_encoder_alone():
    plain, _ = models("t5")
    encoder = transformers.T5EncoderModel(plain.config).eval()
    fused = copy.deepcopy(encoder)
    assert len(hf.fuse(fused).fused) == 2
    ids = torch.randint(2, 80, (2, 300))
    with torch.no_grad():
        want, got = (model(ids).last_hidden_state for model in (encoder, fused))
    assert checking._error(want, got) <= checking.LOGITS


def test_buckets_are_those_the_model_was_trained_with():
    """Transformers floors float logarithms, which falls on the wrong side of some boundaries."""
    plain = small_models.t5("T5", relative_attention_num_buckets=36, relative_attention_max_distance=392)
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    dense = plain.decoder.block[0].layer[0].SelfAttention.compute_bias(500, 500)
    values = fused.decoder.block[0].layer[0].SelfAttention.compute_bias(500, 500)[0, :, 0]
    offsets = torch.arange(500)[:, None] - torch.arange(500)
    assert torch.equal(values[:, offsets.clamp(0, 392)][None], dense)


def test_dropout_while_training():
    """The mean of many draws is the attention without dropout; two draws differ."""
    config = transformers.BloomConfig(
        vocab_size=9, hidden_size=16, n_layer=1, n_head=2, attention_dropout=0.4, hidden_dropout=0.0
    )
    model = transformers.BloomModel(config)
    hf.fuse(model)
    ids = torch.randint(0, 9, (1, 12))
    attention = model.h[0].self_attention
    seen = []
    attention.register_forward_hook(lambda module, inputs, output: seen.append(output[0].detach()))
    with torch.no_grad():
        expected = model.eval()(ids) and seen.pop()
        for _ in range(200):
            model.train()(ids)
    draws = torch.stack(seen)
    deviation = draws.std(0) / math.sqrt(len(draws))
    assert not torch.equal(draws[0], draws[1])
    assert ((draws.mean(0) - expected).abs() <= 5 * deviation + 1e-6).all()


@pytest.mark.parametrize("family", ["t5", "bloom", "mpt", "falcon", "inkling2", "deberta-v3", "conformer", "wavlm"])
def test_attention_weights_are_refused(family):
    plain, fused = models(family)
    with pytest.raises(ValueError, match=r"^output_attentions: got True, .*unfuse\(model\)"):
        fused(**batch_of(plain, "none"), output_attentions=True)


def test_a_config_that_asks_for_weights_is_refused():
    plain, _ = models("t5")
    plain.config.output_attentions = True
    with pytest.raises(ValueError, match=r"output_attentions=True"):
        hf.fuse(plain)
    assert not any(isinstance(module, Fused) for module in plain.modules())


def test_masks_that_cannot_be_served_are_refused():
    _, fused = models("bloom")
    with pytest.raises(ValueError, match=r"^attention_mask: got a tensor of shape \(1, 1, 6, 6\)"):
        fused.transformer.h[0](torch.zeros(1, 6, 48), alibi=torch.zeros(6, 1, 6), attention_mask=torch.zeros(1, 1, 6, 6))
    with pytest.raises(ValueError, match="got one made by or_masks"):
        masks.falloff_mask(1, 4, 4, mask_function=transformers.masking_utils.or_masks(lambda *index: True))


def test_bloom_counts_positions_as_it_does():
    _, fused = models("bloom")
    cache = transformers.DynamicCache()
    fused(torch.randint(2, 80, (1, 6)), past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match=r"^attention_mask: got one of 5 tokens, expected one of 7"):
        fused(torch.ones(1, 1, dtype=torch.long), past_key_values=cache, attention_mask=torch.ones(1, 5), use_cache=True)
    fused.config.is_causal = False
    with pytest.raises(ValueError, match=r"^config\.is_causal: got False"):
        fused(torch.randint(2, 80, (1, 6)), use_cache=False)


def test_another_implementation_is_not_mixed_in():
    plain, fused = models("t5")
    fused.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"^attn_implementation: got 'sdpa' for a fused model"):
        fused(**batch_of(plain, "none"))
    with pytest.raises(ValueError, match="a part of a model"):
        hf.fuse(plain.encoder.block)
    _, fused = models("bloom")
    again = transformers.BloomForCausalLM(fused.config)
    with pytest.raises(ValueError, match="a model that is not fused"):
        again(torch.ones(1, 4, dtype=torch.long))
    hf.fuse(again)
    hf.unfuse(again)
    again(torch.ones(1, 4, dtype=torch.long))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_shared_the_config_stays_as_it_was(family):
    plain, _ = models(family)
    batch = batch_of(plain, "none")
    one, other = type(plain)(plain.config), type(plain)(plain.config)
    assert one.config is other.config is plain.config
    hf.fuse(one)
    assert plain.config._attn_implementation != "falloff"
    for model in (plain, other, one):
        model(**batch, use_cache=False)
    configs = {id(module.config) for module in one.modules() if hasattr(module, "config")}
    assert len(configs) == len({id(module.config) for module in plain.modules() if hasattr(module, "config")})
    assert id(one.config) in configs
    hf.fuse(other)
    hf.unfuse(one)
    other.eval()(**batch, use_cache=False)
    assert checking._logits(one.eval(), batch).isfinite().all()


def test_what_is_set_while_fused_stays():
    _, fused = models("bloom")
    fused.resize_token_embeddings(90)
    fused.config.use_cache = False
    hf.unfuse(fused)
    assert (fused.config.vocab_size, fused.config.use_cache) == (90, False)
    assert fused.config is fused.transformer.config


@pytest.mark.parametrize("family", ["t5", "bloom", "mpt", "inkling"])
@pytest.mark.parametrize("function", ["fuse", "unfuse"])
def test_an_error_in_the_middle_changes_nothing(family, function, monkeypatch):
    plain, fused = models(family)
    model = plain if function == "fuse" else fused
    names = [name for name, module in fused.named_modules() if isinstance(module, Fused)]
    changed = model.get_submodule(names[1])
    monkeypatch.setattr(torch.nn.Module, "__setattr__", _refusing(changed, torch.nn.Module.__setattr__))
    before = [(type(module), dict(vars(module))) for module in model.modules()]
    implementation = model.config._attn_implementation
    with pytest.raises(MemoryError):
        getattr(hf, function)(model)
    after = [(type(module), dict(vars(module))) for module in model.modules()]
    assert [cls for cls, _ in after] == [cls for cls, _ in before]
    for (_, now), (_, then) in zip(after, before, strict=True):
        assert now.keys() == then.keys()
        assert all(now[name] is then[name] for name in then if name != "_modules")
        assert now["_modules"] == then["_modules"]
    assert model.config._attn_implementation == implementation
    monkeypatch.undo()
    getattr(hf, function)(model)  # a second attempt succeeds


def _refusing(victim, set_attribute):
    def refuse(module, name, value):
        if module is victim and name == "__class__":
            raise MemoryError
        set_attribute(module, name, value)

    return refuse


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "wrong", [3, None, "t5-small", [1], torch.nn.Linear, object()], ids=lambda wrong: type(wrong).__name__
)
def test_wrong_objects(wrong):
    for function in (hf.fuse, hf.unfuse, lambda model: hf.swap(model, ALiBi)):
        with pytest.raises(ValueError, match=rf"^model: got {type(wrong).__name__}, expected a"):
            function(wrong)
    with pytest.raises(ValueError, match=r"^family: got .*, expected one of t5, byt5"):
        checking.check(wrong)
    if not isinstance(wrong, str):
        with pytest.raises(ValueError, match=rf"^folder: got {type(wrong).__name__}, expected the path"):
            hf.load(wrong)


class Logits(torch.nn.Module):
    """A model of one input and one output, as tracers want it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        more = {"decoder_input_ids": ids} if self.model.config.is_encoder_decoder else {}
        return self.model(input_ids=ids, use_cache=False, **more).logits


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")  # of the tracers
@pytest.mark.parametrize("family", ["t5", "umt5", "bloom", "mpt", "falcon", "inkling"])
def test_tracers_are_refused(family, monkeypatch):
    _, fused = models(family)
    ids = torch.randint(2, 80, (2, 9))
    message = r"^model: got a fused or swapped one under torch\.jit\.trace or torch\.onnx.*falloff\.hf\.unfuse\(model\)"
    with pytest.raises(ValueError, match=message):
        torch.jit.trace(Logits(fused), ids)
    with pytest.raises(ValueError, match=message):
        torch.onnx.export(Logits(fused), (ids,), io.BytesIO(), dynamo=False)
    with monkeypatch.context() as patch:  # the other exporter needs packages of its own before it comes here
        patch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
        with pytest.raises(ValueError, match=message):
            torch.export.export(Logits(fused), (ids,), strict=False)
    hf.unfuse(fused)
    if family == "t5":
        traced = torch.jit.trace(Logits(fused), ids)
        torch.testing.assert_close(traced(ids), Logits(fused)(ids))


def test_more_exact_buckets_than_the_largest_distance():
    plain = small_models.t5("T5", relative_attention_num_buckets=32, relative_attention_max_distance=12).eval()
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    # Beyond its exact buckets such a model has none at all.
    batch = {name: tensor[:, :10].contiguous() for name, tensor in batch_of(plain, "none").items()}
    assert checking._error(checking._logits(plain, batch), checking._logits(fused, batch)) <= checking.LOGITS


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_fused_is_refused_whole(monkeypatch):
    from transformers import GPT2Config, GPT2Model

    with pytest.raises(ValueError, match=r"^model: got GPT2Model .*expected attention of t5"):
        hf.fuse(GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=2)))
    with pytest.raises(ValueError, match=r"^model: got str"):
        hf.fuse("t5-small")
    rotary = transformers.FalconModel(transformers.FalconConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="rotary positions"):
        hf.fuse(rotary)
    plain, _ = models("t5")
    # Not by the name imported above: Transformers has put another object in its place since.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(ValueError, match=r"^transformers: got version 4\.57\.1, expected 5\.17 or later"):
        hf.fuse(plain)
    monkeypatch.undo()
    cls = transformers.models.t5.modeling_t5.T5Attention
    monkeypatch.setattr(cls, "compute_bias", lambda self, query_length, key_length, rotation: None)
    with pytest.raises(ValueError, match=r"T5Attention\.compute_bias has parameters .*\(rotation\)"):
        hf.fuse(plain)
    assert not any(isinstance(module, Fused) for module in plain.modules())


def test_without_transformers_it_says_what_to_install(monkeypatch):
    model = small_models.MODELS["t5"]()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'falloff\[hf\]'"):
        hf.fuse(model)


def test_a_mask_moves_between_devices():
    seen = masks.MaskParts(torch.ones(2, 3, dtype=torch.bool), True, None, 0, None)
    assert seen.to("meta").key_mask.device.type == "meta"
    assert seen.to(device=torch.device("meta")).causal
    assert seen.to(torch.bool) is seen


def test_the_implementation_needs_a_fused_model():
    models("t5")  # registers the implementation
    config = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = transformers.T5EncoderModel(config)
    model.set_attn_implementation("falloff")
    with pytest.raises(ValueError, match=r"^attn_implementation: got 'falloff' for T5Attention, expected a model made by"):
        model(torch.ones(1, 4, dtype=torch.long))

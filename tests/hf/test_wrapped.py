"""Swapped and fused models inside of what wraps modules: PEFT, offloading, FSDP, DDP, quantizers, hooks."""

import copy
import pickle
import warnings
from typing import ClassVar

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import accelerate
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

from falloff import FIRE, ALiBi, T5Bias, attention, hf
from falloff.hf import small_models
from falloff.hf.small_models import MODELS

# PEFT asks every model by a name that Transformers gives up.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SIZES = {"vocab_size": 60, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 64}
SCHEMES = {"t5": lambda heads: T5Bias(heads, std=1.0), "fire": lambda heads: FIRE(heads, init_L=4)}
IDS = torch.randint(2, 60, (2, 24), generator=torch.Generator().manual_seed(0))


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


def swapped(scheme="t5", share=False):
    model = llama()
    hf.swap(model, SCHEMES[scheme], share=share)
    return model


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids, use_cache=False).logits


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_peft_trains_the_bias_among_modules_to_save(scheme, share, tmp_path):
    peft = pytest.importorskip("peft")
    model = swapped(scheme, share)
    want = logits(model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["falloff_bias"])
    wrapped = peft.get_peft_model(model, config)
    torch.testing.assert_close(logits(wrapped), want)
    biases = {name: p for name, p in wrapped.named_parameters() if "falloff_bias" in name and p.requires_grad}
    assert len(biases) == (1 if share else 2) * (1 if scheme == "t5" else 6)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=1.0)
    before = {name: p.detach().clone() for name, p in biases.items()}
    wrapped(IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in biases.items() if "mlp.2.bias" not in name)
    trained = logits(wrapped)
    with wrapped.disable_adapter():
        torch.testing.assert_close(logits(wrapped), want)

    wrapped.save_pretrained(tmp_path)  # and back, onto the model as it was
    loaded = peft.PeftModel.from_pretrained(swapped(scheme, share), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), trained)
    torch.testing.assert_close(logits(wrapped.merge_and_unload()), trained)


def test_peft_keeps_a_static_cache():
    """A wrapper hides that T5's bias depends on the offset alone; its form does not."""
    peft = pytest.importorskip("peft")
    model = swapped()
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = model.generate(IDS, **settings)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["falloff_bias"]))
    got = wrapped.generate(input_ids=IDS, **settings, cache_implementation="static", disable_compile=True)
    assert torch.equal(got, want)


def test_lora_on_every_linear_reaches_those_of_fire():
    peft = pytest.importorskip("peft")
    model = swapped("fire")
    want = logits(model)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    torch.testing.assert_close(logits(wrapped), want)
    wrapped(IDS, labels=IDS).loss.backward()
    of_the_bias = {n: p for n, p in wrapped.named_parameters() if "falloff_bias" in n and "lora_B" in n}
    assert len(of_the_bias) == 4
    assert all(p.grad.abs().max() > 0 for p in of_the_bias.values())


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloading_brings_the_bias_back(where, scheme, share, tmp_path):
    model = swapped(scheme, share)
    want = logits(model)
    if where == "cpu":
        accelerate.cpu_offload(model, "cpu")
    else:
        accelerate.disk_offload(model, str(tmp_path), "cpu")
    assert next(model.parameters()).is_meta
    torch.testing.assert_close(logits(model), want)


def test_a_folder_is_loaded_onto_disk(tmp_path):
    model = swapped("fire", share=True)
    model.save_pretrained(tmp_path / "model")
    device_map = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    device_map |= {"lm_head": "cpu", "falloff_bias": "disk"}
    loaded = hf.load(tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "offload")).eval()
    assert loaded.falloff_bias.c.is_meta
    torch.testing.assert_close(logits(loaded), logits(model))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("one_process")
def test_fsdp_shards_the_bias_and_the_layers(scheme, share):
    """Values and gradients of a model whose schemes are groups of their own: gathered when called, and for the backward."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, plain = swapped(scheme, share), swapped(scheme, share)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        if not share:
            fully_shard(layer.self_attn.falloff_bias, mesh=mesh)
        fully_shard(layer, mesh=mesh)
    if share:
        fully_shard(model.falloff_bias, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for _ in range(2):
        model(IDS, labels=IDS).loss.backward()
        plain(IDS, labels=IDS).loss.backward()
    sharded = dict(model.named_parameters())
    assert all(isinstance(p, DTensor) for p in sharded.values())
    for name, p in plain.named_parameters():
        torch.testing.assert_close(sharded[name].grad.to_local(), p.grad, msg=name)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.usefixtures("one_process")
def test_ddp(share):
    model, plain = swapped("fire", share), swapped("fire", share)
    parallel = nn.parallel.DistributedDataParallel(model)
    parallel(IDS, labels=IDS).loss.backward()
    plain(IDS, labels=IDS).loss.backward()
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


@pytest.mark.parametrize("share", [False, True])
def test_quantized_linears(share):
    """The Linears of FIRE's network among them: another class, whose weight is no tensor."""
    model = swapped("fire", share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao will move to another package
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    bias = quantized.falloff_bias if share else quantized.model.layers[1].self_attn.falloff_bias
    assert type(bias.mlp[0]) is not nn.Linear
    plain = model.falloff_bias if share else model.model.layers[1].self_attn.falloff_bias
    want, got = plain(9, 9).dense(9, 9), bias(9, 9).dense(9, 9)
    assert (got - want).abs().max() < 0.05 * want.abs().max()
    error = logits(quantized) - logits(model)
    assert error.abs().max() < 0.1 * logits(model).abs().max()


@pytest.mark.parametrize("share", [False, True])
def test_copies_and_pickles_use_the_bias_of_their_own_model(share):
    model = swapped("t5", share)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        biases = [p for n, p in other.named_parameters() if "falloff_bias" in n]
        with torch.no_grad():
            for p in biases:
                p.zero_()
        assert not torch.allclose(logits(other), logits(model))
        assert type(other.config) is type(model.config)
        assert other.config.falloff_config == model.config.falloff_config


def test_a_copy_of_a_layer_alone_is_small():
    layer = swapped("t5", share=True).model.layers[0].self_attn
    other = copy.deepcopy(layer)
    assert other.falloff_bias is layer.falloff_bias


@pytest.mark.parametrize("name", ["t5", "bloom", "mpt", "falcon", "inkling", "deberta-v3"])
def test_hooks_that_replace_forward_stay_when_a_model_is_fused(name):
    """As those of accelerate do. A former version never called the new forward of the class, and masks met the old one."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    ids = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if name == "t5" else {})
    with torch.no_grad():
        want = model(**ids).logits
        for module in model.modules():
            add_hook_to_module(module, Counting())
        hf.fuse(model)
        Counting.calls.clear()
        torch.testing.assert_close(model(**ids).logits, want, rtol=1e-4, atol=1e-5)
        assert sum(name.endswith("Attention") for name in Counting.calls) >= 2
        for module in model.modules():
            remove_hook_from_module(module)
        torch.testing.assert_close(model(**ids).logits, want, rtol=1e-4, atol=1e-5)
        hf.unfuse(model)
        torch.testing.assert_close(model(**ids).logits, want)


class Counting(ModelHook):
    calls: ClassVar[list[str]] = []

    def pre_forward(self, module, *arguments, **named):
        self.calls.append(type(module).__name__)
        return arguments, named


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", [name for name in MODELS if "deberta" not in name])
def test_fused_models_are_offloaded(name, when):
    """(DeBERTa's plain models are not: its encoder reads the weight of an embedding that is not called.)"""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    ids = small_models.inputs(model, 2, 24) | ({"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        want = model(**ids).logits
        if when == "before":
            accelerate.cpu_offload(model, "cpu")
        hf.fuse(model)
        if when == "after":
            accelerate.cpu_offload(model, "cpu")
        torch.testing.assert_close(model(**ids).logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bloom", "mpt", "falcon", "deberta-v2"])
def test_fused_models_are_quantized(name):
    """As the plain model is, to the rounding of its eight bits."""
    torch.manual_seed(0)
    plain = MODELS[name]().eval()
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    ids = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if name == "t5" else {})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao will move to another package
        exact = plain(**ids).logits
        want, got = (
            torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)(**ids).logits
            for model in (plain, fused)
        )
    assert (want - exact).abs().max() > 0
    assert (got - want).abs().max() <= (want - exact).abs().max()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_hooks_that_replace_forward_stay_when_positions_are_taken_away(name):
    """In a former version, the rotary or learned embedding still changed queries and keys."""
    models = []
    for hooked in (False, True):
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=60, n_embd=48, n_layer=2, n_head=6, bos_token_id=1, eos_token_id=1)
        model = llama() if name == "llama" else transformers.GPT2LMHeadModel(config).eval()
        if hooked:
            for module in model.modules():
                add_hook_to_module(module, ModelHook())
        hf.swap(model, ALiBi)
        models.append(model)
    assert torch.equal(logits(models[1]), logits(models[0]))


@pytest.mark.parametrize("name", ["bloom", "mpt", "falcon"])
def test_a_replaced_forward_is_refused(name):
    model = MODELS[name]()
    module = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
    before = [type(m) for m in model.modules()]
    module.forward = lambda *arguments, **named: None
    with pytest.raises(ValueError, match=rf"^model: got a {type(module).__name__} whose forward was replaced by"):
        hf.fuse(model)
    assert [type(m) for m in model.modules()] == before


def test_swap_comes_before_what_takes_parameters_away():
    model = llama()
    accelerate.cpu_offload(model, "cpu")
    with pytest.raises(ValueError, match=r"^model: got LlamaForCausalLM that is offloaded or sharded"):
        hf.swap(model, ALiBi)


def test_a_model_is_swapped_before_it_has_weights():
    """As for FSDP: made on the device meta, its weights loaded when it is sharded."""
    model = swapped("fire", share=True)
    with torch.device("meta"):
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
        later = transformers.LlamaForCausalLM(config).eval()
    hf.swap(later, SCHEMES["fire"], share=True)
    assert all(p.is_meta for p in later.parameters())
    later.to_empty(device="cpu").load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(later), logits(model))


@pytest.mark.usefixtures("one_process")
def test_swap_comes_before_sharding():
    from torch.distributed.fsdp import fully_shard

    model = llama()
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"^model: got FSDPLlamaForCausalLM that is offloaded or sharded"):
        hf.swap(model, ALiBi)


def test_positions_that_something_else_gives_are_refused():
    """In a former version they stayed, and the scheme was added to them."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, n_embd=48, n_layer=1, n_head=6))
    model.transformer.wpe = nn.Sequential(model.transformer.wpe)
    with pytest.raises(ValueError, match=r"^model: got GPT2LMHeadModel without wpe as Transformers has it"):
        hf.swap(model, ALiBi)


class Doubled(nn.Module):
    """A wrapper without the attributes of the scheme that it wraps."""

    def __init__(self, scheme):
        super().__init__()
        self.scheme = scheme

    def forward(self, *arguments, dense=False, **named):
        found = self.scheme(*arguments, dense=dense, **named)
        return 2 * found if dense else found.scaled(2.0)


@pytest.mark.parametrize("impl", ["auto", "blockwise", "reference"])
@pytest.mark.parametrize("scheme", [T5Bias(4, std=1.0), FIRE(4, init_L=4), ALiBi(4)], ids=lambda scheme: scheme.name)
def test_attention_calls_any_module_that_gives_a_form(scheme, impl):
    """With padding on the left, on which the bias of FIRE depends."""
    query, key, value = torch.randn(3, 2, 4, 20, 8)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :7] = False
    calls = []
    wrapped = Doubled(scheme)
    hook = scheme.register_forward_hook(lambda *_: calls.append(1))
    got = attention(query, key, value, wrapped, causal=True, key_mask=mask, impl=impl)
    hook.remove()
    want = attention(query, key, value, scheme, causal=True, key_mask=mask, bias_scale=2.0, impl="reference")
    torch.testing.assert_close(got, want)
    assert calls == [1]


@pytest.mark.usefixtures("unchecked")
def test_attention_refuses_what_is_no_scheme():
    query, key, value = torch.randn(3, 1, 2, 5, 8)
    with pytest.raises(ValueError, match=r"^bias: got Linear, expected a scheme"):
        attention(query, key, value, nn.Linear(2, 2))

"""torch.compile of fused and swapped models. Run by test_tracing.py in a process without shape checks."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from falloff import T5Bias, hf
from falloff.hf import checking, small_models

FAMILIES = ["t5", "umt5", "bloom", "mpt", "falcon", "inkling", "inkling2", "pix2struct", "deberta-v3"]


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # BLOOM's own GELU
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["none", "left"])
def test_one_graph(family, side):
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = small_models.MODELS[family]().eval()
    if "inkling" in family:
        plain.config._experts_implementation = "grouped_mm"
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    batch = checking._batch(plain, side)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert checking._error(checking._logits(plain, batch), checking._logits(compiled, batch)) <= checking.LOGITS


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", [*FAMILIES, "mt5", "pop2piano", "falcon-mqa"])
def test_no_length_is_compiled_again(family, padded):
    """torch.compile makes lengths symbolic at the second length; no check, mask or form may make one a constant again."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = small_models.MODELS[family]().eval()
    if "inkling" in family:
        model.config._experts_implementation = "grouped_mm"
    hf.fuse(model)
    compilations = CompileCounter()
    compiled = torch.compile(model, backend=compilations)
    counts = []
    for length in (20, 31, 45, 50, 66, 70):
        ids = torch.randint(2, 80, (3, length))
        batch = small_models.inputs(model, 3, length)
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = ids[:, : length // 2]
        if padded:
            batch["attention_mask"] = torch.ones_like(ids)
            batch["attention_mask"][1, :3] = 0
        with torch.no_grad():
            compiled(**batch, use_cache=False)
        counts.append(compilations.frame_count)
    assert counts == [1, 2, 2, 2, 2, 2]


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")
def test_no_step_is_compiled_again():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = small_models.MODELS["bloom"]().eval()
    hf.fuse(model)
    compilations = CompileCounter()
    compiled = torch.compile(model, backend=compilations)
    ids, mask = torch.randint(2, 80, (2, 30)), torch.ones(2, 99, dtype=torch.long)
    mask[0, 4:9] = 0
    with torch.no_grad():
        cache = model(ids[:, :20], attention_mask=mask[:, :20], use_cache=True).past_key_values
        steps = [
            compiled(ids[:, i : i + 1], attention_mask=mask[:, : i + 1], past_key_values=cache, use_cache=True).logits
            for i in range(20, 30)
        ]
        whole = model(ids, attention_mask=mask[:, :30], use_cache=False).logits[:, 20:]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)
    assert compilations.frame_count <= 2


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")
def test_compiled_bloom_refuses_padding_between_tokens():
    """The compiled graph has ALiBi by offset alone, which is wrong behind such padding; only the mask's values show it."""
    torch._dynamo.reset()
    model = small_models.MODELS["bloom"]().eval()
    hf.fuse(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids, mask = torch.randint(2, 80, (2, 12)), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    compiled(ids, attention_mask=mask, use_cache=False)
    mask[1, 4:6] = 0
    with pytest.raises(RuntimeError, match=r"attention_mask: got one with padding between tokens, which a compiled model"):
        compiled(ids, attention_mask=mask, use_cache=False)


@pytest.mark.parametrize("window", [None, 9])
def test_windows_and_packed_texts(window):
    from transformers import MistralConfig, MistralForCausalLM

    torch._dynamo.reset()
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = MistralConfig(**sizes, num_hidden_layers=2, intermediate_size=64, sliding_window=window)
    model = MistralForCausalLM(config).eval()
    hf.swap(model, lambda heads: T5Bias(heads, std=1.0))
    ids = torch.randint(2, 60, (2, 30))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for positions in (None, torch.cat([torch.arange(12), torch.arange(18)]).expand(2, -1)):
        with torch.no_grad():
            want, got = (each(ids, position_ids=positions, use_cache=False).logits for each in (model, compiled))
        torch.testing.assert_close(got, want)

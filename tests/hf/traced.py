"""torch.compile of fused and swapped models. Run by test_tracing.py in a process without shape checks."""

import copy

import pytest
import torch

from falloff import T5Bias, hf
from falloff.hf import checking


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # BLOOM's own GELU
@pytest.mark.parametrize("family", ["t5", "umt5", "bloom", "mpt", "falcon", "inkling"])
@pytest.mark.parametrize("side", ["none", "left"])
def test_one_graph(family, side):
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = checking.MODELS[family]().eval()
    if family == "inkling":
        plain.config._experts_implementation = "grouped_mm"
    fused = copy.deepcopy(plain)
    hf.fuse(fused)
    batch = list(checking._batches(plain))[("none", "left").index(side)]
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert checking._error(checking._logits(plain, batch), checking._logits(compiled, batch)) <= checking.LOGITS


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

"""The scheme of one's own that the documentation shows works everywhere a scheme does."""

import re
from pathlib import Path

import pytest
import torch

from falloff.lab.compare import compare_schemes
from falloff.lab.config import Settings
from falloff.lab.store.trials import Trial
from falloff.named import scheme_class

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "howto" / "own-scheme.md"
(CODE,) = re.findall(r'^```python title="logarithmic.py"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def own_scheme():
    names: dict = {"__name__": "own"}
    exec(compile(CODE, str(PAGE), "exec"), names)
    return names["Logarithmic"]


@pytest.mark.parametrize("share", [False, True])
def test_the_scheme_of_ones_own_is_swapped_trained_saved_and_loaded(own_scheme, share, tmp_path):
    transformers = pytest.importorskip("transformers")
    from falloff import hf

    sizes = {"vocab_size": 60, "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 64}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    hf.swap(model, own_scheme, share=share)
    ids = torch.randint(2, 60, (2, 20))
    model(ids, labels=ids).loss.backward()
    strengths = [p for name, p in model.named_parameters() if "falloff_bias.strength" in name]
    assert len(strengths) == (1 if share else 2)
    assert all(p.grad.abs().max() > 0 for p in strengths)
    with torch.no_grad():
        for p in strengths:
            p.mul_(2)
    model.eval().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^make_bias: got None .* with Logarithmic, .* load\(folder, Logarithmic\)"):
        hf.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(hf.load(tmp_path, own_scheme).eval()(ids).logits, model(ids).logits)


def test_the_scheme_of_ones_own_is_compared_and_drawn(own_scheme, tmp_path):
    """The road of `falloff compare`: training, evaluation, checkpoint, report; and the figures of the views."""
    (tmp_path / "logarithmic.py").write_text(CODE)
    name = f"{tmp_path}/logarithmic.py:Logarithmic"
    scheme_class(name)
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 900)
    sizes = {"train_length": 16, "steps": 3, "batch_size": 4, "layers": 1, "width": 16, "heads": 2, "windows": 8}
    settings = Settings.of_preset(
        "quick", **sizes, resamples=100, device="cpu", schemes=(name,), text=(str(text),), threads=1
    )
    comparison = compare_schemes(settings, tmp_path / "run")
    assert {line["bias_parameters"] for line in comparison.results} == {2}
    assert "strength" in "".join(comparison.folder.trial(Trial("text", name, 0), comparison.config).model())
    bias = own_scheme(3)
    assert bias.plot(16).axes
    assert bias.show(4, head=2).axes

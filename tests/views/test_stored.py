from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from falloff import BAM, FIRE, TISA, ALiBi, KerpleLog, PerOffsetBias, Sandwich, T5Bias
from falloff.views.stored import stored_scheme

ENCODER = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"


@pytest.fixture
def stored(tmp_path):
    def run(tensors, cls, settings=None, **more):
        save_file(tensors, tmp_path / "model.safetensors")
        return stored_scheme(tmp_path / "model.safetensors", cls, settings or {}, **more)

    return run


@pytest.mark.parametrize(
    "scheme",
    [
        FIRE(6, width=8),
        TISA(6, kernels=3),
        KerpleLog(6),
        BAM(3),
        T5Bias(2, 20, 40),
        PerOffsetBias(4, 32),
        ALiBi(8, learned=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", ["", "scheme", "model.layers.0.self_attn.falloff_bias"])
def test_a_scheme_is_found_with_its_sizes(stored, scheme, place):
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter.add_(torch.randn_like(parameter))
    dot = f"{place}." if place else ""
    tensors = {dot + name: value for name, value in scheme.state_dict().items()}
    given = {"max_distance": 40} if isinstance(scheme, T5Bias) else {}  # of which the shapes tell nothing
    found, where = stored({**tensors, "embedding.weight": torch.zeros(256, 64)}, type(scheme), given)
    assert where == place
    assert found.num_heads == scheme.num_heads
    assert torch.equal(found.dense(3, 700), scheme.dense(3, 700))


def test_the_encoder_of_t5_looks_both_ways(stored):
    weights = {f"{ENCODER}.weight": torch.randn(32, 8)}
    assert stored(weights, T5Bias)[0].bidirectional
    assert not stored(weights, T5Bias, {"bidirectional": False})[0].bidirectional


def test_of_several_one_is_chosen(stored):
    both = {f"{ENCODER}.weight": torch.ones(32, 8), f"{ENCODER.replace('en', 'de', 1)}.weight": torch.zeros(32, 8)}
    with pytest.raises(ValueError, match=r"got values for t5 in 2 modules, expected --prefix with one: decoder.*, encoder"):
        stored(both, T5Bias)
    assert stored(both, T5Bias, prefix=ENCODER)[0].weight.eq(1).all()
    with pytest.raises(ValueError, match="got no values for t5 in 'encoder'"):
        stored(both, T5Bias, prefix="encoder")


def test_what_has_no_values_is_refused(stored):
    embedding = {"embedding.weight": torch.zeros(256, 64)}
    with pytest.raises(ValueError, match="got no values for t5, expected tensors that end in weight"):
        stored(embedding, T5Bias)
    with pytest.raises(ValueError, match="got no values for sandwich, expected tensors that end in none"):
        stored(embedding, Sandwich)
    with pytest.raises(ValueError, match="got no values for t5"):
        stored({"scheme.weight": torch.zeros(32, 8)}, T5Bias, num_heads=4)
    with pytest.raises(ValueError, match=r"scheme.weight has values that are not finite numbers"):
        stored({"scheme.weight": torch.full((32, 8), torch.nan)}, T5Bias)
    with pytest.raises(ValueError, match=r"scheme.weight has values that are not finite numbers"):
        stored({"scheme.weight": torch.zeros(32, 8, dtype=torch.int64)}, T5Bias)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"\xff" * 100, b'\x08\0\0\0\0\0\0\0{"a": 1'])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="got no safetensors file") as caught:
        stored_scheme(path, T5Bias, {})
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        stored_scheme(Path("none.safetensors"), T5Bias, {})


def test_shapes_alone_are_compared(stored, monkeypatch):
    """A small file whose sizes fit a scheme of 60000 heads and as many buckets costs no memory for it."""
    most = 0
    usual = torch.nn.Parameter.__new__

    def counted(cls, data=None, requires_grad=True):
        nonlocal most
        most = max(most, 0 if data is None or data.is_meta else data.numel())
        return usual(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", counted)
    with pytest.raises(ValueError, match="got no values for per-offset"):
        stored({"scheme.weight": torch.zeros(3000)}, PerOffsetBias)
    with pytest.raises(ValueError, match="got no values for per-offset"):
        stored({"scheme.weight": torch.zeros(9)}, PerOffsetBias, {"max_distance": 2**60})
    assert most == 0

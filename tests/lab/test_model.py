import pytest
import torch

from falloff.lab.config import BASELINES, KNOWN_SCHEMES
from falloff.lab.model import build_model, build_scheme, parameter_counts, rotated, rotation
from falloff.named import scheme_class


@pytest.mark.parametrize("name", KNOWN_SCHEMES)
def test_causal_at_every_length(toy, name):
    model = build_model(toy(layers=2), name, 0, 256)
    tokens = torch.randint(0, 256, (2, 40))
    other = tokens.clone()
    other[:, 25:] = (other[:, 25:] + 1) % 256
    logits, changed = model(tokens), model(other)
    assert logits.shape == (2, 40, 256)
    torch.testing.assert_close(logits[:, :25], changed[:, :25])
    assert not torch.allclose(logits[:, 25:], changed[:, 25:])


def test_shared_weights_are_the_same_and_depend_on_the_seed(toy):
    plain = build_model(toy(), "none", 0, 256).state_dict()
    for name in KNOWN_SCHEMES:
        weights = build_model(toy(), name, 0, 256).state_dict()
        assert weights.keys() >= plain.keys()
        assert all(torch.equal(weights[key], plain[key]) for key in plain)
    t5, again, other = (build_model(toy(), "t5", seed, 256) for seed in (0, 0, 1))
    assert torch.equal(t5.scheme.weight, again.scheme.weight)
    assert not torch.equal(t5.scheme.weight, other.scheme.weight)
    assert not torch.equal(t5.head.weight, other.head.weight)


def test_building_leaves_the_global_generator_alone(toy):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model(toy(), "fire", 0, 256)
    assert torch.equal(torch.rand(1), expected)


def test_schemes_fit_the_trained_length():
    assert build_scheme("t5", 4, 1024).max_distance == 128
    assert build_scheme("t5", 4, 64).max_distance == 64
    assert build_scheme("t5", 4, 8).num_buckets == 8
    assert build_scheme("per-offset", 4, 64).weight.shape == (64, 4)
    assert build_scheme("fire", 4, 2048).init_L == 512
    assert build_scheme("rope", 4, 64) is None
    assert build_scheme("none", 4, 64) is None


def test_bias_is_used_and_shared(toy):
    model = build_model(toy(layers=3), "alibi", 0, 256)
    tokens = torch.randint(0, 256, (1, 16))
    with_bias = model(tokens)
    model.scheme = None
    assert not torch.allclose(with_bias, model(tokens))
    total, bias = parameter_counts(build_model(toy(layers=3), "per-offset", 0, 256))
    assert bias == 16 * 2
    assert total == parameter_counts(build_model(toy(layers=3), "none", 0, 256))[0] + bias


def test_schemes_with_content_get_what_they_are_called_with(toy):
    """Each layer has its own projection; the scheme is shared, and all of it learns."""
    for name in ("profile-mixture", "forgetting", "disentangled", "transformer-xl", "gated-t5", "shaw"):
        model = build_model(toy(layers=2), name, 0, 256)
        assert len(model.blocks[0].states) == (name in ("profile-mixture", "forgetting"))
        assert getattr(model.scheme, "head_dim", model.head_size) == model.head_size
        model(torch.randint(0, 256, (1, 16))).sin().sum().backward()
        learns = {key: parameter.grad is not None for key, parameter in model.named_parameters()}
        assert all(learns.values()), [key for key, does in learns.items() if not does]
    _, bias = parameter_counts(build_model(toy(layers=2), "forgetting", 0, 256))
    assert bias == 0  # its projections belong to the model


OWN = """
import torch
from falloff import Potential, Scheme
from falloff.schemes.content import ContentScheme


class Levels(ContentScheme):
    content = ("gates", "query")

    def __init__(self, num_heads, head_dim):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.weight = torch.nn.Parameter(torch.ones(head_dim))

    def form_of(self, gates, query):
        return Potential(query @ self.weight, gates)


class Unnamed(Scheme):
    needs_content = True
    num_heads = 2
"""


def test_a_scheme_with_content_of_ones_own_names_what_it_is_called_with(toy, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    levels, unnamed = f"{tmp_path}/own.py:Levels", f"{tmp_path}/own.py:Unnamed"
    for name in (levels, unnamed):
        scheme_class(name)
    model = build_model(toy(), levels, 0, 256)
    assert model.scheme.head_dim == model.head_size
    assert model(torch.randint(0, 256, (1, 16))).shape == (1, 16, 256)
    with pytest.raises(ValueError, match=r"whose bias depends on what the tokens say, expected .*\.ContentScheme"):
        build_model(toy(), unnamed, 0, 256)


def test_rope_depends_on_the_offset_alone():
    query, key = torch.randn(2, 1, 1, 8)
    turn = rotation(50, 8, torch.device("cpu"))
    everywhere = torch.ones(1, 1, 50, 1)
    scores = (rotated(query * everywhere, turn) @ rotated(key * everywhere, turn).transpose(-1, -2))[0, 0]
    for offset in (-7, 0, 13):
        diagonal = scores.diagonal(-offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[13, 0] != pytest.approx(scores[0, 0].item())
    turned = rotated(query * everywhere, turn)
    torch.testing.assert_close(turned.norm(dim=-1), (query * everywhere).norm(dim=-1))


def test_none_knows_no_order_and_rope_does(toy):
    tokens = torch.arange(10)[None]
    shuffled = tokens.clone()
    shuffled[0, :9] = tokens[0, torch.randperm(9)]
    none, rope = (
        build_model(toy(), name, 0, 256) for name in ("none", "rope")
    )  # one layer: a set of keys, without positions
    torch.testing.assert_close(none(tokens)[:, -1], none(shuffled)[:, -1])
    assert not torch.allclose(rope(tokens)[:, -1], rope(shuffled)[:, -1])


@pytest.mark.parametrize("name", ["t6", "", "RoPE"])
def test_an_unknown_scheme_is_refused(toy, name):
    """It would be trained without a bias, and stored under that name."""
    with pytest.raises(ValueError, match=f"scheme: got '{name}', expected one of alibi, .*, rope, none, or module:Class"):
        build_scheme(name, 2, 16)
    with pytest.raises(ValueError, match=f"scheme: got '{name}'"):
        build_model(toy(), name, 0, 256)
    assert [name for name in KNOWN_SCHEMES if build_scheme(name, 2, 16) is None] == list(BASELINES)

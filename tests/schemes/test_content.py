"""Every scheme with content against its published definition: float64, values and the gradients of parameters and states."""

import pytest
import torch

from falloff import (
    SCHEMES,
    ALiBi,
    Cable,
    DisentangledBias,
    ForgettingBias,
    GatedT5Bias,
    ProfileMixture,
    ShawBias,
    TransformerXLBias,
    attention,
)
from schemes import content_definitions as definitions
from schemes.drawn import SIZES, cases, moved

H, D = 2, 4
OTHERS = {
    "shaw": lambda: ShawBias(H, D, 3),
    "shaw, other future": lambda: ShawBias(H, D, 4, future_distance=1),
    "transformer-xl": lambda: TransformerXLBias(H, D),
    "transformer-xl bidirectional": lambda: TransformerXLBias(H, D, bidirectional=True, interleaved=False, model_dim=6),
    "disentangled": lambda: DisentangledBias(H, D, 6, 9),
    "disentangled, one term": lambda: DisentangledBias(H, D, 8, 20, "p2c", model_dim=5),
    "disentangled, other term": lambda: DisentangledBias(H, D, 4, 5, "c2p"),
    "disentangled, no buckets": lambda: DisentangledBias(H, D, -1, 4),
    "gated-t5": lambda: GatedT5Bias(H, D, 8, 7, std=1.0),
}
# test_definitions.py has the profile mixture.
WITH_CONTENT = [cls for cls in SCHEMES.values() if cls.needs_content and cls is not ProfileMixture]
CASES = cases(definitions, WITH_CONTENT, OTHERS, H, D)


def scheme_of(name):
    definition, make = CASES[name]
    return definition, moved(make, lambda parameter: 0.3 * torch.randn_like(parameter))


def states_of(scheme, num_queries, num_keys, dtype=torch.float64):
    shapes = {
        "query": (2, H, num_queries, D),
        "key": (2, H, num_keys, D),
        "hidden": (2, num_queries, H * D),
        "gates": (2, H, num_keys),
        "state": (2, H, num_queries, getattr(scheme, "state_dim", 1)),
    }
    return {name: torch.randn(shapes[name], dtype=dtype, requires_grad=True) for name in scheme.content}


def has_gates_for(name, num_queries, num_keys, query_start):
    start = num_keys - num_queries if query_start is None else query_start
    return name not in ("forgetting", "cable") or (start >= 0 and start + num_queries <= num_keys)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_is_the_definition(name, sizes):
    definition, scheme = scheme_of(name)
    states = states_of(scheme, *sizes[:2])
    if not has_gates_for(name, *sizes):
        with pytest.raises(ValueError, match="query_start: got queries at the positions"):
            scheme.form(*sizes, **states)
        return
    expected = definitions.dense(definition, scheme, states, *sizes)
    got = scheme.dense(*sizes, **states)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    leaves = [*states.values(), *scheme.parameters()]
    weights = torch.sin(torch.arange(got.numel(), dtype=torch.float64)).view(got.shape)
    may_be_0 = {"pos_bias_u", *states}  # u acts by the query of attention; of one term, one of two states is not used
    names = [*states, *(name for name, _ in scheme.named_parameters())]
    grads = [
        torch.autograd.grad((bias * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
        for bias in (got, expected)
    ]
    for leaf, grad, expected_grad in zip(names, *grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-11, msg=lambda m, leaf=leaf: f"{leaf}: {m}")
        assert leaf in may_be_0 or sizes != SIZES[0] or grad.abs().max() > 0, leaf


def test_every_scheme_with_content_is_held_against_its_definition():
    tested = {type(make()) for _, make in CASES.values()}
    assert tested == {scheme for scheme in SCHEMES.values() if scheme.needs_content} - {ProfileMixture}


@pytest.mark.parametrize("name", CASES)
def test_attention_takes_the_form(name):
    """Values and gradients of a causal layer, against the scores written out."""
    definition, scheme = scheme_of(name)
    states = states_of(scheme, 7, 7)
    query = states.get("query", torch.randn(2, H, 7, D, dtype=torch.float64, requires_grad=True))
    key = states.get("key", torch.randn(2, H, 7, D, dtype=torch.float64, requires_grad=True))
    value = torch.randn(2, H, 7, D, dtype=torch.float64, requires_grad=True)
    leaves = list({id(leaf): leaf for leaf in (query, key, value, *states.values(), *scheme.parameters())}.values())
    out = attention(scheme.content_query(query), key, value, scheme(*states.values()), causal=True, scale=scheme.scale)
    content = query + scheme.pos_bias_u[:, None] if "xl" in name else query
    terms = len(scheme.pos_att_type.split("|")) if "disentangled" in name else 0
    scale = ((1 + terms) * D) ** -0.5
    scores = scale * content @ key.mT + definitions.dense(definition, scheme, states, 7, 7)
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-11)
    grads = [torch.autograd.grad(o.sin().sum(), leaves, allow_unused=True, materialize_grads=True) for o in (out, expected)]
    for grad, expected_grad in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_generation_by_a_cache_is_the_whole(name):
    _, scheme = scheme_of(name)
    states = states_of(scheme, 9, 9)
    whole = scheme.dense(9, 9, **states)
    last = {
        name: state if name in ("key", "gates") else state.narrow(state.dim() // 4 + 1, 6, 3)
        for name, state in states.items()
    }
    torch.testing.assert_close(scheme.dense(3, 9, **last), whole[:, :, 6:])


@pytest.mark.parametrize("name", CASES)
def test_a_model_in_bfloat16(name):
    """Within the rounding of its states and parameters: what is added up or multiplied is in float32."""
    _, make = CASES[name]
    scheme = make().bfloat16()
    states = states_of(scheme, 6, 6, torch.bfloat16)
    bias = scheme.dense(6, 6, dtype=torch.float32, **states)
    exact = scheme.double().dense(6, 6, **{name: state.double() for name, state in states.items()})
    torch.testing.assert_close(bias.double(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("make", [ForgettingBias, Cable])
def test_running_sums_are_in_float32(make):
    gates = torch.randn(1, H, 300).bfloat16()
    got = make(H)(gates)
    assert {tensor.dtype for tensor in got.tensors} == {torch.float32}
    torch.testing.assert_close(got.row.double(), make(H)(gates.double()).row, rtol=1e-5, atol=1e-5)


def test_forgetting_is_cable_of_turned_gates_and_alibi_with_equal_ones():
    gates = torch.randn(1, H, 9, dtype=torch.float64)
    torch.testing.assert_close(ForgettingBias(H)(gates).row, Cable(H)(-gates).row)
    slopes = torch.tensor([2.0**-4, 2.0**-8], dtype=torch.float64)  # softplus(log(exp(m) - 1)) = m
    equal = torch.log(torch.expm1(slopes))[None, :, None].expand(1, H, 9)
    got = Cable(H).dense(9, 9, gates=equal)[0].tril()
    torch.testing.assert_close(got, ALiBi(H).dense(9, 9, dtype=torch.float64).tril())


@pytest.mark.parametrize("name", CASES)
def test_published_names(name):
    names = {
        "shaw": {"distance_embedding.weight"},
        "transformer-xl": {"pos_bias_u", "pos_bias_v", "linear_pos.weight"},
        "gated-t5": {"gru_rel_pos_const", "gru_rel_pos_linear.weight", "gru_rel_pos_linear.bias", "rel_attn_embed.weight"},
        "disentangled": {
            "rel_embeddings.weight",
            *(f"pos_{side}_proj.{kind}" for side in ("key", "query") for kind in ("weight", "bias")),
        },
        "forgetting": set(),
        "cable": set(),
    }
    if name in names:
        assert CASES[name][1]().state_dict().keys() == names[name]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", CASES)
def test_errors(name):
    _, scheme = scheme_of(name)
    with pytest.raises(ValueError, match=rf"bias: got a {type(scheme).__name__} without states, expected \w+\("):
        attention(*[torch.randn(1, H, 3, D)] * 3, scheme)
    for call in (scheme, lambda: scheme.form(3, 3), lambda: scheme.at(torch.zeros(1).long()), lambda: scheme.dense(3, 3)):
        with pytest.raises(ValueError, match="without states"):
            call()
    states = states_of(scheme, 5, 5)
    first = scheme.content[0]
    with pytest.raises(ValueError, match=f"^{first}: got torch.int64, expected a floating point tensor of shape"):
        scheme(*(state.long() for state in states.values()))
    with pytest.raises(ValueError, match=rf"^{first}: got shape \(2, .*\), expected \(B, "):
        scheme(*(torch.cat([state, state], -2 if first == "gates" else -1) for state in states.values()))
    with pytest.raises(ValueError, match=f"^{first}: got list"):
        scheme(*([] for _ in states))
    with pytest.raises(ValueError, match="num_keys: got -2"):
        scheme.form(3, -2, **states)
    if first != "gates" and name != "disentangled, one term":  # which is that of the keys
        with pytest.raises(ValueError, match=r"bias: got .* for batch size 2 and 4 query rows"):
            scheme.form(4, 5, **states)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShawBias(0), "num_heads: got 0"),
        (lambda: ShawBias(2, 0), "head_dim: got 0"),
        (lambda: ShawBias(2, 4, 0), "max_distance: got 0"),
        (lambda: ShawBias(2, 4, 3, -1), "future_distance: got -1"),
        (lambda: TransformerXLBias(2, 4, model_dim=5), "model_dim: got 5, expected an even number"),
        (lambda: TransformerXLBias(2, 4, bidirectional=1), "bidirectional: got 1, expected True or False"),
        (lambda: DisentangledBias(2, 4, 7), "position_buckets: got 7, expected an even number, or -1"),
        (lambda: DisentangledBias(2, 4, 2), "position_buckets: got 2, expected an int of at least 4"),
        (lambda: DisentangledBias(2, 4, 16, 9), "max_relative_positions: got 9, expected an int of at least 10"),
        (lambda: DisentangledBias(2, 4, pos_att_type="p2p"), "pos_att_type: got 'p2p', expected 'c2p|p2c'"),
        (lambda: GatedT5Bias(2, 4, 7), "num_buckets: got 7, expected an even number"),
        (lambda: ForgettingBias(0), "num_heads: got 0"),
        (lambda: ShawBias(2, 4)(torch.zeros(1, 2, 3, 4), scale="1"), "scale: got '1'"),
        (
            lambda: DisentangledBias(2, 4, 4, 5, share_att_key=True)(*[torch.zeros(1, 2, 3, 4)] * 2),
            "pos_key: got None, expected the projected embeddings",
        ),
        (
            lambda: DisentangledBias(2, 4, 4, 5)(*[torch.zeros(1, 2, 3, 4)] * 2, pos_key=torch.zeros(7, 8)),
            r"pos_key: got shape \(7, 8\), expected \(8, 8\)",
        ),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()

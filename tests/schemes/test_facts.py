"""Facts of single schemes: what the papers state, settings, initial values, checkpoints."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

from falloff import (
    BAM,
    FIRE,
    SCHEMES,
    TISA,
    ALiBi,
    KerpleLog,
    KerplePower,
    PerOffsetBias,
    Sandwich,
    Scheme,
    T5Bias,
    alibi_slopes,
    attention,
    t5_bucket,
)
from falloff.schemes.settings import setting_parameters, settings_of, title_of
from falloff.schemes.t5 import _bucket_starts


def test_the_books_grid():
    """n_b = 3, dist_max = 5, six positions, as printed."""
    printed = """
        0 X X X X X
        1 0 X X X X
        2 1 0 X X X
        2 2 1 0 X X
        3 2 2 1 0 X
        3 3 2 2 1 0
    """
    bias = T5Bias.from_book(1, n_b=3, dist_max=5)
    for i, row in enumerate(printed.split("\n")[1:-1]):
        for j, cell in enumerate(row.split()):
            if cell != "X":
                assert bias.bucket(torch.tensor(i - j)) == int(cell)


@pytest.mark.parametrize("n_b", range(3, 64, 2))
def test_the_books_formula_agrees_for_odd_n_b(n_b):
    """The book halves n_b + 1 buckets and counts the far ones in logarithms, up to n_b."""
    dist_max = 3 * n_b
    half = (n_b + 1) / 2
    bias = T5Bias.from_book(1, n_b, dist_max)
    for n in range(4 * n_b):
        if n < half:
            expected = n
        else:
            share = math.log(n / half) / math.log(dist_max / half) * half
            expected = min(n_b, math.floor(half + share + 1e-12))
        assert bias.bucket(torch.tensor(n)) == expected


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cls", [T5Bias, PerOffsetBias])
def test_the_formula_is_that_of_the_buckets(cls, bidirectional):
    """`explain` shows it. Evaluated as Python, it gives the row of `weight`."""
    scheme = cls(1, bidirectional=bidirectional)
    names = {
        "ln": math.log,
        "floor": math.floor,
        "clamp": lambda x, low, high: min(max(x, low), high),
        **settings_of(scheme),
    }
    row, *definitions = re.sub(r"\|n\|", "abs(n)", scheme.formula).removeprefix("weight[").split("; ")
    for definition in definitions:
        name, expression = definition.split(" = ")
        exec(f"def {name}: return {expression}" if "(" in name else definition, names)
    for n in range(-300, 300):
        assert eval(row.removesuffix(", h]"), names, {"n": n}) == scheme.bucket(torch.tensor(n))


def test_bucket_thresholds_are_exact():
    # Where float32 logarithms go wrong: 36 buckets up to 392 put offset 84 into bucket 26.
    assert t5_bucket(torch.tensor(84), 36, 392) == 27
    starts = _bucket_starts(36, 392)
    exact, far = 18, 18
    for k, start in enumerate(starts[exact:]):
        assert start**far * exact**k >= 392**k * exact**far
        assert (start - 1) ** far * exact**k < 392**k * exact**far


def test_the_last_bucket_starts_before_max_distance():
    assert T5Bias(1).reach == 113
    assert t5_bucket(torch.tensor([112, 113, 128, 10**9])).tolist() == [30, 31, 31, 31]


def test_bidirectional_never_uses_the_first_bucket_of_the_future():
    buckets = t5_bucket(torch.arange(-500, 500), bidirectional=True)
    assert 16 not in buckets
    assert set(buckets.tolist()) == set(range(32)) - {16}


def test_t5_with_enough_buckets_is_per_offset():
    t5, per_offset = T5Bias(2, num_buckets=40, max_distance=64), PerOffsetBias(2, max_distance=19)
    per_offset.weight.data = t5.weight.data[:20]
    assert torch.equal(t5.dense(20, 20).tril(), per_offset.dense(20, 20).tril())


def test_power_with_exponent_one_is_alibi():
    alibi, power = ALiBi(4), KerplePower(4)
    power.bias_p.data.fill_(1.0)
    power.bias_a.data = alibi_slopes(4).float().view(4, 1, 1)
    # The fourth slope, 2^-8, is below the minimum of KERPLE.
    torch.testing.assert_close(power.dense(9, 9)[:3], alibi.dense(9, 9)[:3])


def test_bam_with_shape_one_is_alibi_and_with_shape_two_a_gaussian():
    bam = BAM(4)
    torch.testing.assert_close(bam.dense(9, 9), ALiBi(4).dense(9, 9))
    bam.log_shape.data.fill_(math.log(2))
    bam.location.data.fill_(1.5)
    n = torch.arange(-5, 9)
    torch.testing.assert_close(bam.at(n), -(((n - 1.5) * alibi_slopes(4).float()[:, None]) ** 2))


def test_bam_at_its_location_has_finite_gradients():
    """Of a power below 1 the slope at 0 is infinite."""
    bam = BAM(2)
    bam.log_shape.data.fill_(-1.0)
    bam.dense(5, 5).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in bam.parameters())
    assert (bam.at(torch.zeros(1).long()) == 0).all()


@pytest.mark.parametrize("scheme", [ALiBi(4), KerpleLog(4), KerplePower(4)], ids=lambda s: s.name)
def test_monotone(scheme):
    assert (scheme.at(torch.arange(2000)).diff(dim=1) < 0).all()


def test_sandwich_is_not_monotone():
    steps = Sandwich(4).at(torch.arange(2000)).diff(dim=1)
    assert (steps < 0).any()
    assert (steps > 0).any()


def test_sandwich_heads_get_flatter():
    values = Sandwich(4, 32).at(torch.arange(1, 100))
    torch.testing.assert_close(values[0], 4 * values[3])


@pytest.mark.parametrize("value", [-300.0, 1e-9, -1e30])
def test_a_kerple_parameter_far_out_of_range_counts_as_the_end_of_it(value):
    kerple, at_the_end = KerplePower(2), KerplePower(2)
    for scheme, number in ((kerple, value), (at_the_end, 0.01)):
        for parameter in scheme.parameters():
            parameter.data.fill_(number)
    assert torch.equal(kerple.at(torch.arange(5)), at_the_end.at(torch.arange(5)))


def test_kerple_parameters_stay_in_range_and_can_come_back():
    kerple = KerplePower(2)
    kerple.bias_p.data.fill_(5.0)
    kerple.bias_a.data.fill_(-1.0)
    n = torch.arange(5)
    values = kerple.at(n)
    torch.testing.assert_close(values, (-0.01 * n.float() ** 2).expand(2, -1))
    values.sum().backward()
    assert (kerple.bias_a.grad != 0).all()


def test_start_values():
    torch.manual_seed(0)
    assert abs(T5Bias(64, 256, 1024).weight.std() - 0.02) < 1e-3
    assert abs(T5Bias(64, 256, 1024, std=0.5).weight.std() - 0.5) < 0.02
    log, power = KerpleLog(4096), KerplePower(4096)
    for kerple in (log, power):
        assert kerple.bias_p.min() >= 0.01
        assert 1.95 < kerple.bias_p.max() <= 2
        assert kerple.bias_a.min() >= 0.01
        assert 0.95 < kerple.bias_a.max() <= 1
    tisa = TISA(1000)
    assert abs(tisa.kernel_offsets.std() - 5) < 0.3
    assert abs(tisa.kernel_amplitudes.mean() - 0.1) < 0.01


def test_checkpoint_names_follow_the_published_code():
    def shapes(scheme):
        return {name: tuple(tensor.shape) for name, tensor in scheme.state_dict().items()}

    assert shapes(T5Bias(4)) == {"weight": (32, 4)}
    assert shapes(KerpleLog(4)) == shapes(KerplePower(4)) == {"bias_p": (4, 1, 1), "bias_a": (4, 1, 1)}
    assert shapes(FIRE(4)) == {
        "c": (1,),
        "L_multiplier": (1,),
        "init_L": (1,),
        "mlp.0.weight": (32, 1),
        "mlp.0.bias": (32,),
        "mlp.2.weight": (4, 32),
        "mlp.2.bias": (4,),
    }
    assert shapes(BAM(4)) == dict.fromkeys(("location", "log_scale", "log_shape"), (4,))
    assert shapes(TISA(4)) == dict.fromkeys(("kernel_offsets", "kernel_amplitudes", "kernel_sharpness"), (5, 4))


class Inverse(Scheme):
    """A scheme of a user's own."""

    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def at(self, offsets):
        return -self.strength[:, None] * (1 - 1 / (1 + offsets.abs()))


def test_a_scheme_of_ones_own_needs_only_at():
    scheme = Inverse()
    assert torch.equal(scheme.form(4, 9).dense(4, 9), scheme.dense(4, 9))
    assert scheme.dense(1, 2)[1].tolist() == [[-1.0, 0.0]]


@pytest.mark.parametrize("query_start", [None, 0, 5000, -5000, 2_000_000])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_t5_costs_what_the_call_needs_and_not_what_max_distance_is(bidirectional, query_start):
    """At eed457e 64 tokens took 1.0 s at a max_distance of 10 million."""
    bias = T5Bias(2, max_distance=1_000_000, bidirectional=bidirectional, std=1.0)
    form = bias.form(3, 64, query_start)
    assert form.values.shape[1] <= 2 * 1024 + 64 + 3
    torch.testing.assert_close(form.dense(3, 64, query_start), bias.dense(3, 64, query_start))


def ties():
    """FIREs with knots exactly at the x of some offset, by the reason."""
    fires = {
        name: FIRE(2, width=8, init_c=0.3, init_L=4.0) for name in ("biases 0", "w1 0", "both 0", "equal", "at a row's x")
    }
    with torch.no_grad():
        for name, fire in fires.items():
            weight, bias = fire.mlp[0].weight, fire.mlp[0].bias
            if name in ("biases 0", "both 0"):  # as GPT-2 initialises
                bias.zero_()
            if name in ("w1 0", "both 0"):
                weight[::3] = 0
            if name in ("equal", "at a row's x"):
                x = fire.form(12, 12).g[3] * fire.form(12, 12).a[9] if name != "equal" else 0.25
                weight.copy_(weight.sign())
                bias.copy_(-x * weight[:, 0])
    return fires


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["cpu", "blockwise", "triton"])
@pytest.mark.parametrize("name", ties())
def test_a_unit_of_fire_is_inactive_at_its_knot(name, impl, dtype):
    """relu'(0) = 0. At eed457e units with w1 < 0 got a gradient from every diagonal where the knots lie at 0."""
    torch.manual_seed(0)
    bias = ties()[name].to(dtype)
    precise = impl == "blockwise"  # the others take no float64; a bias in float64 they take
    query, key, value = (torch.randn(2, 2, 12, 4, dtype=dtype if precise else torch.float32) for _ in range(3))
    found = []
    for implementation in (impl, "reference"):
        out = attention(query, key, value, bias, causal=True, impl=implementation)
        found.append([out, *torch.autograd.grad(out.sin().sum(), list(bias.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


class Own(Scheme):
    def __init__(self, heads, rate, *, label=None, table=None):
        super().__init__()
        self.doubled = 2 * rate
        self.strength = torch.nn.Parameter(torch.ones(heads))

    def at(self, offsets):
        return -self.strength[:, None] * offsets.abs()


def test_heads_kind_and_settings_are_facts_of_the_instance():
    scheme = Own(3, rate=2, table=torch.ones(9))
    assert settings_of(scheme) == {"rate": 2, "label": None}  # stored as an attribute or not; a tensor is no setting
    assert settings_of(copy.deepcopy(scheme)) == settings_of(scheme)
    assert settings_of(pickle.loads(pickle.dumps(scheme))) == settings_of(scheme)
    assert (scheme.num_heads, scheme.kind, scheme.name, Own.name) == (3, "learned", "Own", "Own")
    assert scheme.requires_grad_(False).kind == "heuristic"
    assert [ALiBi(2, learned).kind for learned in (False, True)] == ["heuristic", "learned"]
    assert settings_of(T5Bias.from_book(2, n_b=3, dist_max=5)) == {
        "num_buckets": 4, "max_distance": 5, "bidirectional": False, "std": 0.02
    }  # fmt: skip
    assert repr(Sandwich(2, first=0)) == "Sandwich(num_heads=2, dim=128, first=0)"

    class Steep(ALiBi):
        def __init__(self, num_heads, steepness=3.0):
            super().__init__(num_heads, learned=True)

    assert settings_of(Steep(2)) == {"steepness": 3.0}
    assert title_of(Steep(2)) == "Steep (steepness=3)"
    assert Sandwich(1).num_heads == 1
    with pytest.raises(TypeError, match="rate"):
        Own(3)


def test_settings_of_a_scheme_without_values():
    """A model on the device meta is printed too: there is no threshold to look at."""
    with torch.device("meta"):
        fire = FIRE(2, init_L=20)
    assert settings_of(fire)["init_L"] == 20
    assert "init_L=20" in repr(fire)
    with FakeTensorMode():
        assert settings_of(FIRE(2, init_L=30))["init_L"] == 30


def test_settings_that_fit_a_length_are_settings():
    for cls in SCHEMES.values():
        assert cls.settings_for(64).keys() <= setting_parameters(cls).keys()
        assert cls.largest_settings.keys() <= setting_parameters(cls).keys()


@pytest.mark.parametrize("name", SCHEMES)
def test_every_tensor_has_a_dimension(name):
    """FSDP shards the first dimension of each parameter: FIRE's c and L_multiplier had none."""
    scheme = SCHEMES[name](4)
    assert all(tensor.dim() >= 1 for tensor in (*scheme.parameters(), *scheme.buffers()))


@pytest.mark.parametrize("assign", [False, True])
def test_fire_loads_checkpoints_in_which_numbers_are_scalars(assign):
    """Those of falloff at 2747a2b, and of the paper's code, also as a part of a model."""
    saved = FIRE(4, init_c=0.3, init_L=20)
    scalars = {name: saved.state_dict()[name].reshape(()) for name in ("c", "L_multiplier", "init_L")}
    checkpoint = {f"bias.{name}": tensor for name, tensor in (saved.state_dict() | scalars).items()}
    model = torch.nn.ModuleDict({"bias": FIRE(4)})
    model.load_state_dict(checkpoint, assign=assign)
    assert model["bias"].c.shape == (1,)
    assert model["bias"].init_L.item() == 20
    assert torch.equal(model["bias"].dense(40, 40), saved.dense(40, 40))
    assert checkpoint["bias.c"].dim() == 0
    assert settings_of(saved) == {"width": 32, "init_c": 0.3, "init_L": 20.0}

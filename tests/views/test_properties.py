import pytest
import torch

from falloff import FIRE, SCHEMES, TISA, ALiBi, PerOffsetBias, ProfileMixture, Sandwich, Scheme, T5Bias
from falloff.views.properties import scheme_properties

NAMES = [name for name, scheme in SCHEMES.items() if not scheme.needs_content]


@pytest.fixture(scope="module")
def found():
    properties = {}
    for name in NAMES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            properties[name] = scheme_properties(SCHEMES[name](8))
    return properties


def those(found, holds):
    return {name for name in NAMES if holds(found[name])}


def test_all_but_fire_are_toeplitz(found):
    assert those(found, lambda one: one.toeplitz) == set(NAMES) - {"fire"}
    assert found["fire"].not_toeplitz_from == 513  # rows i <= L = 512 depend on the offset alone


@pytest.mark.parametrize("threshold", [1.0, 7.5, 100.0])
def test_fire_stops_being_toeplitz_at_its_own_threshold(threshold):
    # Row 8 is the first above 7.5. Row 2 is the first above 1 that shares an offset other than 0 with the row before it.
    expected = {1.0: 2, 7.5: 8, 100.0: 101}[threshold]
    assert scheme_properties(FIRE(2, init_L=threshold), trained_length=16).not_toeplitz_from == expected


def test_fire_is_toeplitz_as_far_as_one_looks_with_a_threshold_beyond():
    assert scheme_properties(FIRE(2, init_L=10000.0)).toeplitz


def test_penalties_are_monotone_and_sandwich_is_not(found):
    assert those(found, lambda one: one.monotone) == {"alibi", "bam", "kerple-log", "kerple-power"}
    assert found["sandwich"].falling_heads == 0


def test_penalties_without_end_are_unbounded(found):
    assert those(found, lambda one: not one.bounded) == {"alibi", "bam", "kerple-log", "kerple-power"}


@pytest.mark.parametrize("name", ["kerple-log", "kerple-power"])
def test_the_slowest_kerple_is_still_unbounded(name):
    scheme = SCHEMES[name](2)
    for parameter in scheme.parameters():
        torch.nn.init.zeros_(parameter)  # both are clamped at 0.01
    assert not scheme_properties(scheme).bounded


def test_the_range_of_a_bounded_bias(found):
    torch.manual_seed(0)
    weight = SCHEMES["t5"](8).weight
    assert (found["t5"].lowest, found["t5"].highest) == (weight.min().item(), weight.max().item())


def test_signs(found):
    assert those(found, lambda one: one.sign_symmetric) == {"alibi", "bam", "kerple-log", "kerple-power", "sandwich", "fire"}
    assert those(found, lambda one: one.future_constant) == {"t5", "per-offset"}
    assert not scheme_properties(T5Bias(2, bidirectional=True)).future_constant


def test_the_reach_is_found_from_the_values(found):
    assert found["t5"].reach == T5Bias(1).reach == 113
    assert found["per-offset"].reach == 128
    assert found["tisa"].reach in range(10, 60)
    assert those(found, lambda one: one.reach is None) == {"alibi", "bam", "kerple-log", "kerple-power", "sandwich", "fire"}


def test_a_reach_between_the_offsets_looked_at():
    assert scheme_properties(PerOffsetBias(2, max_distance=100_000)).reach == 100_000


def test_the_reach_of_nothing():
    class Nothing(Scheme):
        def at(self, offsets):
            return torch.zeros(2, len(offsets))

    nothing = scheme_properties(Nothing())
    assert (nothing.reach, nothing.bounded, nothing.monotone, nothing.beyond.verdict) == (0, True, True, "constant")
    assert nothing.mass[16].median == pytest.approx(16 / 8192)


def test_mass_of_a_geometric_bias_in_closed_form():
    # ALiBi weighs equal scores by exp(-m n): the share within w offsets is (1 - e^(-m w)) / (1 - e^(-m 8192)).
    properties = scheme_properties(ALiBi(8))
    slopes = torch.tensor([2.0**-h for h in range(1, 9)], dtype=torch.float64)
    for window, share in properties.mass.items():
        expected = torch.expm1(-slopes * window) / torch.expm1(-slopes * 8192)
        assert share.least == pytest.approx(expected.min().item(), rel=1e-9)
        assert share.median == pytest.approx(expected.quantile(0.5).item(), rel=1e-9)
        assert share.largest == pytest.approx(expected.max().item(), rel=1e-9)
    assert properties.mass_reach.least == 34  # ceil(24 ln 2 / 0.5)


def test_what_happens_beyond_the_trained_length(found):
    assert {name: found[name].beyond.verdict for name in NAMES} == {
        "t5": "constant",
        "per-offset": "constant",
        "alibi": "falling",
        "kerple-log": "falling",
        "kerple-power": "falling",
        "sandwich": "waving",
        "fire": "squeezed",
        "tisa": "constant",
        "bam": "falling",
    }
    assert found["alibi"].beyond.before == pytest.approx(-511 * (1 / 16 + 1 / 32) / 2)
    assert found["alibi"].beyond.length == 4096


def test_buckets_that_training_never_reached():
    beyond = scheme_properties(T5Bias(2), trained_length=64).beyond
    assert beyond.untrained_buckets == (27, 28, 29, 30, 31)  # offsets 67-76 and beyond; 64 lies in bucket 26
    assert beyond.verdict != "constant"
    assert scheme_properties(T5Bias(2)).beyond.untrained_buckets == ()


def test_rising_and_mixed():
    class Own(Scheme):
        def __init__(self, *slopes):
            super().__init__()
            self.slopes = slopes

        def at(self, offsets):
            return torch.tensor(self.slopes)[:, None] * offsets.abs()

    assert scheme_properties(Own(0.5, 1.0)).beyond.verdict == "rising"
    mixed = scheme_properties(Own(0.5, -1.0))
    assert (mixed.beyond.verdict, mixed.monotone, mixed.rising_heads, mixed.falling_heads) == ("mixed", False, 1, 1)


def test_the_scheme_itself_is_left_alone():
    scheme = TISA(2)
    before = {name: parameter.clone() for name, parameter in scheme.named_parameters()}
    scheme_properties(scheme)
    assert all(torch.equal(before[name], parameter) for name, parameter in scheme.named_parameters())
    assert scheme.kernel_offsets.dtype == torch.float32


@pytest.mark.parametrize("trained_length", [1, 0, -5, 2.0, True, 10**6])
@pytest.mark.usefixtures("unchecked")
def test_bad_trained_lengths(trained_length):
    with pytest.raises(ValueError, match="trained_length: got"):
        scheme_properties(Sandwich(2), trained_length)


def test_a_bias_that_depends_on_content_has_none():
    with pytest.raises(ValueError, match="depends on what the tokens say"):
        scheme_properties(ProfileMixture(2))

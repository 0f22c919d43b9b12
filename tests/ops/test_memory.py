"""Memory linear in the length: of blockwise by tracking every allocation, of the CPU kernels by the peak of a process."""

import pytest
import torch

from falloff import FIRE, ALiBi, Band, ProfileMixture, T5Bias, attention
from falloff.bench import memory
from falloff.bench.cases import Case
from falloff.bench.contestants import OURS
from falloff.lab.memory import peak_allocated


def peak(make_bias, length, heads=8, head_size=64):
    """Bytes of one forward and backward, with query, key, value and the gradient of the output, per byte of query."""
    query, key, value, grad = (torch.randn(1, heads, length, head_size) for _ in range(4))
    for tensor in (query, key, value):
        tensor.requires_grad_()
    inputs = 4 * query.nbytes

    def step():
        attention(query, key, value, make_bias(heads, length), causal=True, impl="blockwise").backward(grad)

    return (inputs + peak_allocated(step)) / query.nbytes


BIASES = {
    "none": lambda heads, length: None,
    "t5": lambda heads, length: T5Bias(heads),
    "alibi": lambda heads, length: ALiBi(heads, learned=True),
    "fire": lambda heads, length: FIRE(heads),
}


@pytest.mark.parametrize("name", BIASES)
def test_forward_and_backward_at_8192(name):
    """Below 12 times the query's 4 MB; a dense bias alone would take 0.5 GB, 128 times."""
    assert peak(BIASES[name], 8192, heads=2) < 12


@pytest.mark.parametrize("name", BIASES)
def test_grows_linearly(name):
    # Tiles have one size, so their share of the peak falls with the length.
    short, long = (peak(BIASES[name], length, heads=2, head_size=16) * length for length in (1024, 4096))
    assert long < 4.1 * short


def test_band_is_linear_in_length_times_extent():
    def band(heads, length):
        mixture = ProfileMixture(heads, state_dim=4, extent=64)
        return mixture(torch.randn(1, heads, length, 4, requires_grad=True)).to_band()

    short, long = (peak(band, length, heads=2, head_size=16) * length for length in (1024, 4096))
    assert long < 4.1 * short


def test_a_wide_fire_takes_no_more_than_a_narrow_one_for_long():
    """The features of a warp have one size, whatever the number of segments that its knots make is."""

    def fire(width):
        def make(heads, length):
            scheme = FIRE(heads, width=width, init_L=4)
            with torch.no_grad():  # every knot within 0 .. 1, where x lies
                scheme.mlp[0].bias.copy_(-scheme.mlp[0].weight.flatten() * torch.rand(width))
            return scheme

        return make

    narrow, wide = (peak(fire(width), 1024, heads=2) for width in (32, 512))
    assert wide < 3 * narrow


def test_a_band_costs_nothing_more_without_gradients():
    values = torch.randn(1, 2, 1024, 256)
    query, key, value = (torch.randn(1, 2, 1024, 16) for _ in range(3))
    with_band, without = (
        peak_allocated(lambda bias=bias: attention(query, key, value, bias, causal=True, impl="blockwise"))
        for bias in (Band(values), None)
    )
    assert with_band - without < values.nbytes / 2


@pytest.mark.skipif(memory.unmeasurable() is not None, reason=str(memory.unmeasurable()))
@pytest.mark.parametrize("bias", ["t5", "alibi", "fire"])
def test_the_kernels_take_less_than_their_inputs(bias):
    """Forward and backward, beside inputs, output and gradients: at most the bytes of query, key and value together."""
    case = Case("memory", bias, 4096, causal=True, training=True, heads=4)
    assert memory.measure(case, OURS, "cpu")["extra_over_inputs"] <= 1

import gc

import pytest
import torch
from torch import nn

from falloff.lab.memory import held_bytes, peak_allocated, peak_held


def test_counts_what_is_live_at_once():
    def steps():
        first = torch.empty(250_000)  # 1 MB
        second = torch.empty(500_000)  # 3 MB in all
        del first
        third = torch.empty(500_000, dtype=torch.float64)  # 6 MB in all: the peak
        del second, third
        return torch.empty(750_000)  # 3 MB

    assert peak_allocated(steps) == 6_000_000


def test_counts_only_what_the_call_adds():
    before = torch.empty(1_000_000)
    assert peak_allocated(lambda: None) == 0
    assert peak_allocated(lambda: before.add_(1)) < 1000
    assert 4_000_000 <= peak_allocated(lambda: before + 1) < 4_000_100  # and the 1 as a tensor


def test_sees_temporaries_inside_an_operator_and_the_backward():
    x = torch.randn(500, 500, requires_grad=True)

    def step():
        (x * 2).relu().sum().backward()
        x.grad = None

    # 1 MB each: the product and what relu saves; then that and its gradient; then that and the next: 2 MB, and scalars.
    assert 2_000_000 <= peak_allocated(step) < 2_000_100


def test_same_figure_every_time():
    class Cycle:
        def __init__(self):
            self.self, self.tensor = self, torch.empty(1000)

    def step():
        for _ in range(50):
            Cycle()

    assert {peak_allocated(step) for _ in range(3)} == {50 * 4000}
    assert gc.isenabled()


def test_errors_come_through_and_collection_goes_on():
    def fail():
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        peak_allocated(fail)
    assert gc.isenabled()
    assert peak_allocated(lambda: torch.empty(1000)) == 4000


def test_says_nothing(capfd):
    peak_allocated(lambda: torch.empty(10))
    assert capfd.readouterr() == ("", "")


def test_held_bytes_counts_each_storage_once():
    layer = nn.Linear(10, 10)
    tied = nn.Linear(10, 10, bias=False)
    tied.weight = layer.weight
    weights = 110 * 4
    assert held_bytes(layer) == weights
    assert held_bytes(layer, tied, torch.empty(5)[2:]) == weights + 20
    optimizer = torch.optim.AdamW(layer.parameters())
    assert held_bytes(layer, optimizer) == weights
    layer(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    assert held_bytes(layer, optimizer) == 3 * weights + 2 * 4  # two moments, and a step count for each tensor


def test_peak_held_adds_what_was_live():
    layer = nn.Linear(100, 100, bias=False)
    batch = torch.empty(50, 100)
    out = 50 * 100 * 4
    with torch.no_grad():
        assert peak_held(lambda: layer(batch), torch.device("cpu"), layer, batch) == 100 * 100 * 4 + 50 * 100 * 4 + out

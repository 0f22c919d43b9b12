"""What a forward lowers: every number is written, and the bounds that skipping rests on are bounds."""

import math

import pytest
import torch

from falloff import Strip
from falloff.ops import triton as implementation
from falloff.ops.call import Call
from falloff.ops.triton.host.bias import StripBias
from falloff.ops.triton.host.lower import lower
from falloff.ops.triton.host.problem import Problem
from ops.cases import tensors
from ops.triton.test_road import FORMS, problem

UNWRITTEN = -0x01234567


@pytest.mark.parametrize("rows", [2048, 1])
@pytest.mark.parametrize("form", FORMS)
def test_all_of_it_is_written(form, rows):
    """It is an output of torch's operator, in memory that a GPU does not clear: two runs give the same."""
    query, key, value, call = problem(form, rows)
    lowered = torch.full((implementation.lowered_size(query, key, call),), UNWRITTEN, dtype=torch.int32)
    at_work = Problem(query, key, value, call)
    lower(at_work, lowered, skipping=not at_work.splits_kv)
    assert not (lowered == UNWRITTEN).any()


def tails_of(values, num_keys):
    """The tails of a strip in float32, past and future, and what they bound in float64."""
    heads, extent = values.shape
    query, key, value = tensors(1, heads, heads, 64, num_keys, 16, torch.float32)
    form = Strip(values, num_keys - extent)
    call = Call(form, False, 0.25, num_keys - 64, None, None, None, 0.0, None)
    at_work = Problem(query, key, value, call)
    assert isinstance(at_work.bias, StripBias)
    _, past, future, *norms = lower(at_work, None, skipping=True)
    both = torch.stack([values.flip(1), values]).double()
    true = torch.logaddexp(both.logcumsumexp(-1), both[..., :1] + math.log(num_keys))
    got = torch.stack([part[: heads * extent].view(heads, extent) for part in (past, future)])
    return got, torch.stack([true[0].flip(1), true[1]]), key, norms


def test_bounds_are_above_and_near():
    num_keys = extent = 2500
    offsets = torch.arange(extent) - (extent - 1.0)
    values = torch.stack([offsets * 0.25, torch.randn(extent), torch.full((extent,), 1e6), offsets.abs().sqrt()])
    values[1, 700:1900] = -torch.inf
    got, true, key, norms = tails_of(values, num_keys)
    assert (got.double() >= true).all()
    assert (got.double() - true <= 2e-3 + 1e-6 * true.abs()).all()
    largest = key.detach().square().sum(-1).sqrt()[0]  # (H, M)
    for part, upto in zip(norms, (True, False), strict=True):
        blocks = math.ceil(num_keys / 64)
        for block in range(blocks):
            keys = largest[:, : 64 * block + 64] if upto else largest[:, 64 * block :]
            torch.testing.assert_close(part[: 4 * blocks].view(4, blocks)[:, block], keys.amax(1), rtol=1e-6, atol=0)


def test_bounds_stay_above_where_exponentials_underflow():
    extent = 2500
    offsets = torch.arange(extent) - (extent - 1.0)
    got, true, *_ = tails_of(torch.stack([offsets * 5.0, offsets * -1e4]), extent)
    assert (got.double() >= true).all()
    assert (got.double() - true < 1).any()  # and not all are lost in the rounding


def test_what_is_not_finite_bounds_nothing():
    """Nothing beyond NaN or +inf can be skipped; beyond -inf alone, all can."""
    values = torch.zeros(4, 2100)
    values[0, 50] = torch.nan
    values[1, 1200] = torch.inf
    values[2] = -torch.inf
    values[3, :1300] = torch.nan
    (past, future), _, *_ = tails_of(values, 2100)
    assert not (past[0, :51] < torch.inf).any()
    assert not (future[0, 50:] < torch.inf).any()
    assert not (past[1, :1201] < torch.inf).any()
    assert not (future[1, 1200:] < torch.inf).any()
    assert (past[0, 51:] < 20).all()
    assert (past[2] == -torch.inf).all()
    assert (future[2] == -torch.inf).all()
    assert not (past[3, :1300] < torch.inf).any()
    assert not (future[3] < torch.inf).any()

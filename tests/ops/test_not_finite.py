"""NaN and infinity in keys and values: what `key_mask` hides reaches nothing; what a row sees, it shows."""

import pytest
import torch

from falloff import attention
from ops.cases import bias_of, tensors

IMPLEMENTATIONS = ["reference", "blockwise", "cpu"]  # of triton, tests/ops/triton/test_kernels.py holds the same


def attend(query, key, value, bias, impl, key_mask):
    inputs = [t.detach().clone().requires_grad_() for t in (query, key, value)]
    out, lse = attention(*inputs, bias, causal=True, key_mask=key_mask, return_lse=True, impl=impl)
    leaves = [] if bias is None else list(bias.parameters())
    grads = torch.autograd.grad(out.sin().sum() + lse.where(lse > -torch.inf, 0).sum(), [*inputs, *leaves])
    return [out, lse, *grads]


@pytest.mark.parametrize("rows", [1, 70])
@pytest.mark.parametrize("name", ["none", "t5", "fire beyond L"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_key_mask_hides_may_hold_anything(impl, name, rows):
    """At eed457e hidden NaN in values, or in keys of a backward, reached the output or the gradients."""
    query, key, value = tensors(2, 2, 1, rows, 90, 8, torch.float32)
    bias, _ = bias_of(name, 2, 2, rows, torch.float32)
    key_mask = torch.rand(2, 90) > 0.3
    key_mask[0, :20] = False
    hidden = ~key_mask[:, None, :, None]
    want = attend(query, key.masked_fill(hidden, 0.5), value.masked_fill(hidden, -0.5), bias, impl, key_mask)
    for filler in (torch.nan, torch.inf, -torch.inf):
        got = attend(query, key.masked_fill(hidden, filler), value.masked_fill(hidden, filler), bias, impl, key_mask)
        torch.testing.assert_close(got, want)
        for grad in got[3:5]:
            assert (grad.masked_select(hidden) == 0).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_row_that_sees_nan_is_nan_and_no_other_head_is(impl):
    query, key, value = tensors(2, 4, 2, 70, 70, 8, torch.float32)
    for tensor in (key, value):
        inputs = [t.detach().clone() for t in (query, key, value)]
        inputs[1 if tensor is key else 2][1, 1, 30, 3] = torch.nan
        out, lse = attention(*inputs, causal=True, return_lse=True, impl=impl)
        seen = out[1, 2:, 30:] if tensor is key else out[1, 2:, 30:, 3]
        assert seen.isnan().all()
        assert out[0].isfinite().all()
        assert out[1, :2].isfinite().all()
        assert lse[0].isfinite().all()

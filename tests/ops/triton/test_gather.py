"""The gathering of a form's gradient, against plain torch on the same sums: the kernels that make those sums do not run."""

import math

import pytest
import torch

from falloff import Strip, Warp
from falloff.ops.call import Call
from falloff.ops.offset_sums import at_distances, at_offsets
from falloff.ops.triton.host.bias import Diagonals, StripBias, WarpBias
from falloff.ops.triton.kernels.arguments import Gradients

B, H, N = 2, 3, 300
NOTHING = Gradients(*[None] * len(Gradients._fields))
SIDE, SPLITS = 16, 3


def diagonals(start, stop):
    """Random parts of block diagonals for the offsets start .. stop, and their sums by offset, (B, H, stop - start + 1)."""
    count = stop - start + 1
    blocks = math.ceil((count - 1) / SIDE) + 1
    parts = torch.randn(B, H, blocks, SPLITS, 2 * SIDE)
    by_lead = parts.double().sum(3)[..., SIDE:]
    by_lead[:, :, :-1] += parts.double().sum(3)[:, :, 1:, :SIDE]
    return Diagonals(parts, stop, count, blocks, SPLITS, SIDE), by_lead.flatten(2)[..., :count].flip(-1)


def made(bias, form, lowest, highest):
    return bias(form, Call(form, False, 1.0, 0, None, None, None, 0.0, None), N, N, lowest, highest)


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize(
    ("first", "extent", "lowest", "highest"),
    [
        (0, 20, 0, 299),  # as T5's: all that is beyond is in the past
        (-9, 400, -299, 299),  # in the future
        (-150, 290, -299, 299),  # on both sides, over several programs
        (-400, 900, -299, 299),  # nowhere
        (3, 1, -299, 299),
        (500, 4, -299, 299),  # all in its future
    ],
)
def test_of_a_strip(first, extent, lowest, highest, with_lse):
    bias = made(StripBias, Strip(torch.zeros(H, extent), first), lowest, highest)
    start, stop = bias.offsets_summed()
    found, by_offset = diagonals(start, stop) if start <= stop else (Diagonals(None, stop, 0, 0, 0, SIDE), None)
    lse, grad_lse = torch.randn(B, H, N), torch.randn(B, H, N)
    lse[0, 1, 4:9] = -torch.inf
    future_ds = torch.randn(B, H, N) if bias.far_future else None
    (got,) = bias.gradients(NOTHING._replace(future_ds=future_ds), found, lse, grad_lse if with_lse else None)

    want = torch.zeros(H, extent, dtype=torch.float64)
    if by_offset is not None:
        want += at_offsets(by_offset.sum(0), start, first, extent)
    if bias.far_future:
        want[:, 0] += future_ds.double().sum((0, 2))
    if bias.far_past:
        total = torch.where(lse == -torch.inf, 0.0, grad_lse).double().sum((0, 2)) if with_lse else 0.0
        want[:, -1] += total - want.sum(1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("by_text", [False, True])
@pytest.mark.parametrize(("extent", "lowest", "highest"), [(300, 0, 299), (150, -200, 250), (1, -40, 30), (40, 90, 140)])
def test_of_a_warp(extent, lowest, highest, by_text):
    segments = 18
    a = torch.rand(B, N) if by_text else torch.rand(N)
    lines = [torch.rand(H, segments, dtype=torch.bfloat16) for _ in range(2)]
    bias = made(WarpBias, Warp(torch.rand(extent), a, torch.rand(segments - 1), *lines), lowest, highest)
    found, by_offset = diagonals(*bias.offsets_summed())
    row_da, sums = torch.randn(B, H, N), torch.randn(B, H, 5, 2, bias.segments)
    got = bias.gradients(NOTHING._replace(row_da=row_da, segment_sums=sums), found, torch.zeros(B, H, N), None)
    sums = sums.double().sum((0, 2))[..., :segments]
    want = [
        at_distances(by_offset.sum((0, 1))[None], lowest, extent)[0],
        row_da.double().sum(1) if by_text else row_da.double().sum((0, 1)),
        torch.zeros(segments - 1, dtype=torch.float64),
        *sums.unbind(1),
    ]
    for mine, theirs, tensor in zip(got, want, bias.form.tensors, strict=True):
        torch.testing.assert_close(mine, theirs.to(tensor.dtype), rtol=1e-6, atol=1e-12)

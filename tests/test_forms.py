"""The meaning of each form, entry by entry, against the table of falloff.forms."""

import pytest
import torch

from falloff.forms import Band, Strip, Warp, form_from_tensors

SIZES = [(4, 4, None), (3, 7, None), (7, 3, None), (2, 5, 9), (2, 5, -3), (1, 1, None)]


def entries(num_queries, num_keys, query_start):
    start = num_keys - num_queries if query_start is None else query_start
    return [(r, j, start + r - j) for r in range(num_queries) for j in range(num_keys)]


@pytest.mark.parametrize(("n", "m", "query_start"), SIZES)
def test_strip(n, m, query_start):
    strip = Strip(torch.randn(2, 4), start=-1)
    dense = strip.dense(n, m, query_start)
    for r, j, offset in entries(n, m, query_start):
        assert torch.equal(dense[:, r, j], strip.values[:, min(max(offset + 1, 0), 3)])


@pytest.mark.parametrize(("n", "m", "query_start"), SIZES)
def test_band(n, m, query_start):
    band = Band(torch.randn(2, 3, n, 4))
    dense = band.dense(n, m, query_start)
    for r, j, offset in entries(n, m, query_start):
        expected = band.values[:, :, r, offset] if 0 <= offset < 4 else torch.zeros(2, 3)
        assert torch.equal(dense[:, :, r, j], expected)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(("n", "m", "query_start"), SIZES)
def test_warp(n, m, query_start, batch):
    knots = torch.tensor([-0.5, 0.0, 0.3])
    warp = Warp(torch.randn(5), torch.randn(*batch, n), knots, torch.randn(3, 4), torch.randn(3, 4))
    dense = warp.dense(n, m, query_start)
    for r, j, offset in entries(n, m, query_start):
        for b in range(*batch or (1,)):
            x = warp.g[min(abs(offset), 4)] * (warp.a[b, r] if batch else warp.a[r])
            segment = sum(x > knot for knot in knots)
            expected = warp.slope[:, segment] * x + warp.intercept[:, segment]
            torch.testing.assert_close((dense[b] if batch else dense)[:, r, j], expected)


@pytest.mark.parametrize(
    "form",
    [
        Strip(torch.randn(2, 3), start=4),
        Band(torch.randn(1, 2, 3, 4)),
        Warp(torch.rand(5), torch.rand(3), torch.rand(1), torch.rand(2, 2), torch.rand(2, 2)),
    ],
    ids=lambda form: form.kind,
)
def test_scaling_and_the_way_through_an_operator(form):
    torch.testing.assert_close(form.scaled(3.0).dense(3, 4), 3 * form.dense(3, 4))
    again = form_from_tensors(form.kind, form.tensors, form.numbers)
    assert torch.equal(again.dense(3, 4, 5), form.dense(3, 4, 5))

"""The meaning of each form, entry by entry, against the table of falloff.forms."""

import pytest
import torch

from falloff.forms import Band, Factored, Potential, Strip, Sum, Warp, form_from_tensors

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


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize("outside", ["zero", "clamp"])
@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize(("n", "m", "query_start"), SIZES)
def test_factored(n, m, query_start, tables, outside, side):
    factored = Factored(torch.randn(2, 3, n if side == "query" else m, 5), torch.randn(tables, 4, 5), -1, outside, side)
    dense = factored.dense(n, m, query_start)
    for r, j, offset in entries(n, m, query_start):
        states = factored.states[:, :, r if side == "query" else j]
        expected = torch.einsum("bhr,hr->bh", states, factored.table[:, min(max(offset + 1, 0), 3)].expand(3, -1))
        if outside == "zero" and not 0 <= offset + 1 < 4:
            expected = torch.zeros(2, 3)
        torch.testing.assert_close(dense[:, :, r, j], expected)


def test_factored_as_a_band():
    factored = Factored(torch.randn(2, 3, 6, 5), torch.randn(1, 4, 5), 2)
    torch.testing.assert_close(factored.to_band().dense(6, 9), factored.dense(6, 9))
    for other in ({"start": -1}, {"outside": "clamp"}, {"side": "key"}):
        with pytest.raises(ValueError, match=f"{next(iter(other))}: got"):
            Factored(factored.states, factored.table, **other).to_band()


def test_potential():
    potential = Potential(torch.randn(2, 3, 4), torch.randn(2, 3, 6))
    dense = potential.dense(4, 6)
    for r, j, _ in entries(4, 6, None):
        assert torch.equal(dense[:, :, r, j], potential.row[:, :, r] + potential.key[:, :, j])


def test_sum():
    parts = [
        Potential(torch.randn(2, 3, 4), torch.randn(2, 3, 6)),
        Strip(torch.randn(3, 5), -2),
        Factored(torch.randn(2, 3, 4, 2), torch.randn(1, 7, 2), -3),
        Factored(torch.randn(2, 3, 6, 2), torch.randn(3, 7, 2), -3, "clamp", "key"),
        Strip(torch.randn(3, 2), 9),
    ]
    added = parts[0] + parts[1] + parts[2] + Sum(parts[3:])
    torch.testing.assert_close(added.dense(4, 6), sum(part.dense(4, 6) for part in parts))
    assert added.kind == "strip+factored+factored+potential"
    assert torch.equal(added.parts[0].values[:, -1], parts[1].values[:, -1] + parts[4].values[:, -1])


def test_sum_takes_one_form_of_each_kind_and_side():
    band = Band(torch.randn(1, 2, 3, 4))
    with pytest.raises(ValueError, match="at most one form of each kind and side"):
        Sum([band, band])
    with pytest.raises(ValueError, match="band: got 2, expected the 3 heads of the strip"):
        Strip(torch.randn(3, 4)) + band
    with pytest.raises(ValueError, match="form_kind: got 'strip\\+strip', expected 'strip'"):
        form_from_tensors("strip+strip", [torch.zeros(2, 4)] * 2, [0, 0])
    with pytest.raises(ValueError, match="starts of strips within"):
        Strip(torch.randn(3, 4)) + Strip(torch.randn(3, 4), 2**40)


@pytest.mark.parametrize(
    "form",
    [
        Strip(torch.randn(2, 3), start=4),
        Band(torch.randn(1, 2, 3, 4)),
        Warp(torch.rand(5), torch.rand(3), torch.rand(1), torch.rand(2, 2), torch.rand(2, 2)),
        Factored(torch.randn(1, 2, 3, 5), torch.randn(2, 4, 5), 3, "clamp"),
        Factored(torch.randn(1, 2, 4, 5), torch.randn(1, 4, 5), -3, "zero", "key"),
        Potential(torch.randn(1, 2, 3), torch.randn(1, 2, 4)),
        Strip(torch.randn(2, 3), start=4) + Potential(torch.randn(1, 2, 3), torch.randn(1, 2, 4)),
    ],
    ids=lambda form: form.slot,
)
def test_scaling_and_the_way_through_an_operator(form):
    torch.testing.assert_close(form.scaled(3.0).dense(3, 4), 3 * form.dense(3, 4))
    again = form_from_tensors(form.kind, form.tensors, form.numbers)
    assert torch.equal(again.dense(3, 4, 5), form.dense(3, 4, 5))

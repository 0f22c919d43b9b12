"""The figures of the pages of schemes, drawn by falloff itself."""

from collections.abc import Iterator
from typing import Any

import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from falloff import (
    BAM,
    FIRE,
    TISA,
    ALiBi,
    Cable,
    DisentangledBias,
    ForgettingBias,
    GatedT5Bias,
    KerpleLog,
    KerplePower,
    PerOffsetBias,
    ProfileMixture,
    Sandwich,
    Scheme,
    ShawBias,
    T5Bias,
    TransformerXLBias,
)
from falloff.forms import Form
from falloff.views.figures import empty_figure

_HEADS = 4
_LENGTH = 64


def figures() -> Iterator[tuple[str, Figure]]:
    """Every figure with the name of its file."""
    torch.manual_seed(0)
    yield "overview", _overview()
    yield "t5-grid", T5Bias(1, num_buckets=4, max_distance=5).show(8)
    yield "t5-grid-bidirectional", T5Bias(1, num_buckets=8, max_distance=5, bidirectional=True).show(8)
    yield "t5-curves", _falling(T5Bias(_HEADS)).plot(160)
    yield "per-offset-curves", _falling(PerOffsetBias(_HEADS, max_distance=24)).plot(40)
    yield "alibi-curves", ALiBi(8).plot(64)
    yield "alibi-grid", ALiBi(8).show(6)
    yield "kerple-log-curves", KerpleLog(_HEADS).plot(256)
    yield "kerple-power-curves", KerplePower(_HEADS).plot(256)
    yield "sandwich-curves", Sandwich(8).plot(512)
    yield "fire-curves", FIRE(_HEADS).plot(512)
    yield "fire-rows", _fire_rows()
    yield "fire-network", fire_network()
    yield "tisa-curves", TISA(_HEADS).plot(24)
    yield "bam-curves", BAM(8).plot(64)
    for name, form in _content_forms():
        yield name, matrices(form)


def _falling(scheme: Any) -> Scheme:
    """A scheme with a table, whose values are set to fall as a logarithm does, so that its steps show."""
    with torch.no_grad():
        offsets = torch.arange(1, 200)
        buckets = scheme.bucket(offsets)
        target = -torch.log1p(offsets.float())
        for bucket in range(len(scheme.weight)):
            if bool((buckets == bucket).any()):
                mean = target[buckets == bucket].mean()
                scheme.weight[bucket] = mean * torch.linspace(1.0, 0.25, _HEADS)
        scheme.weight[0] = 0.0
    return scheme


def _overview() -> Figure:
    """One curve of each scheme that has one: the steepest head of a heuristic, an example of a learned one."""
    drawn: list[Scheme] = [ALiBi(8), Sandwich(8), BAM(8), KerpleLog(1), KerplePower(1), _falling(T5Bias(_HEADS))]
    drawn += [_falling(PerOffsetBias(_HEADS, max_distance=48)), TISA(1), FIRE(1)]
    figure = empty_figure(8, 6)
    for axes, scheme in zip(figure.subplots(3, 3).flat, drawn, strict=True):
        with torch.no_grad():
            values = scheme.dense(1, 96)[..., 0, :].flip(-1)
        axes.plot(values[0].tolist(), color="#00796b", linewidth=1.8)
        axes.set_title(scheme.name, fontsize=11, loc="left")
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.supxlabel("offset", fontsize=10)
    figure.supylabel("bias added to the score", fontsize=10)
    return figure


def _fire_rows() -> Figure:
    """Three query rows of one FIRE bias: by offset they differ, by offset over position they do not."""
    scheme = FIRE(1, init_L=64)
    figure = empty_figure(8, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for position, colour in ((64, "#3b528b"), (256, "#21918c"), (1024, "#b8860b")):
        with torch.no_grad():
            row = scheme.dense(1, position + 1)[0, 0].flip(0)
        left.plot(row.tolist(), color=colour, label=f"query at {position}")
        right.plot(torch.linspace(0, 1, len(row)).tolist(), row.tolist(), color=colour)
    left.set_xlabel("offset")
    left.set_xlim(0, 256)
    left.set_ylabel("bias added to the score")
    right.set_xlabel("offset / position of the query")
    left.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def fire_network() -> Figure:
    """FIRE's network of one head: the lines that a kernel gets, and the knots between them."""
    torch.manual_seed(3)
    scheme = FIRE(1, width=8, init_L=16)
    with torch.no_grad():
        form = scheme.form(128, 128)
    _, _, knots, slope, intercept = form.tensors
    inside = [knot for knot in knots.tolist() if 0 < knot < 1]
    x = torch.linspace(0, 1, 400)
    segment = torch.searchsorted(knots, x)
    y = slope[0, segment] * x + intercept[0, segment]
    figure = empty_figure(7, 3.2)
    axes = figure.add_subplot()
    axes.plot(x.tolist(), y.tolist(), color="#00796b", linewidth=2)
    for knot in inside:
        s = int(torch.searchsorted(knots, torch.tensor(knot)))
        axes.axvline(knot, color="#aaaaaa", linewidth=0.8, linestyle="--")
        axes.plot([knot], [float(slope[0, s] * knot + intercept[0, s])], "o", color="#b2182b", markersize=5)
    axes.set_xlabel("x = psi(offset) / psi(max(position, L)), from 0 to 1")
    axes.set_ylabel("bias added to the score")
    axes.set_title(f"8 hidden units, {len(inside)} knots between 0 and 1: {len(inside) + 1} lines", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _content_forms() -> Iterator[tuple[str, Form]]:
    """Forms of schemes with content, of random states of two heads."""
    size = 16
    query, key = torch.randn(2, 1, 2, _LENGTH, size)
    with torch.no_grad():
        yield "shaw", ShawBias(2, head_dim=size, max_distance=8)(query)
        yield "transformer-xl", TransformerXLBias(2, head_dim=size)(query)
        yield "disentangled", DisentangledBias(2, head_dim=size, position_buckets=16, max_relative_positions=64)(query, key)
        gated = GatedT5Bias(2, head_dim=size, num_buckets=32, max_distance=64, std=1.0)
        yield "gated-t5", gated(2 * torch.randn(1, _LENGTH, 2 * size))
        mixture = ProfileMixture(2, state_dim=4, extent=32)
        mixture.profiles.copy_(torch.exp(-torch.arange(32) / torch.tensor([[2.0], [5.0], [12.0], [32.0]])))
        yield "profile-mixture", mixture(torch.randn(1, 2, _LENGTH, 4))
        gates = torch.randn(1, 2, _LENGTH) + 2
        gates[0, 1, 20] = gates[0, 1, 44] = -6.0
        yield "forgetting", ForgettingBias(2)(gates)
        yield "cable", Cable(2)(2 * torch.randn(1, 2, _LENGTH) - 2)


def matrices(form: Form) -> Figure:
    """The bias of two heads, query rows down and keys across, keys in the future blank."""
    values = form.dense(_LENGTH, _LENGTH)[0].masked_fill(torch.ones(_LENGTH, _LENGTH).triu(1).bool(), torch.nan)
    figure = empty_figure(8, 4)
    for head, axes in enumerate(figure.subplots(1, 2)):
        image = axes.imshow(values[head].numpy(), cmap="RdBu_r", norm=CenteredNorm(), interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.75)
        axes.set_title(f"head {head}", loc="left", fontsize=11)
        axes.set_xlabel("key")
        axes.set_ylabel("query")
    return figure

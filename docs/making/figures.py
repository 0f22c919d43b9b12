"""The figures of the pages of schemes, drawn by falloff itself."""

from collections.abc import Iterator
from typing import Any

import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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
from making import results

_HEADS = 4
_SPEED = {
    "forward: T5 causal N=1024",
    "forward: T5 causal N=4096",
    "forms: FIRE causal N=4096",
    "far: ALiBi causal N=16384",
    "training: T5 causal N=1024",
    "training: T5 causal N=4096",
    "training: FIRE causal N=4096",
    "bfloat16 training: T5 causal N=4096",
    "decode: T5 N=1 M=8192",
    "short: T5 causal B=8 N=128",
}
_LENGTH = 64


def figures() -> Iterator[tuple[str, Figure]]:
    """Every figure with the name of its file."""
    torch.manual_seed(0)
    yield "overview", _overview()
    yield "t5-grid", T5Bias(1, num_buckets=4, max_distance=5).show(8)
    yield "alibi-grid", ALiBi(8).show(6)
    for scheme, length in _curves():
        figure = scheme.plot(length)
        figure.set_size_inches(6.4, 3.8)  # smaller than usual, so that its letters are legible on a phone
        yield f"{scheme.name}-curves", figure
    yield "speed", _speed()
    yield "fire-rows", _fire_rows()
    yield "fire-network", _fire_network()
    for name, form in _content_forms():
        yield name, _matrices(form)


def _curves() -> Iterator[tuple[Scheme, int]]:
    """The schemes whose curves are drawn, and up to which offset."""
    yield _falling(T5Bias(_HEADS)), 160
    yield _falling(PerOffsetBias(_HEADS, max_distance=24)), 40
    yield ALiBi(8), 64
    yield KerpleLog(_HEADS), 256
    yield _power(), 64
    yield Sandwich(8), 512
    yield FIRE(_HEADS), 512
    yield TISA(_HEADS), 24
    yield BAM(8), 64


def _power() -> Scheme:
    """KERPLE's power with exponents from a root to more than a line."""
    scheme = KerplePower(_HEADS).double()  # in which the curves of past and future are the same to the last bit
    with torch.no_grad():
        scheme.bias_a[:, 0, 0] = torch.tensor([1.0, 0.5, 0.2, 0.02])
        scheme.bias_p[:, 0, 0] = torch.tensor([0.3, 0.6, 1.0, 1.5])
    return scheme


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
    figure = empty_figure(6.4, 5.6)
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
    """Three query rows of one FIRE bias: by offset they differ, by the network's input they are one curve."""
    scheme = FIRE(1, init_L=64)
    figure = empty_figure(6.4, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for position, colour, width in ((1024, "#b8860b", 6), (256, "#21918c", 3.5), (64, "#3b528b", 1.5)):
        offsets = torch.arange(position + 1)
        psi = torch.log1p(0.1 * offsets)
        with torch.no_grad():
            row = scheme.dense(1, position + 1)[0, 0].flip(0)
        left.plot(offsets.tolist(), row.tolist(), color=colour, label=f"query at {position}")
        right.plot((psi / psi[-1]).tolist(), row.tolist(), color=colour, linewidth=width)
    left.set_xlabel("offset")
    left.set_xlim(0, 256)
    left.set_ylabel("bias added to the score")
    right.set_xlabel("input of the network")
    left.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _fire_network() -> Figure:
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
    figure = empty_figure(6.4, 3.4)
    axes = figure.add_subplot()
    axes.plot(x.tolist(), y.tolist(), color="#00796b", linewidth=2)
    for knot in inside:
        s = int(torch.searchsorted(knots, torch.tensor(knot)))
        axes.axvline(knot, color="#aaaaaa", linewidth=0.8, linestyle="--")
        axes.plot([knot], [float(slope[0, s] * knot + intercept[0, s])], "o", color="#b2182b", markersize=5)
    axes.set_xlabel("input of the network: psi(offset) / psi(max(position, L))")
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


def _matrices(form: Form) -> Figure:
    """The bias of two heads, query rows down and keys across, keys in the future blank."""
    values = form.dense(_LENGTH, _LENGTH)[0].masked_fill(torch.ones(_LENGTH, _LENGTH).triu(1).bool(), torch.nan)
    figure = empty_figure(6.4, 3)
    for head, axes in enumerate(figure.subplots(1, 2)):
        image = axes.imshow(values[head].numpy(), cmap="RdBu_r", norm=CenteredNorm(), interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.75)
        axes.set_title(f"head {head}", loc="left", fontsize=11)
        axes.set_xlabel("key")
        axes.set_ylabel("query")
    return figure


def _speed() -> Figure:
    """Some rows of the first table of speed as bars: the time of PyTorch's attention over that of falloff."""
    cases = results.results()["cpu-2-core-epyc.json"]["cases"]
    shown = [case for case in cases if case["name"] in _SPEED]
    rivals = {"sdpa, no bias": "#3b528b", "sdpa, dense bias": "#21918c", "sdpa, dense learned": "#b8860b"}
    figure = empty_figure(6.4, 0.62 * len(shown) + 0.9)
    axes = figure.add_subplot()
    for place, case in enumerate(shown):
        present = [name for name in rivals if name in case["ratio"]]
        for line, name in enumerate(present):
            y = place + (line - (len(present) - 1) / 2) * 0.27
            axes.barh(y, case["ratio"][name] - 1, 0.25, left=1, color=rivals[name])
            axes.text(max(case["ratio"][name], 1) * 1.03, y, f"{case['ratio'][name]:.1f}x", va="center", fontsize=8)
    axes.set_yticks(
        range(len(shown)), [results.label_of(case).replace(", forward", "\nforward") for case in shown], fontsize=9
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.7, 30)
    axes.set_xticks([1, 2, 5, 10, 20], ["1x", "2x", "5x", "10x", "20x"])
    axes.axvline(1, color="#222222", linewidth=1)
    axes.set_xlabel("time over that of falloff (right of the line falloff is faster)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(facecolor=colour, label=results.RIVALS[name]) for name, colour in rivals.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure

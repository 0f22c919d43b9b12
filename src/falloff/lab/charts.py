"""The charts of the report, as Plotly figures."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from falloff.lab.config import BASELINES, DEFAULT_SCHEMES, KNOWN_SCHEMES
from falloff.lab.extras import require
from falloff.schemes import Scheme
from falloff.views.palette import head_colours

# Okabe and Ito's palette, which colour-blind readers can distinguish, without its yellow (too pale on white), and three
# darker colours. Kinds also differ by dash and schemes by marker: nothing depends on colour alone. 9 colours and 10 markers
# give 90 different schemes.
_COLOURS = ("#882255", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#666633", "#0072B2", "#E69F00", "#332288")
_MARKERS = (
    "star", "triangle-down", "diamond", "triangle-up", "square", "hexagram", "circle", "pentagon", "triangle-left",
    "triangle-right"
)  # fmt: skip
_DASHES = {"learned": "solid", "heuristic": "dash", "baseline": "dot"}
_BASELINES = {"rope": ("#555555", "x"), "none": ("#000000", "cross")}
_DEPTH = 20.0
"""A bias is drawn down to this much below its highest value: further below, a key gets less than e^-20 of the weight."""
_GRID = "#e6e8ec"
_INK = "#1c2430"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


@dataclass(frozen=True)
class Style:
    """How the curve of a scheme looks."""

    colour: str
    dash: str
    marker: str


def scheme_styles(kinds: dict[str, str]) -> dict[str, Style]:
    """The style of each scheme in every chart, given its kind. A published scheme has the same style in every report.

    >>> scheme_styles({"my.py:Mine": "learned", "none": "baseline"})["none"]
    Style(colour='#000000', dash='dot', marker='cross')
    """
    # Those that are compared by default come first: none of them shares its colour.
    places = [name for name in dict.fromkeys((*DEFAULT_SCHEMES, *KNOWN_SCHEMES, *kinds)) if name not in BASELINES]
    styles = {}
    for name, kind in kinds.items():
        if name in _BASELINES:
            colour, marker = _BASELINES[name]
        else:
            place = places.index(name)
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        styles[name] = Style(colour, _DASHES[kind], marker)
    return styles


def extrapolation_chart(results: list[dict[str, Any]], train_length: int, *, tail: bool) -> Any:
    """Perplexity by test length with its 95% interval, both axes logarithmic; of the tail or of all bytes."""
    go = require("plotly.graph_objects")
    key, low, high = ("perplexity_tail", "tail_low", "tail_high") if tail else ("perplexity", "low", "high")
    figure = go.Figure()
    styles = scheme_styles({line["scheme"]: line["kind"] for line in results})
    names = list(styles)
    lengths = sorted({line["length"] for line in results})
    for place, name in enumerate(names):
        lines = [line for line in results if line["scheme"] == name]
        style = styles[name]
        # Shift the points of each scheme sideways, so that equal intervals do not cover one another.
        nudge = 2 ** (0.016 * (place - (len(names) - 1) / 2))
        figure.add_trace(
            go.Scatter(
                x=[line["length"] * nudge for line in lines],
                y=[line[key] for line in lines],
                customdata=[[line["length"], line[low], line[high]] for line in lines],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [line[high] - line[key] for line in lines],
                    "arrayminus": [line[key] - line[low] for line in lines],
                    "thickness": 1.2,
                    "width": 0,
                    "color": _faint(style.colour),
                },
                name=name,
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 2},
                marker={"symbol": style.marker, "size": 9, "line": {"width": 1, "color": "white"}},
                hovertemplate="%{y:.3f} at %{customdata[0]:,}<br>95% interval %{customdata[1]:.3f} to %{customdata[2]:.3f}",
            )
        )
    ticks = _log_ticks(min(line[low] for line in results), max(line[high] for line in results))
    figure.update_layout(
        **_layout(560),
        xaxis=_axis("test length in bytes", type="log", tickvals=lengths, ticktext=[f"{length:,}" for length in lengths]),
        yaxis=_axis("perplexity per byte", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]),
        legend={"orientation": "h", "yanchor": "top", "y": -0.14, "x": 0, "font": {"size": 13}},
        hovermode="closest",
    )
    figure.add_vline(x=train_length, line={"color": "#9aa3b0", "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=0, xref="paper", y=1, yref="paper", yanchor="bottom", xanchor="left", showarrow=False,
        text=f"trained at {train_length:,}", font={"size": 12, "color": "#667085"},
    )  # fmt: skip
    return figure


def bias_chart(name: str, scheme: Scheme, train_length: int) -> Any:
    """The bias of every head by offset, to twice the trained length; for two rows, if it depends on the row too."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    longest = 2 * train_length
    lowest, highest = math.inf, -math.inf
    rows = [(longest, "solid")] if scheme.toeplitz else [(train_length, "solid"), (longest, "dot")]
    for length, dash in rows:
        # The last row, from the last key to the first, is the bias by rising offset.
        with torch.no_grad():
            values = scheme.dense(1, length)[:, 0].flip(-1).tolist()
        for head, (colour, curve) in enumerate(zip(head_colours(len(values)), values, strict=True)):
            lowest, highest = min(lowest, *curve), max(highest, *curve)
            row = "" if scheme.toeplitz else f", query at {length - 1:,}"
            figure.add_trace(
                go.Scatter(
                    y=[round(value, 5) for value in curve],
                    mode="lines",
                    name=f"head {head}{row}",
                    line={"color": colour, "width": 1.8, "dash": dash},
                    hovertemplate="%{y:.3f} at offset %{x}",
                )
            )
    bottom = max(lowest, highest - _DEPTH)
    room = 0.06 * (highest - bottom) or 1.0
    figure.update_layout(
        **_layout(240) | {"margin": {"l": 44, "r": 8, "t": 8, "b": 36}},
        xaxis=_axis("offset", nticks=6),
        yaxis=_axis("", nticks=6, range=[bottom - room, highest + room]),
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"size": 11}},
    )
    figure.add_vline(x=train_length - 1, line={"color": "#9aa3b0", "width": 1, "dash": "dot"})
    return figure


def cost_chart(rows: list[tuple[str, float]], unit: str, styles: dict[str, Style]) -> Any:
    """A bar for each scheme, the smallest first."""
    go = require("plotly.graph_objects")
    rows = sorted(rows, key=lambda row: row[1], reverse=True)  # Plotly starts at the bottom
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in rows],
            y=[name for name, _ in rows],
            orientation="h",
            marker={"color": [styles[name].colour for name, _ in rows]},
            text=[f"{value:,.1f}" for _, value in rows],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,.2f} " + unit + "<extra></extra>",
        )
    )
    figure.update_layout(
        **_layout(90 + 26 * len(rows)) | {"margin": {"l": 96, "r": 48, "t": 8, "b": 40}},
        xaxis=_axis(unit, range=[0, 1.14 * max(value for _, value in rows)], nticks=6),
        yaxis={"automargin": True},
        bargap=0.35,
    )
    return figure


def _faint(colour: str) -> str:
    """A colour #rrggbb at 45% opacity.

    >>> _faint("#0072B2")
    'rgba(0,114,178,0.45)'
    """
    return f"rgba({','.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))},0.45)"


def _layout(height: int) -> dict[str, Any]:
    return {
        "template": "none",
        "autosize": True,
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 28, "b": 48},
        "font": {"family": _FONT, "size": 13, "color": _INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }


def _axis(title: str, **settings: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 12}, "standoff": 8},
        "gridcolor": _GRID,
        "linecolor": "#c3c9d2",
        "zeroline": False,
        "ticks": "",
        **settings,
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, few enough to read.

    >>> _log_ticks(5.1, 23.0)
    [6, 8, 10, 15, 20]
    """
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [step * 10.0**power for power in range(-1, 40) for step in steps]
        inside = [int(tick) if tick >= 1 and tick == int(tick) else tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 10:
            break
    return inside or [round(low, 3)]

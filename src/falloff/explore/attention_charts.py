"""Figures of attention under a bias, from the numbers of `falloff.views`."""

import math
from collections.abc import Sequence
from typing import Any

from falloff.explore.charts import Figure
from falloff.explore.heat import heat_trace
from falloff.explore.theme import Theme, axis, base_layout
from falloff.schemes.base import Scheme
from falloff.views.attention_weights import causal_weights, effective_window, last_row_weights
from falloff.views.palette import head_colours

LENGTHS = tuple(1024 * 2**power for power in range(8))
"""1k to 128k tokens."""
SHARES = ((0.5, "half", "circle"), (0.9, "90%", "diamond"), (0.99, "99%", "square"))
"""Shares of the attention, what they are called, and their marks."""
_LEAST = 1e-9  # less attention than this is not drawn


def weights_chart(scheme: Scheme, length: int, spread: float, seed: int, theme: Theme) -> Figure:
    """The attention of the last query by offset; offset 0 is drawn at 1 on the logarithmic axis of offset + 1."""
    weights = last_row_weights(scheme, length, spread, seed)
    # At most 512 points a curve, closer together near the query.
    kept = sorted({min(round(length ** (place / 511)) - 1, length - 1) for place in range(512)})
    colours = head_colours(len(weights), dark=theme.dark)
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [offset + 1 for offset in kept],
            "y": [max(value, _LEAST) for value in weights[head][kept].tolist()],
            "name": f"head {head}",
            "line": {"color": colours[head], "width": 1.8},
            "hovertemplate": f"head {head}: %{{y:.3g}} to key %{{x}}, counted from the nearest<extra></extra>",
        }
        for head in range(len(weights))
    ]
    lowest = max(math.log10(_LEAST), math.log10(max(float(weights[:, kept].min()), _LEAST)) - 0.2)
    layout = base_layout(theme) | {
        "xaxis": axis(theme, "nearest key, second nearest, ... (offset + 1)", type="log", dtick=1),
        "yaxis": axis(theme, "share of attention", type="log", dtick=2, exponentformat="power", range=[lowest, 0.1]),
    }
    return {"data": traces, "layout": layout}


def windows_chart(scheme: Scheme, length: int, spread: float, seed: int, theme: Theme) -> Figure:
    """How many of the nearest keys hold half, 90% and 99% of the attention, by head."""
    weights = last_row_weights(scheme, length, spread, seed)
    heads = list(range(len(weights)))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": heads,
            "y": effective_window(weights, share).tolist(),
            "name": name,
            "marker": {"symbol": symbol, "size": 9},
            "line": {"color": colour, "width": 1, "dash": "dot"},
            "hovertemplate": f"head %{{x}}: the nearest %{{y}} keys hold {name}<extra></extra>",
        }
        for (share, name, symbol), colour in zip(SHARES, head_colours(3, dark=theme.dark), strict=True)
    ]
    layout = windows_layout(theme, left=52) | {
        "xaxis": axis(theme, "head", dtick=1 if len(heads) <= 16 else 4),
        "yaxis": keys_axis(theme, length),
    }
    return {"data": traces, "layout": layout}


def windows_layout(theme: Theme, left: int) -> dict[str, Any]:
    """The layout of a figure of effective windows: a legend above, `left` pixels for what stands beside its axis."""
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return base_layout(theme) | {"showlegend": True, "legend": legend, "margin": {"l": left, "r": 12, "t": 30, "b": 44}}


def keys_axis(theme: Theme, length: int) -> dict[str, Any]:
    """The axis of effective windows, up to all keys."""
    return axis(theme, "keys", type="log", dtick=1, range=[-0.1, math.log10(length) + 0.1])


def weight_matrix_chart(scheme: Scheme, length: int, head: int, spread: float, seed: int, theme: Theme) -> Figure:
    """The attention of every query to every key as a heat map."""
    weights = causal_weights(scheme, length, head, spread, seed).tolist()
    return _heat(weights, "query", "key", theme, "query %{y}, key %{x}: %{z:.3g}", square=True)


def saved_chart(found: Sequence[list[float]], theme: Theme) -> Figure:
    """The share of pairs that is skipped, for each of `LENGTHS` by head."""
    colours = head_colours(len(found[0]), dark=theme.dark)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": list(LENGTHS),
            "y": [round(100 * shares[head], 2) for shares in found],
            "name": f"head {head}",
            "line": {"color": colours[head], "width": 1.8},
            "hovertemplate": f"head {head}: %{{y:.1f}}% skipped at %{{x:,}} tokens<extra></extra>",
        }
        for head in range(len(found[0]))
    ]
    ticks = [f"{length // 1024}k" for length in LENGTHS]
    layout = base_layout(theme) | {
        "xaxis": axis(theme, "tokens", type="log", tickvals=list(LENGTHS), ticktext=ticks),
        "yaxis": axis(theme, "percent of pairs skipped", range=[-3, 103]),
    }
    return {"data": traces, "layout": layout}


def blocks_chart(shares: list[list[float]], theme: Theme) -> Figure:
    """Which blocks of keys are visited, as a heat map."""
    return _heat(shares, "block of 48 queries", "block of 256 keys", theme, "%{z:.0%} visited", ends=(0.0, 1.0))


def _heat(
    cells: list[list[float]],
    rows: str,
    columns: str,
    theme: Theme,
    hover: str,
    *,
    square: bool = False,
    ends: tuple[float, float] | None = None,
) -> Figure:
    trace = heat_trace([[None if math.isnan(cell) else cell for cell in row] for row in cells], hover)
    if ends is not None:
        trace |= {"zmin": ends[0], "zmax": ends[1]}
    shape = {"scaleanchor": "x", "constrain": "domain"} if square else {}
    layout = base_layout(theme) | {
        "xaxis": axis(theme, columns, showgrid=False, side="top", constrain="domain"),
        "yaxis": axis(theme, rows, showgrid=False, autorange="reversed", **shape),
        "margin": {"l": 44, "r": 12, "t": 44, "b": 36},
    }
    return {"data": [trace], "layout": layout}

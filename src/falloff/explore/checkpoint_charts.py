"""Figures of trained biases, from the numbers of `falloff.views`."""

from dataclasses import replace

from falloff.explore.attention_charts import SHARES, keys_axis, windows_layout
from falloff.explore.charts import Figure, lines_chart
from falloff.explore.heat import heat_trace
from falloff.explore.theme import Theme, axis, base_layout
from falloff.schemes import Scheme, T5Bias
from falloff.views.attention_weights import effective_window, last_row_weights
from falloff.views.by_offset import curves_by_offset
from falloff.views.palette import head_colours


def reach_chart(scheme: Scheme, length: int, theme: Theme) -> Figure:
    """The effective window of each head, heads sorted by it."""
    weights = last_row_weights(scheme, length)
    windows = {name: effective_window(weights, share).tolist() for share, name, _ in SHARES}
    ordered = sorted(range(scheme.num_heads), key=lambda head: windows["90%"][head])
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [windows[name][head] for head in ordered],
            "y": [f"head {head}" for head in ordered],
            "name": name,
            "marker": {"symbol": symbol, "size": 9, "color": colour},
            "hovertemplate": f"%{{y}}: the nearest %{{x}} keys hold {name}<extra></extra>",
        }
        for (_, name, symbol), colour in zip(SHARES, head_colours(3, dark=theme.dark), strict=True)
    ]
    layout = windows_layout(theme, left=60) | {
        "xaxis": keys_axis(theme, length),
        "yaxis": axis(theme, "", type="category", autorange="reversed"),
    }
    return {"data": traces, "layout": layout}


def table_chart(scheme: T5Bias, theme: Theme) -> Figure:
    """T5's table as a heat map: buckets down, heads across."""
    values = scheme.weight.detach().float().tolist()
    trace = heat_trace(values, "bucket %{y}, head %{x}: %{z:.3g}")
    layout = base_layout(theme) | {
        "xaxis": axis(theme, "head", showgrid=False, side="top", dtick=1 if len(values[0]) <= 16 else None),
        "yaxis": axis(theme, "bucket", showgrid=False, autorange="reversed"),
        "margin": {"l": 44, "r": 12, "t": 44, "b": 36},
    }
    return {"data": [trace], "layout": layout}


def drift_chart(first: Scheme, second: Scheme, length: int, theme: Theme) -> Figure:
    """The second bias less the first, by offset."""
    one, other = (curves_by_offset(scheme, 2 * length, "octaves") for scheme in (first, second))
    figure = lines_chart([(replace(one, values=other.values - one.values), "")], theme)
    figure["layout"]["xaxis"] |= {"type": "log", "dtick": 1}
    return figure

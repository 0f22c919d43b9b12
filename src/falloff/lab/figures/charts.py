"""The charts of what was measured by length, and of the biases, as Plotly figures."""

import math
from typing import Any

import torch

from falloff.lab.extras import require
from falloff.lab.figures.style import axis, faint, label, layout, legend, log_ticks, scheme_styles
from falloff.lab.findings.tables import TaskTable, written
from falloff.schemes import Scheme
from falloff.views.palette import head_colours

_DEPTH = 20.0
"""A bias is drawn down to this much below its highest value: further below, a key gets less than e^-20 of the weight."""


def length_chart(table: TaskTable, measure: dict[str, Any], train_length: int, unit: str) -> Any:
    """A measure by test length with its 95% interval; the length and a perplexity are on logarithmic axes."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    styles = scheme_styles(table.kinds)
    columns = {length: column for (name, length), column in table.columns.items() if name == measure["name"]}
    for place, row in enumerate(table.rows):
        style = styles[row.scheme]
        found = {
            length: row.estimates[measure["name"], length] for length in columns if row.scheme in columns[length].estimates
        }
        values = [(length, one.value, *_bounds(one.value, one.low, one.high)) for length, one in found.items()]
        # Shift the points of each scheme sideways, so that equal intervals do not cover one another.
        nudge = 2 ** (min(0.016, 0.3 / len(table.rows)) * (place - (len(table.rows) - 1) / 2))
        figure.add_trace(
            go.Scatter(
                x=[length * nudge for length, *_ in values],
                y=[value for _, value, *_ in values],
                customdata=[
                    [f"{length:,}", *(written(one, measure) for one in (value, low, high))]
                    for length, value, low, high in values
                ],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value for _, value, _, high in values],
                    "arrayminus": [value - low for _, value, low, _ in values],
                    "thickness": 1.2,
                    "width": 0,
                    "color": faint(style.colour),
                },
                name=label(row.scheme),
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 2},
                marker={"symbol": style.marker, "size": 9, "color": style.colour},
                hovertemplate="%{customdata[1]} at %{customdata[0]}<br>95% interval %{customdata[2]} to %{customdata[3]}",
            )
        )
    if table.chance and measure == table.measures[0]:
        line = {"color": "#8a94a3", "dash": "longdash", "width": 1.5}
        guessed = {"x": list(table.chance), "y": list(table.chance.values()), "mode": "lines", "line": line}
        figure.add_trace(go.Scatter(**guessed, name="guessing", hovertemplate="%{y:.1%} at %{x:,}"))
    lengths = sorted(columns)
    figure.update_layout(
        **layout(560),
        xaxis=axis(f"test length in {unit}s", type="log", tickvals=lengths, ticktext=[f"{length:,}" for length in lengths]),
        yaxis=_value_axis(table, measure, unit),
        legend=legend(),
        hovermode="closest",
    )
    _mark_trained(figure, train_length)
    return figure


def _bounds(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    """The ends of an error bar: none where there is no interval or where an end has no number."""
    return (value if low is None else low, value if high is None or math.isinf(high) else high)


def _value_axis(table: TaskTable, measure: dict[str, Any], unit: str) -> dict[str, Any]:
    if not measure["exponential"]:
        return axis("share of problems", range=[-0.03, 1.03], tickformat=".0%")
    values = [one.value for row in table.rows for (name, _), one in row.estimates.items() if name == measure["name"]]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=1.0), max(finite, default=10.0)
    # The axis shows all means. An interval of two seeds may be wider than any picture: it is cut off.
    room = 1.25 * max(high / low, 1.2) ** 0.08
    ticks = log_ticks(low / room, high * room)
    return axis(
        f"perplexity per {unit}",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
        range=[math.log10(low / room), math.log10(high * room)],
    )


def _mark_trained(figure: Any, train_length: int) -> None:
    figure.add_vline(x=train_length, line={"color": "#9aa3b0", "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=0, xref="paper", y=1, yref="paper", yanchor="bottom", xanchor="left", showarrow=False,
        text=f"trained at {train_length:,}", font={"size": 12, "color": "#667085"},
    )  # fmt: skip


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
        **layout(240) | {"margin": {"l": 44, "r": 8, "t": 8, "b": 36}},
        xaxis=axis("offset", nticks=6),
        yaxis=axis("", nticks=6, range=[bottom - room, highest + room]),
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"font": {"size": 11}},
    )
    figure.add_vline(x=train_length - 1, line={"color": "#9aa3b0", "width": 1, "dash": "dot"})
    return figure

"""The charts of costs, as Plotly figures."""

import math
from typing import Any

from falloff.lab.extras import require
from falloff.lab.figures.style import Style, axis, label, layout, legend, log_ticks
from falloff.lab.findings.costs import Cost


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
        **layout(90 + 26 * len(rows)) | {"margin": {"l": 96, "r": 48, "t": 8, "b": 40}},
        xaxis=axis(unit, range=[0, 1.14 * max(value for _, value in rows)], nticks=6),
        yaxis={"automargin": True, "tickvals": [name for name, _ in rows], "ticktext": [label(name) for name, _ in rows]},
        bargap=0.35,
    )
    return figure


def length_cost_chart(costs: dict[str, Cost], key: str, title: str, styles: dict[str, Style], unit: str) -> Any:
    """A cost of testing by length, `key` of `LengthCost`; both axes logarithmic."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    values = [getattr(one, key) for cost in costs.values() for one in cost.test.values()]
    lengths = sorted({length for cost in costs.values() for length in cost.test})
    for scheme, cost in costs.items():
        style = styles[scheme]
        figure.add_trace(
            go.Scatter(
                x=list(cost.test),
                y=[getattr(one, key) for one in cost.test.values()],
                name=label(scheme),
                mode="lines+markers",
                line={"color": style.colour, "dash": style.dash, "width": 1.8},
                marker={"symbol": style.marker, "size": 8, "color": style.colour},
                hovertemplate="%{y:,.4~g} at %{x:,}",
            )
        )
    ticks = log_ticks(0.9 * min(values), 1.1 * max(values))
    figure.update_layout(
        **layout(360 + 20 * math.ceil(len(costs) / 3)),
        xaxis=axis(f"length in {unit}s", type="log", tickvals=lengths, ticktext=[f"{length:,}" for length in lengths]),
        yaxis=axis(
            title,
            type="log",
            tickvals=ticks,
            ticktext=[f"{tick / 1000:g}k" if tick >= 10_000 else f"{tick:,g}" for tick in ticks],
        ),
        legend=legend(y=-0.25, font={"size": 12}),
        hovermode="closest",
    )
    return figure

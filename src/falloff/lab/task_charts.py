"""The heat map of a task for the report: exact match by length and depth."""

from typing import Any

from falloff.lab.chart_style import axis, layout
from falloff.lab.extras import require
from falloff.lab.task_tables import Shares
from falloff.views.palette import SEQUENTIAL

_STEP = 22  # pixels of one depth


def depth_chart(shares: Shares, train_length: int) -> Any:
    """One scheme: a column for each test length, a row for each depth, 0 at the top, and the percentage in each cell.

    Args:
        shares: of the scheme, by `shares_by_depth`.
        train_length: in bold on the axis.
    """
    go = require("plotly.graph_objects")
    lengths = [f"<b>{length:,}</b>" if length == train_length else f"{length:,}" for length in shares]
    depths = list(next(iter(shares.values())))
    figure = go.Figure(
        go.Heatmap(
            x=lengths,
            y=[f"{depth:.0%}" for depth in depths],
            z=[[by_depth[depth] for by_depth in shares.values()] for depth in depths],
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            showscale=False,  # each cell says its number
            xgap=2,
            ygap=1,
            texttemplate="%{z:.0%}",
            textfont={"size": 11},
            hovertemplate="%{z:.0%} exact at length %{x}, depth %{y}<extra></extra>",
        )
    )
    figure.update_layout(
        **layout(64 + _STEP * len(depths)) | {"margin": {"l": 56, "r": 8, "t": 8, "b": 44}},
        xaxis=axis("length", type="category", showgrid=False),
        yaxis=axis("depth", type="category", showgrid=False, autorange="reversed", tickvals=["0%", "100%"]),
    )
    return figure

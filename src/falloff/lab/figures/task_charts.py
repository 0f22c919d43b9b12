"""The heat map of a task for the report: exact match by length and depth."""

from typing import Any

from falloff.lab.extras import require
from falloff.lab.figures.style import axis, layout
from falloff.lab.findings.task_tables import Shares
from falloff.views.palette import SEQUENTIAL, shade, text_colour

_STEP = 22  # pixels of one depth


def depth_chart(shares: Shares, train_length: int) -> Any:
    """One scheme: a column for each test length, a row for each depth, 0 at the top, and the percentage in each cell.

    Args:
        shares: of the scheme, by `shares_by_depth`.
        train_length: in bold on the axis.
    """
    go = require("plotly.graph_objects")
    lengths = [f"<b>{length:,}</b>" if length == train_length else f"{length:,}" for length in shares]
    levels = list(next(iter(shares.values())))
    depths = [f"{depth:.0%}" for depth in levels]
    cells = [
        (length, f"{depth:.0%}", share)
        for length, of in zip(lengths, shares.values(), strict=True)
        for depth, share in of.items()
    ]
    figure = go.Figure(
        go.Heatmap(
            x=lengths,
            y=depths,
            z=[[by_depth[depth] for by_depth in shares.values()] for depth in levels],
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            showscale=False,  # each cell says its number
            xgap=2,
            ygap=1,
            hovertemplate="%{z:.0%} exact at length %{x}, depth %{y}<extra></extra>",
        )
    )
    # Not the heat map's own text, whose grey is hard to read on green.
    figure.add_trace(
        go.Scatter(
            x=[length for length, _, _ in cells],
            y=[depth for _, depth, _ in cells],
            text=[f"{share:.0%}" for _, _, share in cells],
            mode="text",
            textfont={"size": 11, "color": [text_colour(shade(SEQUENTIAL, share)) for _, _, share in cells]},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    figure.update_layout(
        **layout(64 + _STEP * len(depths)) | {"margin": {"l": 56, "r": 8, "t": 8, "b": 44}},
        xaxis=axis("length", type="category", showgrid=False),
        yaxis=axis("depth", type="category", showgrid=False, autorange="reversed", tickvals=["0%", "100%"]),
    )
    return figure

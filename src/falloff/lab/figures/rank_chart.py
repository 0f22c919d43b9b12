"""The chart of ranks by seed: whether the order of the schemes is the same in every training run."""

from typing import Any

from falloff.lab.extras import require
from falloff.lab.figures.style import axis, faint, label, layout, scheme_styles
from falloff.lab.findings.tables import TaskTable, written


def rank_chart(table: TaskTable, measure: str, length: int) -> Any:
    """The rank of each scheme in each seed: a row for each scheme, a dot for each seed, the best mean rank on top."""
    go = require("plotly.graph_objects")
    column = table.columns[measure, length]
    styles = scheme_styles(table.kinds)
    ranked = sorted(column.estimates, key=lambda scheme: _mean(column.estimates[scheme].ranks), reverse=True)
    figure = go.Figure()
    for scheme in ranked:  # Plotly starts at the bottom
        one = column.estimates[scheme]
        style = styles[scheme]
        # Seeds of the same rank lie above one another, not on one another.
        heights = _stacked(list(one.ranks.values()))
        row = ranked.index(scheme)
        figure.add_trace(
            go.Scatter(
                x=[min(one.ranks.values()), max(one.ranks.values())],
                y=[row, row],
                mode="lines",
                line={"color": faint(style.colour), "width": 3},
                hoverinfo="skip",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=list(one.ranks.values()),
                y=[row + height for height in heights],
                customdata=[[seed, written(one.by_seed[seed], column.measure)] for seed in one.ranks],
                mode="markers",
                name=scheme,
                marker={"symbol": style.marker, "size": 8, "color": style.colour},
                hovertemplate="rank %{x:g} with seed %{customdata[0]}: %{customdata[1]}",
            )
        )
    figure.update_layout(
        **layout(80 + 26 * len(ranked)) | {"margin": {"l": 96, "r": 12, "t": 8, "b": 44}},
        xaxis=axis("rank within a seed (1: the best)", range=[0.5, len(ranked) + 0.5], dtick=-(-len(ranked) // 12), tick0=1),
        yaxis=axis(
            "",
            tickvals=list(range(len(ranked))),
            ticktext=[label(scheme) for scheme in ranked],
            range=[-0.7, len(ranked) - 0.3],
            automargin=True,
            gridcolor="rgba(140,150,165,0.25)",
        ),
        showlegend=False,
        hovermode="closest",
    )
    return figure


def _mean(ranks: dict[int, float]) -> float:
    return sum(ranks.values()) / len(ranks)


def _stacked(values: list[float]) -> list[float]:
    """How far above its row each dot is drawn, so that equal ones are all seen.

    >>> _stacked([1.0, 2.0, 1.0])
    [-0.11, 0.0, 0.11]
    """
    step = min(0.22, 0.7 / max(values.count(value) for value in values))
    return [
        round(step * (values[:place].count(value) - (values.count(value) - 1) / 2), 3) for place, value in enumerate(values)
    ]

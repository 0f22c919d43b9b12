"""Figures of one bias, from the numbers of `falloff.views`: plain dictionaries for Plotly, built in milliseconds."""

from collections.abc import Sequence
from math import log10
from typing import Any

from falloff.explore.heat import heat_trace
from falloff.explore.theme import Theme, axis, base_layout
from falloff.schemes.base import Scheme
from falloff.views.buckets import Bucketed, bucket_table
from falloff.views.by_offset import Curves, curves_by_offset
from falloff.views.grids import BiasGrid
from falloff.views.pairs import PairBias
from falloff.views.palette import GridColours, bucket_colours, head_colours, text_colour
from falloff.views.rulers import ruler, ruler_place, ruler_ticks

Figure = dict[str, Any]

_MOST_LABELLED = 16  # positions of a matrix whose cells have room for a number
_DEPTH = 20.0  # a curve is drawn down to this much below its highest value: there a key gets e^-20 of the weight


def curves_chart(scheme: Scheme, trained_length: int, *, logarithmic: bool, theme: Theme, marked: bool = True) -> Figure:
    """The bias of every head by offset, to twice the trained length, a marked line; to 8 times it on a logarithmic axis."""
    length = (8 if logarithmic else 2) * trained_length
    found = curves_by_offset(scheme, length, "octaves" if logarithmic else "even")
    shape = "hv" if isinstance(scheme, Bucketed) else "linear"
    figure = lines_chart([(found, "")], theme, shape=shape)
    figure["layout"]["xaxis"] |= {"type": "log", "dtick": 1, "minor": {"ticks": ""}} if logarithmic else {}
    if marked:
        _mark_trained(figure, trained_length, theme, logarithmic=logarithmic)
    return figure


def lines_chart(curves: Sequence[tuple[Curves, str]], theme: Theme, *, shape: str = "linear") -> Figure:
    """Curves by offset, a colour a head; a second set is dotted."""
    traces: list[dict[str, Any]] = []
    lowest, highest = float("inf"), float("-inf")
    for (found, name), dash in zip(curves, ("solid", "dot"), strict=False):
        offsets = found.offsets.tolist()
        values = found.values.tolist()
        for head, (colour, heights) in enumerate(zip(head_colours(len(values), dark=theme.dark), values, strict=True)):
            lowest, highest = min(lowest, *heights), max(highest, *heights)
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": offsets,
                    "y": [round(height, 6) for height in heights],
                    "name": f"head {head}{name}",
                    "line": {"color": colour, "width": 1.8, "dash": dash, "shape": shape},
                    "hovertemplate": "%{fullData.name}: %{y:.4g} at offset %{x}<extra></extra>",
                }
            )
    bottom = max(lowest, highest - _DEPTH)
    room = 0.06 * (highest - bottom) or 1.0
    layout = base_layout(theme) | {
        "xaxis": axis(theme, "offset (query position - key position)", nticks=7),
        "yaxis": axis(theme, "bias", nticks=6, range=[bottom - room, highest + room]),
    }
    return {"data": traces, "layout": layout}


def rows_chart(near: Curves, far: Curves, pairs: Sequence[PairBias], theme: Theme) -> Figure:
    """The bias as two queries see it, with a mark at each pair."""
    figure = lines_chart([(near, f", query {near.query}"), (far, f", query {far.query}")], theme)
    for pair, symbol in zip(pairs, ("circle", "diamond"), strict=True):
        figure["data"].append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [pair.offset] * len(pair.values),
                "y": [round(value, 6) for value in pair.values],
                "name": f"query {pair.query}, key {pair.key}",
                "marker": {"size": 9, "symbol": symbol, "color": theme.ink, "line": {"width": 1, "color": theme.ground}},
                "hovertemplate": "%{fullData.name}: %{y:.4g}<extra></extra>",
            }
        )
    return figure


def matrix_chart(grid: BiasGrid, theme: Theme) -> Figure:
    """The (query, key) matrix as a heat map: rows are queries, columns keys, masked cells blank."""
    colours = GridColours(grid)
    positions = list(range(grid.length))
    cells = [list(row) for row in grid.cells]
    gap = 1 if grid.length <= 32 else 0
    trace = heat_trace(cells, "query %{y}, key %{x}: %{z:.4g}", colours.ramp)
    trace |= {"x": positions, "y": positions, "xgap": gap, "ygap": gap}
    if grid.kind == "bucket":
        shown = [bucket.bucket for bucket in grid.legend]
        trace |= _steps(shown, [colours(bucket) for bucket in shown], cells) | {"showscale": False}
    else:
        trace |= {"zmin": colours.low, "zmax": colours.high if colours.high > colours.low else colours.low + 1}
    if grid.length <= _MOST_LABELLED:
        trace |= {"text": grid.labels(), "texttemplate": "%{text}"}  # Plotly leaves out text that does not fit
    layout = base_layout(theme) | {
        "xaxis": axis(theme, "key", showgrid=False, nticks=12, constrain="domain", side="top"),
        "yaxis": axis(theme, "query", showgrid=False, nticks=12, autorange="reversed", scaleanchor="x", constrain="domain"),
        "margin": {"l": 44, "r": 8, "t": 44, "b": 36},
    }
    return {"data": [trace], "layout": layout}


def ruler_chart(scheme: Scheme, theme: Theme) -> Figure:
    """Which stretch of offsets each bucket covers."""
    table = bucket_table(scheme)
    stretches = ruler(table)
    colours = bucket_colours([bucket for bucket in table if bucket.ranges])
    fills = [colours[stretch.bucket.bucket] for stretch in stretches]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": ["buckets"] * len(stretches),
        "base": [stretch.begin for stretch in stretches],
        "x": [stretch.end - stretch.begin for stretch in stretches],
        "marker": {"color": fills, "line": {"width": 1, "color": theme.ground}},
        "text": [str(stretch.bucket.bucket) for stretch in stretches],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": [text_colour(fill) for fill in fills]},
        "customdata": [stretch.bucket.offsets for stretch in stretches],
        "hovertemplate": "bucket %{text}: %{customdata}<extra></extra>",
        "constraintext": "inside",
    }
    ticks = ruler_ticks(stretches)
    layout = base_layout(theme) | {
        "xaxis": axis(
            theme,
            "offset, doubling",
            showgrid=False,
            tickvals=[ruler_place(tick) for tick in ticks],
            ticktext=[str(tick) for tick in ticks],
        ),
        "yaxis": {"visible": False, "fixedrange": True},
        "bargap": 0,
        "barmode": "overlay",
        "margin": {"l": 12, "r": 12, "t": 6, "b": 44},
        "uniformtext": {"mode": "hide", "minsize": 8},
    }
    return {"data": [trace], "layout": layout}


def _steps(values: Sequence[int | float], fills: list[str], cells: list[list[Any]]) -> dict[str, Any]:
    """A colour scale with one flat step for each value. The cells become places on it, the values their text."""
    place = {value: rank for rank, value in enumerate(values)}
    count = len(values)
    scale = [edge for rank, fill in enumerate(fills) for edge in ([rank / count, fill], [(rank + 1) / count, fill])]
    return {
        "z": [[None if cell is None else place[cell] for cell in row] for row in cells],
        "meta": "text",  # for downloads: the numbers are the text, z is a place on the scale
        "text": [["" if cell is None else str(cell) for cell in row] for row in cells],
        "hovertemplate": "query %{y}, key %{x}: bucket %{text}<extra></extra>",
        "colorscale": scale,
        "zmin": -0.5,
        "zmax": count - 0.5,
    }


def _mark_trained(figure: Figure, trained_length: int, theme: Theme, *, logarithmic: bool) -> None:
    last = trained_length - 1
    figure["layout"]["shapes"] = [
        {
            "type": "line", "x0": last, "x1": last, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": theme.mark, "width": 1.5, "dash": "dot"},
        }
    ]  # fmt: skip
    figure["layout"]["annotations"] = [
        {
            "x": log10(last) if logarithmic else last, "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
            "text": f"trained to {last}", "font": {"size": 11, "color": theme.soft},
        }
    ]  # fmt: skip
    figure["layout"]["margin"] = {"l": 52, "r": 12, "t": 24, "b": 44}

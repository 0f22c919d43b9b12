"""A figure with its title, its description and its downloads; a message; a table."""

import re
from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from falloff.explore.controls import Id, dom_id

Component = Any
_GRAPH_CONFIG = {"displayModeBar": False, "displaylogo": False, "responsive": True, "showTips": False}


def figure_panel(identity: Id, title: str, note: str = "", *, file: str = "", height: int = 280) -> Component:
    """A figure with a title, a note that also describes it to screen readers, and buttons for PNG, SVG and CSV.

    The buttons work in the browser alone: see assets/explore.js.
    """
    target = dom_id(identity)
    name = file or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    buttons = [
        html.Button(
            kind.upper(),
            type="button",
            className="download",
            **{
                "data-figure": target,
                "data-format": kind,
                "data-file": name,
                "aria-label": f"Download {title} as {kind.upper()}",
            },
        )
        for kind in ("png", "svg", "csv")
    ]
    return html.Figure(
        [
            html.Figcaption([html.H3(title), *([html.P(note, className="note")] if note else [])]),
            dcc.Graph(id=identity, figure=empty(), config=_GRAPH_CONFIG, style={"height": height}),
            html.Div(buttons, className="downloads"),
        ],
        className="panel",
    )


def empty() -> dict[str, Any]:
    """A figure with nothing in it."""
    return {
        "data": [],
        "layout": {
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        },
    }


def message(text: str) -> Component:
    """What is wrong with a value, announced to screen readers; nothing for an empty text."""
    return html.P(text, className="wrong", role="alert") if text else None


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> Component:
    """A table that assets/explore.js sorts by a click on a heading; the first cell of a row names it."""
    heads = [
        html.Th(html.Button(name, type="button", className="sort"), scope="col", **{"aria-sort": "none"}) for name in header
    ]
    body = [
        html.Tr(
            [
                html.Th(row[0], scope="row"),
                *(html.Td(cell, **{"data-label": name}) for name, cell in zip(header[1:], row[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return html.Div(
        html.Table([html.Caption(caption), html.Thead(html.Tr(heads)), html.Tbody(body)], className="sortable"),
        className="scroll",
        tabIndex="0",
        role="region",
        **{"aria-label": caption},
    )

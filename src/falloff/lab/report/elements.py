"""Pieces of HTML that several sections use."""

from collections.abc import Sequence
from html import escape
from typing import Any

from falloff.lab.extras import require
from falloff.lab.figures.style import Style, on_dark


def plot(figure: Any) -> str:
    """A Plotly figure; the page has Plotly's source once."""
    settings = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(require("plotly.io").to_html(figure, include_plotlyjs=False, full_html=False, config=settings))


def tabs(label: str, buttons: Sequence[tuple[str, str]], attribute: str, *, narrow: bool = False) -> str:
    """Buttons of which one is pressed, each with (value of the attribute, what is written); none if there is one alone."""
    if len(buttons) < 2:
        return ""
    written = "".join(
        f'<button type="button" aria-pressed="{"true" if place == 0 else "false"}" data-{attribute}="{escape(value)}">'
        f"{escape(words)}</button>"
        for place, (value, words) in enumerate(buttons)
    )
    return f'<div class="tabs{" narrow" if narrow else ""}" role="group" aria-label="{escape(label)}">{written}</div>'


def panels(charts: Sequence[tuple[str, str]]) -> str:
    """Charts that share a place, as (id, content): the first one is shown, `tabs` with the attribute "chart" switch."""
    return "".join(
        f'<div class="chart" id="{escape(identity)}"{" hidden" if place else ""}>{content}</div>'
        for place, (identity, content) in enumerate(charts)
    )


def named(scheme: str, style: Style) -> str:
    """The name of a scheme as the heading of a row, with its colour."""
    dark = on_dark().get(style.colour, style.colour)
    return f'<th scope="row"><i style="--light:{style.colour};--dark:{dark}"></i>{escape(scheme)}</th>'


def fact(term: str, what: str, small: str) -> str:
    """One of the facts above a table."""
    return f"<div><dt>{escape(term)}</dt><dd>{escape(what)}<small>{escape(small)}</small></dd></div>"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence, or the first of them.

    >>> listed(["t5", "fire"]), listed(["t5", "fire", "tisa", "rope"], 2), listed([])
    ('t5, fire', 't5, fire and 2 more', 'none')
    """
    if not names:
        return "none"
    left = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + left


def task_id(task: str) -> str:
    """The id of a task's section; names of tasks are those of Python files."""
    return f"task-{escape(task)}"

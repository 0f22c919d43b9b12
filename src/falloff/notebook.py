"""What a notebook shows of an object: a small table in HTML, beside the text. It needs no package."""

from collections.abc import Iterable
from html import escape

_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top"


def facts_html(title: str, facts: Iterable[tuple[str, object]], more: str = "") -> str:
    """A title and a table of facts; `more` is HTML below it.

    >>> "<strong>a &lt;b&gt;</strong>" in facts_html("a <b>", [("heads", 8)])
    True
    """
    rows = "".join(
        f'<tr><th scope="row" style="{_CELL}">{escape(str(name))}</th><td style="{_CELL}">{escape(str(said))}</td></tr>'
        for name, said in facts
    )
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table>{more}</div>"


def bundle(text: str, html: str) -> dict[str, str]:
    """The two ways to show an object, by their type: a terminal takes the text."""
    return {"text/plain": text, "text/html": html}

"""Figures that papers have published, to stand beside those that were measured here, and never as one of them."""

import json
from html import escape
from importlib.resources import files
from typing import Any


def published_names() -> tuple[str, ...]:
    """The presets whose papers' figures are known: one file each in this folder, named as the preset."""
    folder = files("falloff.lab.published")
    return tuple(sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")))


def published(name: str) -> dict[str, Any]:
    """The figures of a paper, as strings of its tables.

    Returns:
        reference, measure, protocol, notes (strings), and tables: a list of title, where (in the paper), lengths, and rows:
        by the paper's name of the scheme, a figure for each length, or None where it has none.

    Raises:
        ValueError: for an unknown name.

    >>> published("paper-kerple")["tables"][0]["rows"]["KERPLE (log)"][-1]
    '21.4 ± 0.6'
    """
    if name not in published_names():
        raise ValueError(f"published: got {name!r}, expected one of {', '.join(published_names())}")
    return json.loads(files("falloff.lab.published").joinpath(f"{name}.json").read_text(encoding="utf-8"))


def section_for(preset: str, asked: str | None) -> str | None:
    """The section of the paper that was asked for, else of the preset's paper; None without either.

    Raises:
        ValueError: if an unknown name was asked for.
    """
    if asked is None and preset not in published_names():
        return None
    return published_section(asked or preset)


def published_section(name: str) -> str:
    """The figures of a paper as a section of the report, in HTML.

    Raises:
        ValueError: for an unknown name.
    """
    found = published(name)
    tables = "".join(_table(table) for table in found["tables"])
    notes = " ".join(escape(note) for note in found["notes"])
    return f"""<section id="published">
<h2>Published, not measured here</h2>
<p class="note">Figures that {escape(found["reference"])} printed. They are that paper's, of its own models, text and tokens:
none of them was measured by falloff, and they rank only against one another. {escape(found["measure"])}
{escape(found["protocol"])} {notes}</p>
{tables}
</section>"""


def _table(table: dict[str, Any]) -> str:
    heads = "".join(f"<th>{length:,}</th>" for length in table["lengths"])
    rows = "".join(
        f'<tr><th scope="row">{escape(scheme)}</th>{_cells(cells)}</tr>' for scheme, cells in table["rows"].items()
    )
    return f"""<h3>{escape(table["title"])} (published: {escape(table["where"])})</h3>
<div class="scroll"><table>
<thead><tr><th>Scheme</th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table></div>"""


def _cells(cells: list[str | None]) -> str:
    return "".join(f"<td>{'&ndash;' if cell is None else escape(cell)}</td>" for cell in cells)

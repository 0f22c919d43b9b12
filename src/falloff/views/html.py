"""Grids and schemes as HTML, for a notebook. It needs no figure, and so no matplotlib."""

from html import escape

from falloff.notebook import facts_html
from falloff.schemes.base import Scheme
from falloff.schemes.settings import title_of
from falloff.views.buckets import Bucketed
from falloff.views.grids import BiasGrid, bias_grid
from falloff.views.palette import GridColours, text_colour
from falloff.views.reasons import bucket_rule

_SHOWN = 8
_EDGE = "padding:2px 6px;text-align:center;font-weight:600"


def grid_html(grid: BiasGrid) -> str:
    """A grid as a table: queries down, keys across, masked cells empty, the offsets of each bucket below.

    >>> from falloff import T5Bias
    >>> grid_html(bias_grid(T5Bias(1, num_buckets=4, max_distance=5), 2)).count("<td")
    4
    """
    colours = GridColours(grid)
    head = "".join(f'<th scope="col" style="{_EDGE}">{key}</th>' for key in range(grid.length))
    rows = []
    for query, (cells, labels) in enumerate(zip(grid.cells, grid.labels(), strict=True)):
        written = "".join(
            "<td></td>" if cell is None else f'<td style="{_filled(colours(cell))}">{escape(label)}</td>'
            for cell, label in zip(cells, labels, strict=True)
        )
        rows.append(f'<tr><th scope="row" style="{_EDGE}">{query}</th>{written}</tr>')
    legend = "; ".join(f"bucket {bucket.bucket}: {bucket.offsets}" for bucket in grid.legend)
    return (
        f'<table style="border-collapse:collapse"><caption style="text-align:left;caption-side:top">{escape(grid.caption)}'
        f'</caption><tr><th scope="col" style="{_EDGE}">query \\ key</th>{head}</tr>{"".join(rows)}</table>'
        + (f"<p>{escape(legend)}</p>" if legend else "")
    )


def scheme_html(scheme: Scheme) -> str:
    """A scheme: its formula, its parameters, and the grid of its first head, if its bias has values here."""
    facts: list[tuple[str, object]] = [("kind", scheme.kind), ("formula", scheme.formula)]
    facts += [(name, said) for name, said in (("in words", scheme.reading), ("paper", scheme.paper)) if said]
    if isinstance(scheme, Bucketed) and (rule := _rule_of(scheme)):
        facts.append(("buckets", rule))
    parameters = [f"{name} {tuple(parameter.shape)}" for name, parameter in scheme.named_parameters()]
    facts.append(("parameters", ", ".join(parameters) or "none"))
    return facts_html(title_of(scheme), facts, _grid_of(scheme))


def _grid_of(scheme: Scheme) -> str:
    """The grid of a scheme; without one if it has no values: it depends on content, or is on no device, or is not finite."""
    if scheme.needs_content:
        return "<p>The bias depends on what the tokens say: without a model it has no values.</p>"
    try:
        return grid_html(bias_grid(scheme, _SHOWN))
    except Exception as error:  # a notebook shows an object even if it cannot compute
        return f"<p>No values to show: {escape(str(error).partition(chr(10))[0][:200])}</p>"


def _rule_of(scheme: Scheme) -> str:
    """The rule of its buckets; nothing if it cannot be computed, which the grid's place then says."""
    try:
        return bucket_rule(scheme)
    except Exception:  # a notebook shows an object even if it cannot compute
        return ""


def _filled(fill: str) -> str:
    return f"background:{fill};color:{text_colour(fill)};padding:2px 6px;text-align:center"

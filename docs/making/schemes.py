"""The schemes that no page describes: the reference shows each with its formula and figure, made from its class alone."""

from collections.abc import Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure

from falloff import SCHEMES, Scheme
from falloff.schemes.settings import make

_HEADS = 4


def without_page(pages: Path) -> list[type[Scheme]]:
    """The schemes whose entry stands in no page of a folder."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(pages.glob("*.md")))
    return [scheme for scheme in SCHEMES.values() if f"::: falloff.{scheme.__name__}\n" not in text]


def figures(schemes: list[type[Scheme]]) -> Iterator[tuple[str, Figure]]:
    """The curves of those that have any without a model, with their default settings, each with the name of its file."""
    torch.manual_seed(0)
    for scheme in schemes:
        if not scheme.needs_content:
            yield f"{scheme.name}-curves", make(scheme, _HEADS, {}).plot(256)


def section(schemes: list[type[Scheme]]) -> str:
    """What the reference says of them, in Markdown; nothing if there are none."""
    parts = []
    for scheme in schemes:
        figure = "" if scheme.needs_content else f"![The bias of {scheme.name}](../generated/{scheme.name}-curves.svg)\n\n"
        parts.append(f"## {scheme.name}\n\n`{scheme.formula}`. {scheme.reading}\n\n{figure}::: falloff.{scheme.__name__}\n")
    return "\n".join(parts)

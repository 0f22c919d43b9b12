"""Schemes side by side: one short line for each property of each."""

from dataclasses import dataclass

from falloff.schemes.base import Scheme
from falloff.views.always import always
from falloff.views.no_bias import NoBias
from falloff.views.properties import Properties, scheme_properties

FACTS = ("kind", "parameters", "Toeplitz", "monotone", "bounded", "reach", "beyond", "in words")
"""What is compared, in order; `beyond` is what happens beyond the trained length."""

_PROPERTY = {"Toeplitz": "toeplitz"}


@dataclass(frozen=True)
class Column:
    """One scheme of a comparison.

    Attributes:
        name: of the scheme.
        facts: a short text for each of `FACTS`.
        at_hand: the facts that hold for the present values of the parameters only, not for every value.
    """

    name: str
    facts: dict[str, str]
    at_hand: tuple[str, ...]


def compared(scheme: Scheme | NoBias, trained_length: int = 512) -> Column:
    """The column of a scheme, or of what is no bias.

    >>> from falloff import ALiBi
    >>> column = compared(ALiBi(8))
    >>> column.facts["monotone"], column.facts["reach"], column.at_hand
    ('yes, falls', 'none', ())
    """
    if isinstance(scheme, NoBias):
        facts = dict.fromkeys(FACTS, "-") | {"kind": scheme.kind.partition(":")[0], "parameters": "0"}
        return Column(scheme.name, facts | {"in words": scheme.reading}, ())
    count = sum(parameter.numel() for parameter in scheme.parameters())
    facts = {"kind": scheme.kind, "parameters": f"{count:,}", "in words": scheme.reading}
    if scheme.needs_content:
        unknown = dict.fromkeys(("Toeplitz", "monotone", "bounded", "reach", "beyond"), "depends on content")
        return Column(scheme.name, {name: {**facts, **unknown}[name] for name in FACTS}, ())
    found = scheme_properties(scheme, trained_length)
    facts |= {
        "Toeplitz": "yes" if found.toeplitz else f"no, from row {found.not_toeplitz_from}",
        "monotone": _monotone(found),
        "bounded": "yes" if found.bounded else "no",
        "reach": "none" if found.reach is None else str(found.reach),
        "beyond": _beyond(found),
    }
    stated = always(scheme, trained_length)
    computed = ("Toeplitz", "monotone", "bounded", "reach", "beyond")
    at_hand = tuple(name for name in computed if _PROPERTY.get(name, name) not in stated)
    return Column(scheme.name, {name: facts[name] for name in FACTS}, at_hand)


def _monotone(found: Properties) -> str:
    if found.monotone:
        return "yes, falls" if found.falling_heads == found.num_heads else "yes, rises"
    if found.falling_heads + found.rising_heads == 0:
        return "no"
    return f"no, {found.falling_heads} of {found.num_heads} heads fall"


def _beyond(found: Properties) -> str:
    said = {
        "constant": "stays constant",
        "falling": "keeps falling",
        "rising": "keeps rising",
        "waving": "keeps waving",
        "mixed": "differs by head",
        "squeezed": "squeezed: same values over more distance",
        "row-dependent": "depends on the row",
    }[found.beyond.verdict]
    untrained = len(found.beyond.untrained_buckets)
    return f"{said}; {untrained} untrained bucket{'s' if untrained > 1 else ''}" if untrained else said

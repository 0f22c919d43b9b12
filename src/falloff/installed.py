"""Schemes that installed packages declare by entry points. They are found without running any code of those packages.

A package declares a name in its pyproject.toml:

    [project.entry-points."falloff.schemes"]
    my-scheme = "package.module:Class"
"""

import functools
import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from falloff.schemes import SCHEMES

GROUP = "falloff.schemes"
NO_SCHEMES = ("rope", "none")
"""Names that commands know beside those of schemes."""


@dataclass(frozen=True)
class Declared:
    """A scheme that an installed package declares.

    Args:
        name: as it is written: in lower case and with -.
        package: the name and version of the package.
        point: where its class is.
        refused: why the name is not taken; None if it is.
    """

    name: str
    package: str
    point: EntryPoint
    refused: str | None


def written(name: str) -> str:
    """The name of a scheme in lower case and with -.

    >>> written("Kerple_Log")
    'kerple-log'
    """
    return name.lower().replace("_", "-")


def declared() -> tuple[Declared, ...]:
    """Everything that installed packages declare, by name.

    Raises:
        ValueError: if the metadata of an installed package cannot be read.
    """
    return _declared(tuple(sys.path))


def installed(name: str) -> Declared | None:
    """What this name, in upper or lower case and with - or _, stands for among the schemes of installed packages, if any."""
    name = written(name)
    if name in SCHEMES or name in NO_SCHEMES:
        return None
    return next((one for one in declared() if one.name == name and one.refused is None), None)


@functools.lru_cache(maxsize=1)
def _declared(path: tuple[str, ...]) -> tuple[Declared, ...]:
    """`declared` for this path of Python. It reads the metadata of every installed package: some 20 ms."""
    try:
        points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    except Exception as error:  # of the metadata of any package
        raise ValueError(f"scheme: got {error} in the entry points of an installed package, expected name = value") from None
    packages: dict[str, set[str]] = {}
    for point in points:
        packages.setdefault(written(point.name), set()).add(_package(point))
    return tuple(
        Declared(written(point.name), _package(point), point, _refused(written(point.name), packages)) for point in points
    )


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _refused(name: str, packages: dict[str, set[str]]) -> str | None:
    if name in SCHEMES:
        return f"{name} is a scheme of falloff's"
    if name in NO_SCHEMES:
        return f"{name} stands for a model without a bias"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        return "a name has letters, digits, - and ."
    others = packages[name]
    return f"{' and '.join(sorted(others))} declare it" if len(others) > 1 else None

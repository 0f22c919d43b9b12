"""Which properties a matrix has: constant along diagonals, symmetric, monotone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from falloff.exercises.base import Checked, Exercise
from falloff.exercises.draw import Draw
from falloff.schemes import FIRE, TISA, ALiBi, Sandwich, Scheme, T5Bias
from falloff.schemes.settings import title_of
from falloff.views.grids import BiasGrid, bias_grid

PROPERTIES = {
    "diagonals": "constant along diagonals (Toeplitz): the offset alone decides",
    "symmetric": "query i and key j have the value of query j and key i",
    "monotone": "along a row, the value never rises as the key gets farther from the query, in either direction",
}
"""The properties by their names in an answer, with what each means."""

_LENGTH = 6


@dataclass(frozen=True)
class PropertyExercise(Exercise):
    """Say which properties a matrix has. The answer is a set of names of `PROPERTIES`, perhaps empty.

    Properties are those of the numbers shown, which are rounded.

    Attributes:
        grid: the matrix; no cell is masked. Its title does not tell what it is.
        origin: the scheme that it comes from: part of the solution.
        answer: the properties that it has.
    """

    kind: ClassVar[str] = "property"
    answer_form: ClassVar[str] = "NAMES"

    grid: BiasGrid
    origin: str
    answer: frozenset[str]

    @classmethod
    def drawn(cls, seed: int, draw: Draw) -> "PropertyExercise":
        scheme = _drawn_scheme(draw)
        cells = [[float(label) for label in row] for row in bias_grid(scheme, _LENGTH, values=True, future=True).labels()]
        origin = title_of(scheme)
        changed = draw.one_of((0, 0, 0, 1, 2))  # cells
        if changed:
            query, key = draw.between(3, 5), draw.between(0, 2)
            value = round(cells[query][key] + draw.one_of((-0.5, 0.75)), 2)
            cells[query][key] = value
            if changed == 2:
                cells[key][query] = value
            origin += f", with {'a cell' if changed == 1 else 'a pair of cells'} changed by hand"
        grid = BiasGrid(title="a matrix", kind="value", cells=tuple(map(tuple, cells)), head=0, num_heads=1)
        # With a changed cell, the grid may be shown more coarsely.
        cells = [[float(label) for label in row] for row in grid.labels()]
        grid = replace(grid, cells=tuple(map(tuple, cells)))
        return cls(
            seed=seed,
            question="Which properties does this matrix have? Name them, with commas, or say none. Rows are queries, "
            "columns keys, offset n = query - key.",
            rule="; ".join(f"{name}: {meaning}" for name, meaning in PROPERTIES.items()),
            grid=grid,
            origin=origin,
            answer=frozenset(name for name, against in _COUNTEREXAMPLES.items() if against(cells) is None),
        )

    def read(self, text: str) -> frozenset[str]:
        words = [word.lower() for word in text.replace(",", " ").split()]
        if words == ["none"]:
            return frozenset()
        if not words or not set(words) <= set(PROPERTIES):
            raise ValueError(f"answer: got {text!r}, expected one or several of {', '.join(PROPERTIES)}, or none")
        return frozenset(words)

    def check(self, answer: frozenset[str] | set[str]) -> Checked:
        if not set(answer) <= set(PROPERTIES):
            raise ValueError(f"answer: got {sorted(answer)}, expected some of {', '.join(PROPERTIES)}")
        lines = []
        for name, counterexample in _COUNTEREXAMPLES.items():
            verdict = "right" if (name in answer) == (name in self.answer) else "wrong"
            against = counterexample(self.grid.cells)
            found = f"no, {against}" if against else f"yes, {_SEEN[name]}"
            lines.append(f"{name}: you are {verdict}: {found}.")
        lines.append(f"The matrix is that of {self.origin}.")
        return Checked(frozenset(answer) == self.answer, tuple(lines))


_SEEN = {
    "diagonals": "every offset has one value, in whichever row",
    "symmetric": "every offset n has the value of -n, at the mirrored cell",
    "monotone": "in every row the value never rises as the offset moves away from 0",
}

_Cells = Sequence[Sequence[Any]]


def _not_along_diagonals(cells: _Cells) -> str | None:
    for query in range(1, len(cells)):
        for key in range(1, len(cells)):
            before, here = cells[query - 1][key - 1], cells[query][key]
            if before != here:
                there = f"{here} at query {query}, key {key}, but {before} at query {query - 1}, key {key - 1}"
                return f"offset {query - key} has {there}"
    return None


def _not_symmetric(cells: _Cells) -> str | None:
    for query in range(len(cells)):
        for key in range(query):
            if cells[query][key] != cells[key][query]:
                past = f"query {query}, key {key} (offset {query - key}) has {cells[query][key]}"
                return f"{past}, but query {key}, key {query} (offset {key - query}) has {cells[key][query]}"
    return None


def _not_monotone(cells: _Cells) -> str | None:
    for query, row in enumerate(cells):
        for step, end in ((-1, -1), (1, len(row))):
            for key in range(query + step, end, step):
                if row[key] > row[key - step]:
                    rise = f"from {row[key - step]} at offset {query - key + step} to {row[key]} at offset {query - key}"
                    return f"in row {query} the value rises {rise}"
    return None


_COUNTEREXAMPLES: dict[str, Callable[[_Cells], str | None]] = {
    "diagonals": _not_along_diagonals,
    "symmetric": _not_symmetric,
    "monotone": _not_monotone,
}


def _drawn_scheme(draw: Draw) -> Scheme:
    """A scheme whose values are drawn here, not by torch, whose random numbers may differ between machines."""
    with torch.random.fork_rng(devices=[]):
        return draw.one_of((_alibi, _fire, _sandwich, _t5, _t5_both_ways, _tisa))(draw)


def _alibi(draw: Draw) -> Scheme:
    return ALiBi(draw.one_of((2, 4, 8)))


def _sandwich(draw: Draw) -> Scheme:
    return Sandwich(1, draw.one_of((2, 4)), first=0)  # short enough for a wave within six positions


def _t5(draw: Draw) -> Scheme:
    return _with_values(T5Bias(1, 4, 5), _values(draw, 4))


def _t5_both_ways(draw: Draw) -> Scheme:
    past, future = _values(draw, 3), _values(draw, 3)
    return _with_values(T5Bias(1, 6, 4, bidirectional=True), [*past, 0.0, *future[1:]])


def _with_values(scheme: T5Bias, values: list[float]) -> Scheme:
    with torch.no_grad():
        scheme.weight.copy_(torch.tensor(values)[:, None])
    return scheme


def _values(draw: Draw, count: int) -> list[float]:
    """A value for each bucket: falling, or in any order."""
    values = [-draw.between(1, 15) / 10 for _ in range(count)]
    return sorted(values, reverse=True) if draw.between(0, 1) else values


def _fire(draw: Draw) -> Scheme:
    """FIRE with a network of one unit: -strength * psi(n) / psi(max(i, L))."""
    scheme = FIRE(1, width=1, init_c=1.0, init_L=float(draw.between(1, 3)))
    with torch.no_grad():
        for parameter, value in zip(scheme.mlp.parameters(), (1, 0, -draw.between(1, 4), 0), strict=True):
            parameter.fill_(value)
    return scheme


def _tisa(draw: Draw) -> Scheme:
    scheme = TISA(1, kernels=1)
    with torch.no_grad():
        scheme.kernel_offsets.fill_(draw.between(-2, 2))
        scheme.kernel_amplitudes.fill_(draw.between(1, 3))
        scheme.kernel_sharpness.fill_(draw.between(1, 4) / 10)
    return scheme

"""A grid with one wrong bucket to find."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from falloff.exercises.base import Checked, Exercise, whole_numbers
from falloff.exercises.bucketed import small_scheme
from falloff.exercises.draw import Draw
from falloff.schemes import Scheme
from falloff.views.grids import BiasGrid, bias_grid
from falloff.views.reasons import bucket_reason, bucket_rule


@dataclass(frozen=True)
class WrongBucketExercise(Exercise):
    """Find the one cell of a grid whose bucket is wrong. The answer is (query, key).

    Attributes:
        scheme: whose grid it is.
        grid: the grid with the wrong bucket in it.
        answer: query and key of the wrong cell.
    """

    kind: ClassVar[str] = "grid"
    answer_form: ClassVar[str] = "QUERY,KEY"

    scheme: Scheme = field(compare=False)
    grid: BiasGrid
    answer: tuple[int, int]

    @classmethod
    def drawn(cls, seed: int, draw: Draw) -> "WrongBucketExercise":
        scheme = small_scheme(draw)
        right = bias_grid(scheme, draw.between(6, 9))
        # Not in the first or last row: there, no row above or below shows the same offset for comparison.
        query = draw.between(2, right.length - 2)
        key = draw.one_of([key for key, cell in enumerate(right.cells[query]) if cell is not None])
        bucket = right.cells[query][key]
        others = [entry.bucket for entry in right.legend if entry.bucket != bucket]
        near = [other for other in others if abs(other - (bucket or 0)) == 1]  # a plausible mistake
        wrong = draw.one_of(near or others)
        cells = [list(row) for row in right.cells]
        cells[query][key] = wrong
        return cls(
            seed=seed,
            question="Which cell of this grid has a wrong bucket? Rows are queries, columns keys, offset n = query - key.",
            rule=bucket_rule(scheme),
            scheme=scheme,
            grid=replace(right, cells=tuple(map(tuple, cells))),
            answer=(query, key),
        )

    def read(self, text: str) -> tuple[int, int]:
        numbers = whole_numbers(text, "QUERY,KEY, as 4,1")
        if len(numbers) != 2:
            raise ValueError(f"answer: got {text!r}, expected QUERY,KEY, as 4,1")
        return self._cell(numbers)

    def _cell(self, answer: tuple[int, ...]) -> tuple[int, int]:
        query, key = answer
        last = self.grid.length - 1
        if not (0 <= query <= last and 0 <= key <= last):
            raise ValueError(f"answer: got {query},{key}, expected a query and a key from 0 to {last}")
        if self.grid.cells[query][key] is None:
            raise ValueError(f"answer: got {query},{key}, expected a cell that is not masked")
        return query, key

    def check(self, answer: tuple[int, int]) -> Checked:
        query, key = self._cell(answer)
        lines = []
        if (query, key) != self.answer:
            reason = bucket_reason(self.scheme, query - key)
            lines.append(f"Query {query}, key {key} is right: {reason}.")
        lines.append(self._solution())
        return Checked((query, key) == self.answer, tuple(lines))

    def _solution(self) -> str:
        query, key = self.answer
        found = self.grid.cells[query][key]
        return f"Query {query}, key {key} reads {found}, but {bucket_reason(self.scheme, query - key)}."

"""Pairs of a query and a key, to be matched to buckets."""

from dataclasses import dataclass, field
from typing import ClassVar

from falloff.exercises.base import Checked, Exercise, whole_numbers
from falloff.exercises.bucketed import bucket_of, small_scheme
from falloff.exercises.draw import Draw
from falloff.schemes import Scheme
from falloff.schemes.settings import title_of
from falloff.views.buckets import bucket_table
from falloff.views.reasons import bucket_reason, bucket_rule

_PAIRS = 5
_LAST_POSITION = 40


@dataclass(frozen=True)
class MatchExercise(Exercise):
    """Give each pair of a query and a key its bucket. The answer is one bucket for each pair.

    Attributes:
        scheme: whose buckets they are.
        pairs: (query, key), five of them.
        buckets: the buckets to choose from: all that the scheme uses.
        answer: the bucket of each pair.
    """

    kind: ClassVar[str] = "match"
    answer_form: ClassVar[str] = "B,B,B,B,B"

    scheme: Scheme = field(compare=False)
    pairs: tuple[tuple[int, int], ...]
    buckets: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def drawn(cls, seed: int, draw: Draw) -> "MatchExercise":
        scheme = small_scheme(draw)
        table = [entry for entry in bucket_table(scheme) if entry.ranges]
        offsets: list[int] = []
        # From as many buckets as there are, so that no answer is mostly one number.
        for entry in draw.some_of(table, min(len(table), _PAIRS)):
            first, last = entry.ranges[0].first, entry.ranges[0].last
            first = first if first is not None else (last or 0) - 4
            offsets.append(draw.between(first, last if last is not None else first + 8))
        while len(offsets) < _PAIRS:
            offset = draw.between(0, (scheme.reach or 0) + 4)
            if offset not in offsets:
                offsets.append(offset)
        pairs = []
        for offset in draw.some_of(offsets, _PAIRS):
            key = draw.between(max(0, -offset), _LAST_POSITION - max(0, offset))
            pairs.append((key + offset, key))
        return cls(
            seed=seed,
            question=f"Which bucket of {title_of(scheme)} does each pair of a query and a key have? Offset n = query - key.",
            rule=bucket_rule(scheme),
            scheme=scheme,
            pairs=tuple(pairs),
            buckets=tuple(entry.bucket for entry in table),
            answer=tuple(bucket_of(scheme, query - key) for query, key in pairs),
        )

    def read(self, text: str) -> tuple[int, ...]:
        return self._checked_length(whole_numbers(text, "one bucket for each pair, as 0,1,2,3,3"))

    def _checked_length(self, answer: tuple[int, ...]) -> tuple[int, ...]:
        if len(answer) != len(self.pairs):
            raise ValueError(f"answer: got {len(answer)} buckets, expected {len(self.pairs)}: one for each pair")
        return answer

    def check(self, answer: tuple[int, ...]) -> Checked:
        lines = []
        for (query, key), given, right in zip(self.pairs, self._checked_length(answer), self.answer, strict=True):
            verdict = "right" if given == right else f"wrong, you said {given}"
            lines.append(f"({query}, {key}): {verdict}: {query} - {key}, {bucket_reason(self.scheme, query - key)}.")
        return Checked(tuple(answer) == self.answer, tuple(lines))

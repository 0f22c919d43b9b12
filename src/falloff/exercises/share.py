"""Which distance shares a bucket with this one."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from falloff.exercises.base import Checked, Exercise, whole_numbers
from falloff.exercises.bucketed import bucket_of
from falloff.exercises.draw import Draw
from falloff.schemes import Scheme, T5Bias
from falloff.schemes.settings import title_of
from falloff.views.buckets import bucket_table
from falloff.views.reasons import bucket_reason, bucket_rule

_SETTINGS = ((8, 20), (8, 32), (12, 40), (16, 64), (32, 128))
_CHOICES = 4


@dataclass(frozen=True)
class ShareExercise(Exercise):
    """Find the distance that shares a bucket with a given one. The answer is one of the choices.

    Attributes:
        scheme: whose buckets they are.
        distance: the given distance.
        choices: four other distances, in rising order; exactly one shares its bucket.
        answer: that one.
    """

    kind: ClassVar[str] = "share"
    answer_form: ClassVar[str] = "DISTANCE"

    scheme: Scheme = field(compare=False)
    distance: int
    choices: tuple[int, ...]
    answer: int

    @classmethod
    def drawn(cls, seed: int, draw: Draw) -> "ShareExercise":
        with torch.random.fork_rng(devices=[]):
            scheme = T5Bias(1, *draw.one_of(_SETTINGS))
        far = 2 * scheme.max_distance
        ranges = [entry.ranges[0] for entry in bucket_table(scheme) if entry.ranges]
        spans = [(part.first or 0, far if part.last is None else part.last) for part in ranges]
        first, last = draw.one_of([span for span in spans if span[1] > span[0]])
        distance, answer = draw.some_of(range(first, last + 1), 2)
        # Others from around the bucket: near enough to need the rule.
        around = range(max(0, first - (last - first) - 6), last + (last - first) + 7)
        others = [other for other in around if not first <= other <= last and other <= far]
        return cls(
            seed=seed,
            question=f"Which of these distances shares a bucket of {title_of(scheme)} with distance {distance}?",
            rule=bucket_rule(scheme),
            scheme=scheme,
            distance=distance,
            choices=tuple(sorted([answer, *draw.some_of(others, _CHOICES - 1)])),
            answer=answer,
        )

    def read(self, text: str) -> int:
        numbers = whole_numbers(text, self._expected())
        return self._chosen(numbers[0] if len(numbers) == 1 else -1, text)

    def _expected(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"

    def _chosen(self, answer: int, text: object) -> int:
        if answer not in self.choices:
            raise ValueError(f"answer: got {text!r}, expected {self._expected()}")
        return answer

    def check(self, answer: int) -> Checked:
        chosen = self._chosen(answer, answer)
        distances = dict.fromkeys((self.distance, chosen, self.answer))
        lines = tuple(f"{bucket_reason(self.scheme, distance).capitalize()}." for distance in distances)
        shares = bucket_of(self.scheme, chosen) == bucket_of(self.scheme, self.distance)
        return Checked(shares, lines)

"""What a task is: items to train on, tests at every length, and the measures of their outcomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from falloff.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from falloff.lab.config import Settings
    from falloff.lab.progress import Progress
    from falloff.lab.text.corpus import Text

_BACKWARD_SHARE = 3  # a training step takes about as long as three forward passes of the same tokens

IGNORED = -100
"""The target where nothing is asked, as `torch.nn.functional.cross_entropy` takes it."""


@runtime_checkable
class Predict(Protocol):
    """A trained model, as a task tests it. Several processes call it together, each with the whole batch."""

    def nats(self, tokens: Int[Tensor, "B N"], targets: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The loss of each target, on the CPU; 0 where it is `IGNORED`. The processes share the work."""

    def right(self, tokens: Int[Tensor, "B N"], targets: Int[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
        """Whether each target has the largest logit, on the CPU. The processes share the work."""


@dataclass(frozen=True)
class Measure:
    """What the items of an outcome are, and how their mean is shown.

    Args:
        name: in results.jsonl.
        words: for a reader, such as "perplexity of the last 64 bytes".
        exponential: whether items are nats, whose mean is shown as its exponential; else the mean itself is shown, a share.
        lower_is_better: whether it is.
    """

    name: str
    words: str
    exponential: bool
    lower_is_better: bool


@dataclass(frozen=True)
class Outcome:
    """What one model gave at one test length, by one measure.

    Args:
        measure: its name.
        length: of the test, in tokens.
        items: the mean nats of each window, or 1.0 and 0.0 for a problem that was solved or not. In the same order for
            every scheme and seed, so that differences can be paired.
        depths: for problems, where what is asked for stands: 0 at the beginning, 1 at the end.
        together: neighbouring items that share tokens: their mean counts as one observation.
    """

    measure: str
    length: int
    items: tuple[float, ...]
    depths: tuple[float, ...] | None = None
    together: int = 1


class Task(ABC):
    """What a model learns, and how it is tested.

    Args:
        settings: of the comparison.
        text: of the comparison; None unless `needs_text`.

    Raises:
        ValueError: for settings that the task cannot serve.
    """

    name: ClassVar[str]
    """On the command line."""
    summary: ClassVar[str]
    """One sentence for help and report."""
    needs_text: ClassVar[bool] = False

    vocabulary: int = 256
    """The number of tokens."""
    measures: tuple[Measure, ...]

    def __init__(self, settings: Settings, text: Text | None) -> None:
        self.settings = settings

    @abstractmethod
    def training_item(self, seed: int, index: int) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
        """Item `index` of training: inputs, and targets, which are `IGNORED` where nothing is asked.

        It depends on the seed, the index and the settings alone: all schemes train on the same.
        """

    @abstractmethod
    def test(self, predict: Predict, progress: Progress) -> list[Outcome]:
        """Test a model at every length by every measure, on the same windows or problems for every scheme and seed.

        Raises:
            ValueError: if an outcome is not finite.
        """

    @classmethod
    def chance(cls, length: int) -> float | None:
        """The value of the first measure by guessing, at this length; None where guessing is no measure."""
        return None

    @abstractmethod
    def counts(self) -> dict[int, int]:
        """How many windows or problems are tested at each length, in the order in which they are."""

    def work(self) -> int:
        """The number of training steps that take about as long as `test`."""
        tokens = sum(length * count for length, count in self.counts().items())
        return -(-tokens // (_BACKWARD_SHARE * self.settings.batch_size * self.settings.train_length))

    def batches(self, length: int, progress: Progress) -> Iterator[slice]:
        """The windows or problems of a length, as many at once as have the tokens of a batch of training.

        Args:
            length: of the test.
            progress: called after each batch with its share of `work`.
        """
        counts, work = self.counts(), self.work()
        total = sum(tested * count for tested, count in counts.items())
        done = sum(tested * count for tested, count in counts.items() if tested < length)
        at_once = max(self.settings.batch_size * self.settings.train_length // length, 1)
        for start in range(0, counts[length], at_once):
            batch = slice(start, min(start + at_once, counts[length]))
            yield batch
            before = work * done // total
            done += length * (batch.stop - batch.start)
            progress.advance(work * done // total - before, doing=f"testing at {length:,}")

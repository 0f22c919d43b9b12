"""A trial: one model of a comparison."""

from dataclasses import dataclass

from falloff.lab.config import Settings


@dataclass(frozen=True)
class Trial:
    """One model, trained on a task with a scheme and a seed, and tested."""

    task: str
    scheme: str
    seed: int

    def __str__(self) -> str:
        return f"{self.scheme}, {self.task}, seed {self.seed}"


def trials_of(settings: Settings) -> list[Trial]:
    """All trials of a comparison, in the order in which they run: all schemes of a task with one seed, then the next.

    >>> [str(trial) for trial in trials_of(Settings.of_preset("quick", schemes=("t5", "rope"), seeds=(3,)))]
    ['t5, text, seed 3', 'rope, text, seed 3']
    """
    return [Trial(task, scheme, seed) for seed in settings.seeds for task in settings.tasks for scheme in settings.schemes]

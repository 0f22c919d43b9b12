"""Trackers: programs that draw a training while it runs, by Accelerate's interface to them. None by default."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from falloff.lab import processes
from falloff.lab.config import Settings
from falloff.lab.extras import require
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Their names on the command line, which are those of their packages."""

LOGGED_EVERY = 10
"""Steps."""

Log = Callable[[Mapping[str, float], int], None]
"""Takes values by name, and the step that they are of."""


def no_log(values: Mapping[str, float], step: int) -> None:
    """A `Log` that keeps nothing."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Check that these are trackers, and installed.

    Raises:
        ValueError: for an unknown name.
        ImportError: for a package that is missing, with the command that installs it.
    """
    if not isinstance(names, tuple):
        raise ValueError(f"trackers: got {names!r}, expected a tuple of names among {', '.join(TRACKERS)}")
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"tracker: got {name!r}, expected names among {', '.join(TRACKERS)}")
        if names.count(name) > 1:
            raise ValueError(f"tracker: got {name!r} twice, expected each name once")
        require(name)


@contextmanager
def tracked(names: tuple[str, ...], settings: Settings, trial: Trial, folder: TrialFolder) -> Iterator[Log]:
    """Start a run of each tracker for a trial, and end it. Only the main process logs.

    Args:
        names: of trackers.
        settings: stored with the run.
        trial: the run has its name.
        folder: of the trial: TensorBoard's events are written there; the others decide for themselves where to write.
    """
    if not names or not processes.is_main():
        yield no_log
        return
    # Accelerate's trackers ask which process this is; the state is the one that training will use.
    require("accelerate").PartialState(cpu=torch.device(settings.device).type == "cpu")
    running = [_tracker(name, trial, folder) for name in names]
    for tracker in running:
        tracker.start()
        tracker.store_init_configuration(_config(settings, trial))

    def log(values: Mapping[str, float], step: int) -> None:
        for tracker in running:
            tracker.log(dict(values), step=step)

    try:
        yield log
    finally:
        for tracker in running:
            tracker.finish()


def _tracker(name: str, trial: Trial, folder: TrialFolder) -> Any:
    kind = require("accelerate.tracking").LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        return kind("tensorboard", logging_dir=str(folder.path))
    return kind("falloff", name=str(trial), group=trial.task)


def _config(settings: Settings, trial: Trial) -> dict[str, int | float | str | bool]:
    """What the trial is: TensorBoard takes neither lists nor None."""
    plain = {name: value for name, value in settings.to_json().items() if isinstance(value, int | float | str)}
    return plain | {"task": trial.task, "scheme": trial.scheme, "seed": trial.seed}

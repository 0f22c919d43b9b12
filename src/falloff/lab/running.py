"""Running one trial: train, test, store."""

from contextlib import ExitStack
from typing import Any

from falloff import environment
from falloff.lab import processes, sharing
from falloff.lab.config import Settings
from falloff.lab.memory import MB, enough_for
from falloff.lab.metering import Metered
from falloff.lab.model import parameter_counts
from falloff.lab.progress import Progress
from falloff.lab.state import whole_weights
from falloff.lab.store.results import scores
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks import Task
from falloff.lab.trackers import Log, tracked
from falloff.lab.training import deterministic, train


def run_trial(
    settings: Settings,
    trial: Trial,
    task: Task,
    folder: TrialFolder,
    progress: Progress,
    save_seconds: float,
    trackers: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train, test and store one trial, or continue it from the state in its folder. All processes of a job call it together.

    One job at a time runs a trial. If another one has completed it meanwhile, nothing is run.

    Args:
        settings: of the comparison.
        trial: one of it.
        task: that of the trial.
        folder: of the trial.
        progress: called with the progress.
        save_seconds: see `train`.
        trackers: see `tracked`.

    Returns:
        The result, read back from the folder.

    Raises:
        ValueError: if a loss is not finite, or memory does not suffice, naming the trial.
        OSError: if a file cannot be written.
    """
    progress.start_trial(str(trial), settings.steps + task.work())
    with ExitStack() as held:

        def begun() -> dict[str, Any] | None:
            held.enter_context(
                folder.locked(lambda: progress.note(f"{trial} waits for another process that is at work on it"))
            )
            try:
                return folder.result()
            except ValueError:  # damaged: it is run again, as the run has said
                return None

        result = processes.on_main(begun)
        if result is None:
            with enough_for(str(trial)), tracked(trackers, settings, trial, folder) as log:
                _train_and_test(settings, trial, task, folder, progress, save_seconds, log)
            result = processes.on_main(folder.result)
    assert result is not None
    progress.finish_trial(str(trial), summary_of(task, result))
    return result


def _train_and_test(
    settings: Settings, trial: Trial, task: Task, folder: TrialFolder, progress: Progress, save_seconds: float, log: Log
) -> None:
    with deterministic():
        trained = train(settings, trial, task, folder, progress, save_seconds, log)
        metered = Metered(trained.predict, next(trained.model.parameters()).device)
        trained.model.eval()
        try:
            outcomes = task.test(metered, progress)
        except ValueError as error:
            raise ValueError(f"{trial}: {error}") from None
    scheme = trained.model.scheme
    parameters, bias_parameters = parameter_counts(trained.model)
    found = scores(task, outcomes, settings.resamples)
    result = {
        "task": trial.task,
        "protocol": settings.protocol if task.needs_text else None,
        "scheme": trial.scheme,
        "kind": "baseline" if scheme is None else scheme.kind,
        "seed": trial.seed,
        "train_length": settings.train_length,
        "scores": found,
        "costs": metered.costs(trained.model),
        "parameters": parameters,
        "bias_parameters": bias_parameters,
        "seconds_per_step": trained.seconds_per_step,
        "tokens_per_second": settings.batch_size * settings.train_length / trained.seconds_per_step,
        "peak_memory_mb": trained.peak_bytes / MB,
        "processes": processes.count(),
        "context_parallel": sharing.sequence_ranks(),
        "machine": environment.machine(settings.device),
    }
    weights = whole_weights(trained.model)
    processes.on_main(lambda: folder.write_result(weights, result))
    log({f"test/{score['measure']}/{score['length']}": score["value"] for score in found}, settings.steps)


def summary_of(task: Task, result: dict[str, Any]) -> str:
    """A result in a few words: the first measure at the shortest and at the longest length."""
    measure = task.measures[0]
    found = [score for score in result["scores"] if score["measure"] == measure.name]
    first, last = found[0], found[-1]
    return f"{measure.words} {first['value']:.2f} at {first['length']:,}, {last['value']:.2f} at {last['length']:,}"

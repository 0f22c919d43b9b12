"""Running one trial: train, test, store."""

from typing import Any

from falloff import environment
from falloff.lab.config import Settings
from falloff.lab.memory import MB
from falloff.lab.metering import Metered
from falloff.lab.model import parameter_counts
from falloff.lab.progress import Progress
from falloff.lab.results import scores
from falloff.lab.tasks import Task
from falloff.lab.training import deterministic, train
from falloff.lab.trial_folder import TrialFolder
from falloff.lab.trials import Trial


def run_trial(
    settings: Settings, trial: Trial, task: Task, folder: TrialFolder, progress: Progress, save_seconds: float
) -> dict[str, Any]:
    """Train, test and store one trial, or continue it from the state in its folder.

    One process at a time runs a trial. If another one has completed it meanwhile, nothing is run.

    Args:
        settings: of the comparison.
        trial: one of it.
        task: that of the trial.
        folder: of the trial.
        progress: called with the progress.
        save_seconds: see `train`.

    Returns:
        The result, read back from the folder.

    Raises:
        ValueError: if a loss is not finite, naming the trial.
        OSError: if a file cannot be written.
    """
    progress.start_trial(str(trial), settings.steps + task.work())
    with folder.locked(lambda: progress.note(f"{trial} waits for another process that is at work on it")):
        try:
            result = folder.result()
        except ValueError:  # damaged: it is run again, as the run has said
            result = None
        if result is None:
            _train_and_test(settings, trial, task, folder, progress, save_seconds)
            result = folder.result()
    assert result is not None
    progress.finish_trial(str(trial), summary_of(task, result))
    return result


def _train_and_test(
    settings: Settings, trial: Trial, task: Task, folder: TrialFolder, progress: Progress, save_seconds: float
) -> None:
    with deterministic():
        trained = train(settings, trial, task, folder, progress, save_seconds)
        metered = Metered(trained.predict, next(trained.model.parameters()).device)
        trained.model.eval()
        try:
            outcomes = task.test(metered, progress)
        except ValueError as error:
            raise ValueError(f"{trial}: {error}") from None
    scheme = trained.model.scheme
    parameters, bias_parameters = parameter_counts(trained.model)
    result = {
        "task": trial.task,
        "protocol": settings.protocol if task.needs_text else None,
        "scheme": trial.scheme,
        "kind": "baseline" if scheme is None else scheme.kind,
        "seed": trial.seed,
        "train_length": settings.train_length,
        "scores": scores(task, outcomes, settings.resamples),
        "costs": metered.costs(trained.model),
        "parameters": parameters,
        "bias_parameters": bias_parameters,
        "seconds_per_step": trained.seconds_per_step,
        "tokens_per_second": settings.batch_size * settings.train_length / trained.seconds_per_step,
        "peak_memory_mb": trained.peak_bytes / MB,
        "machine": environment.machine(settings.device),
    }
    weights = {key: tensor.detach().cpu() for key, tensor in trained.model.state_dict().items()}
    folder.write_result(weights, result)


def summary_of(task: Task, result: dict[str, Any]) -> str:
    """A result in a few words: the first measure at the shortest and at the longest length."""
    measure = task.measures[0]
    found = [score for score in result["scores"] if score["measure"] == measure.name]
    first, last = found[0], found[-1]
    return f"{measure.words} {first['value']:.2f} at {first['length']:,}, {last['value']:.2f} at {last['length']:,}"

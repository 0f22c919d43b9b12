"""What a worker of a cluster does: check that it would give the driver's numbers, then run one trial."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from falloff import environment
from falloff.lab.cluster.progress_file import WrittenProgress
from falloff.lab.config import Settings
from falloff.lab.describing import code_of
from falloff.lab.running import run_trial
from falloff.lab.store.checksums import with_checksum
from falloff.lab.store.folder import DECIDING_VERSIONS, RunFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks import TASKS
from falloff.lab.text.corpus import Text, read_text
from falloff.lab.training import cpu_threads
from falloff.named import is_own, scheme_class


@dataclass(frozen=True)
class Order:
    """One trial to run, as the driver hands it out.

    Args:
        folder: of the run; the same path on every node.
        config_sha256: of its config.json.
        trial: of the run. If its scheme is the user's own, the user has written its name in the driver's command: its code
            runs here too.
        work_folder: the driver's current folder, in which relative paths are meant.
        attempt: a name of its own for every attempt at a trial.
        save_seconds: see `train`.
    """

    folder: str
    config_sha256: str
    trial: Trial
    work_folder: str
    attempt: str
    save_seconds: float


class UnfitWorkerError(ValueError):
    """A worker on which no trial of the run can give the driver's numbers."""


def run_order(order: Order) -> tuple[dict[str, Any], list[str]]:
    """Run a trial, or continue it from its last state.

    Returns:
        The result and the notes.

    Raises:
        UnfitWorkerError: if this worker has no access to the run's folder, or another text, code or library.
        ValueError, OSError: as `run_trial` does.
    """
    with suppress(OSError):  # without that folder, a relative path is missed where it is read
        os.chdir(order.work_folder)
    folder = RunFolder(Path(order.folder))
    trial = order.trial
    try:
        config, text = _read(order.folder, order.config_sha256)
        if is_own(trial.scheme):
            scheme_class(trial.scheme, "schemes")
            if code_of((trial.scheme,)).get(trial.scheme) != config.get("code", {}).get(trial.scheme):
                raise ValueError(f"schemes: got another code of {trial.scheme} than the driver has")
        settings = Settings.from_json(config["settings"])
        task = TASKS[trial.task](settings, text)
    except ValueError as error:
        raise UnfitWorkerError(
            f"cluster: got the worker {socket.gethostname()}, which cannot run {trial}: {error}"
        ) from None
    stored = folder.trial(trial, config)
    progress = WrittenProgress(stored.progress_path, order.attempt)
    with cpu_threads(config["machine"]["threads"]):
        result = run_trial(settings, trial, task, stored, progress, order.save_seconds)
    return result, progress.notes


@lru_cache(maxsize=1)
def _read(folder: str, config_sha256: str) -> tuple[dict[str, Any], Text | None]:
    """The config of a run and its text, once for all trials that this process runs.

    Raises:
        ValueError: if this machine sees another folder, or has another text or library.
    """
    run = RunFolder(Path(folder))
    config = run.stored_config()
    if config is None or with_checksum(config)["sha256"] != config_sha256:
        raise ValueError(
            f"out: got {run.path}, where it sees {'no config.json' if config is None else 'another config.json'}, not the "
            "driver's; expected a folder on storage that all nodes share, by the same path"
        )
    mine, expected = environment.versions(), config["versions"]
    for name in DECIDING_VERSIONS:
        if mine[name] != expected[name]:
            raise ValueError(f"it has {name} {mine[name]}, expected {expected[name]} as where the run was started")
    if config["text"] is None:
        return config, None
    text = read_text(Settings.from_json(config["settings"]))
    found = text.describe()["sha256"]
    if found != config["text"]["sha256"]:
        raise ValueError(f"text: got one with the SHA-256 {found}, expected that of the driver, {config['text']['sha256']}")
    return config, text

"""The trials of a comparison on a cluster: each is a task of Ray, and is tried again when its worker dies."""

import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from falloff.lab.checksums import with_checksum
from falloff.lab.cluster_start import connected
from falloff.lab.cluster_worker import Order, UnfitWorkerError, run_order
from falloff.lab.config import Settings
from falloff.lab.folder import RunFolder
from falloff.lab.progress import Progress
from falloff.lab.progress_file import read_progress
from falloff.lab.running import summary_of
from falloff.lab.tasks import Task
from falloff.lab.trials import Trial

_LOOK_SECONDS = 1.0
_MOST_DEATHS = 5
_LONG_SECONDS = 600.0
"""A worker that lived this long before it died has done something: its death does not count with those before."""
_LONGEST_PAUSE = 60.0


@dataclass
class _Attempt:
    """A trial, in Ray's hands."""

    trial: Trial
    name: str
    deaths: int  # of workers that had this trial before, in a row
    began: float = 0.0  # when it was first seen at work
    done: int = 0  # of its work, as shown


def on_cluster(
    cluster: str,
    folder: RunFolder,
    config: dict[str, Any],
    left: list[Trial],
    tasks: dict[str, Task],
    progress: Progress,
    save_seconds: float,
) -> Generator[tuple[Trial, dict[str, Any]]]:
    """Run trials on a cluster, and give each with its result as soon as it is complete.

    A trial whose worker or node dies is tried again after a pause, from its last state. A trial that fails by itself is not:
    the others are run, then the error is raised.

    Args:
        cluster: see `connected`.
        folder: of the run, on storage that all nodes share.
        config: as in its config.json.
        left: the trials to run.
        tasks: of the run.
        progress: called with the progress.
        save_seconds: see `train`.

    Raises:
        ValueError: if the cluster cannot be used, a worker is unfit, or trials failed, naming them.
        OSError: if a worker cannot write.
    """
    settings = Settings.from_json(config["settings"])
    threads, on_gpu = config["machine"]["threads"], settings.device == "cuda"
    with connected(cluster, threads, on_gpu) as ray:
        _note_if_too_small(ray, threads, on_gpu, progress)
        remote = ray.remote(run_order).options(num_cpus=threads, num_gpus=int(on_gpu), max_retries=0)
        path, sha256, work_folder = str(folder.path.resolve()), with_checksum(config)["sha256"], str(Path.cwd())
        names = (f"{secrets.token_hex(4)}-{count}" for count in range(10**9))

        def submit(trial: Trial, deaths: int) -> tuple[Any, _Attempt]:
            attempt = _Attempt(trial, next(names), deaths)
            return remote.remote(Order(path, sha256, trial, work_folder, attempt.name, save_seconds)), attempt

        at_work = dict(submit(trial, deaths=0) for trial in left)
        paused: list[tuple[float, Trial, int]] = []  # until when
        failed: dict[str, list[Trial]] = {}
        shown: set[str] = set()
        machines = {_kind(config["machine"])}
        while at_work or paused:
            now = time.monotonic()
            for until, trial, deaths in [entry for entry in paused if entry[0] <= now]:
                paused.remove((until, trial, deaths))
                at_work |= dict([submit(trial, deaths)])
            if not at_work:
                time.sleep(_LOOK_SECONDS)
                continue
            ready, _ = ray.wait(list(at_work), num_returns=1, timeout=_LOOK_SECONDS)
            for attempt in at_work.values():
                _look(attempt, settings, tasks, folder, config, progress, shown)
            for task in ready:
                attempt = at_work.pop(task)
                trial = attempt.trial
                try:
                    result, notes = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UnfitWorkerError | OSError | ImportError):
                        raise error.cause from None
                    if not isinstance(error.cause, ValueError):
                        raise  # a fault of falloff, or of the user's own code
                    failed.setdefault(str(error.cause), []).append(trial)
                    progress.note(f"{trial} failed, the others go on: {error.cause}")
                except ray.exceptions.RayError as error:
                    deaths = _deaths(attempt) + 1
                    if deaths > _MOST_DEATHS:
                        raise ValueError(
                            f"cluster: {trial}: {deaths} workers died one after the other, the last by "
                            f"{type(error).__name__}: {_first_line(error)}"
                        ) from None
                    pause = min(2.0 ** (deaths - 1), _LONGEST_PAUSE)
                    progress.note(f"{trial} goes on in {pause:.0f} s on another worker: {_first_line(error)}")
                    if attempt.done:
                        progress.advance(-attempt.done, doing="waits for another worker", trial=str(trial))
                    paused.append((now + pause, trial, deaths))
                else:
                    for line in notes:
                        progress.note(line)
                    if _kind(result["machine"]) not in machines:
                        machines.add(_kind(result["machine"]))
                        progress.note(
                            f"{trial} ran on another kind of machine than this ({result['machine']['cpu']}, GPU "
                            f"{result['machine']['gpu']}): its times do not compare, and its last bits may differ"
                        )
                    yield trial, result
                    if str(trial) not in shown:
                        progress.start_trial(str(trial), settings.steps + tasks[trial.task].work())
                    progress.finish_trial(str(trial), summary_of(tasks[trial.task], result))
    if failed:
        what = "; ".join(f"{' and '.join(str(trial) for trial in trials)}: {reason}" for reason, trials in failed.items())
        raise ValueError(f"compare: {sum(map(len, failed.values()))} of {len(left)} trials failed ({what})")


def _look(
    attempt: _Attempt,
    settings: Settings,
    tasks: dict[str, Task],
    folder: RunFolder,
    config: dict[str, Any],
    progress: Progress,
    shown: set[str],
) -> None:
    """Show how far an attempt has come, if it has begun."""
    trial = attempt.trial
    state = read_progress(folder.trial(trial, config).progress_path, attempt.name)
    if state is None:
        return
    attempt.began = attempt.began or time.monotonic()
    if str(trial) not in shown:
        shown.add(str(trial))
        progress.start_trial(str(trial), settings.steps + tasks[trial.task].work())
    if state["done"] != attempt.done:
        progress.advance(
            state["done"] - attempt.done,
            doing=state["doing"],
            loss=state["loss"],
            tokens_per_second=state["tokens_per_second"],
            trial=str(trial),
        )
        attempt.done = state["done"]


def _deaths(attempt: _Attempt) -> int:
    lived_long = attempt.began and time.monotonic() - attempt.began > _LONG_SECONDS
    return 0 if lived_long else attempt.deaths


def _kind(machine: dict[str, Any]) -> tuple[Any, Any]:
    return machine["cpu"], machine["gpu"]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _note_if_too_small(ray: ModuleType, threads: int, on_gpu: bool, progress: Progress) -> None:
    """Say that no node can take a trial; where nodes are added on demand, one may come."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= on_gpu for node in nodes):
        progress.note(
            f"no node of the cluster has {threads} free cores{' and a GPU' if on_gpu else ''} for a trial: it waits for one"
        )

"""The trials of a comparison on a cluster: each is a task of Ray, and is tried again when its worker dies."""

import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from falloff.lab.cluster.progress_file import read_progress
from falloff.lab.cluster.start import connected
from falloff.lab.cluster.worker import Order, UnfitWorkerError, run_order
from falloff.lab.config import Settings
from falloff.lab.progress import Progress
from falloff.lab.running import summary_of
from falloff.lab.store.checksums import with_checksum
from falloff.lab.store.folder import RunFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks import Task

_LOOK_SECONDS = 1.0
_MOST_DEATHS = 5
_LONG_SECONDS = 600.0
"""A worker that lived this long before it died has done something: its death does not count with those before."""
_LONGEST_PAUSE = 60.0


@dataclass
class _Attempt:
    """One attempt at a trial."""

    trial: Trial
    progress_path: Path  # where its worker writes how far it is
    deaths: int  # of workers that had this trial before, in a row
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float | None = None  # when it was first seen at work
    done: int = 0  # of its work, as shown
    doing: str = "begins"  # as shown


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
    threads, on_gpu = config["machine"]["threads"], Settings.from_json(config["settings"]).device == "cuda"
    with connected(cluster, threads, on_gpu) as ray:
        _note_if_too_small(ray, threads, on_gpu, progress)
        remote = ray.remote(run_order).options(num_cpus=threads, num_gpus=int(on_gpu), max_retries=0)
        yield from _Driver(ray, remote, folder, config, tasks, progress, save_seconds).run(left)


class _Driver:
    """Hands out trials, collects their results, and shows what runs."""

    def __init__(
        self,
        ray: ModuleType,
        remote: Any,
        folder: RunFolder,
        config: dict[str, Any],
        tasks: dict[str, Task],
        progress: Progress,
        save_seconds: float,
    ) -> None:
        self.ray = ray
        self.remote = remote
        self.folder = folder
        self.config = config
        self.tasks = tasks
        self.progress = progress
        self.save_seconds = save_seconds
        self.steps = config["settings"]["steps"]
        self.place = {
            "folder": str(folder.path.resolve()),
            "config_sha256": with_checksum(config)["sha256"],
            "work_folder": str(Path.cwd()),
        }
        self.at_work: dict[Any, _Attempt] = {}
        self.paused: list[tuple[float, Trial, int]] = []  # until when; the deaths so far
        self.failed: dict[str, list[Trial]] = {}  # by what went wrong
        self.shown: set[Trial] = set()
        self.looked = -_LOOK_SECONDS  # when progress was last shown
        self.machines = {_kind(config["machine"])}

    def run(self, left: list[Trial]) -> Generator[tuple[Trial, dict[str, Any]]]:
        for trial in left:
            self._hand_out(trial, deaths=0)
        while self.at_work or self.paused:
            for entry in [entry for entry in self.paused if entry[0] <= time.monotonic()]:
                self.paused.remove(entry)
                self._hand_out(*entry[1:])
            ready, _ = self.ray.wait(list(self.at_work), timeout=_LOOK_SECONDS) if self.at_work else ([], [])
            if not self.at_work:
                time.sleep(_LOOK_SECONDS)
            if time.monotonic() - self.looked >= _LOOK_SECONDS:
                self.looked = time.monotonic()
                for attempt in self.at_work.values():
                    self._show(attempt)
            for handed_out in ready:
                attempt = self.at_work.pop(handed_out)
                result = self._collect(handed_out, attempt)
                if result is not None:
                    yield attempt.trial, result
                    self._begin(attempt.trial)
                    self.progress.finish_trial(str(attempt.trial), summary_of(self.tasks[attempt.trial.task], result))
        if self.failed:
            count = sum(len(trials) for trials in self.failed.values())
            what = (f"{' and '.join(str(trial) for trial in trials)}: {why}" for why, trials in self.failed.items())
            raise ValueError(f"compare: {count} of {len(left)} trials failed, the others are stored: {'; '.join(what)}")

    def _hand_out(self, trial: Trial, deaths: int) -> None:
        attempt = _Attempt(trial, self.folder.trial(trial, self.config).progress_path, deaths)
        order = Order(trial=trial, attempt=attempt.name, save_seconds=self.save_seconds, **self.place)
        self.at_work[self.remote.remote(order)] = attempt

    def _collect(self, handed_out: Any, attempt: _Attempt) -> dict[str, Any] | None:
        """The result of an attempt that has ended; None if its worker died, or it failed."""
        trial, errors = attempt.trial, self.ray.exceptions
        try:
            result, notes = self.ray.get(handed_out)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UnfitWorkerError | OSError | ImportError):
                raise error.cause from None  # the others would meet it too
            if not isinstance(error.cause, ValueError):
                raise  # a fault of falloff, or of the user's own code
            self.failed.setdefault(str(error.cause), []).append(trial)
            self.progress.note(f"{trial} failed, the others go on: {error.cause}")
            self._stop_showing(attempt)
            return None
        except errors.LocalRayletDiedError:
            raise ValueError("cluster: the Ray of this machine died, expected one that runs as long as this does") from None
        except errors.RayError as error:
            self._try_again(attempt, f"{type(error).__name__}: {str(error).partition('. ')[0].strip()}")
            self._stop_showing(attempt)
            return None
        for line in notes:
            self.progress.note(line)
        if _kind(result["machine"]) not in self.machines:
            self.machines.add(_kind(result["machine"]))
            kind = " and ".join(filter(None, _kind(result["machine"])))
            self.progress.note(
                f"{trial} ran on another kind of machine ({kind}): times do not compare, last bits may differ"
            )
        return result

    def _try_again(self, attempt: _Attempt, reason: str) -> None:
        lived_long = attempt.began is not None and time.monotonic() - attempt.began > _LONG_SECONDS
        deaths = 1 if lived_long else attempt.deaths + 1
        if deaths > _MOST_DEATHS:
            raise ValueError(f"cluster: {deaths} workers died one after the other in {attempt.trial}, the last by {reason}")
        pause = min(2.0 ** (deaths - 1), _LONGEST_PAUSE)
        self.paused.append((time.monotonic() + pause, attempt.trial, deaths))
        self.progress.note(f"{attempt.trial} lost its worker and goes on in {pause:.0f} s on another ({reason})")

    def _show(self, attempt: _Attempt) -> None:
        """Show how far an attempt has come, if it has begun."""
        trial = attempt.trial
        state = read_progress(attempt.progress_path, attempt.name)
        if state is None:
            return
        attempt.began = attempt.began or time.monotonic()
        self._begin(trial)
        if (state["done"], state["doing"]) != (attempt.done, attempt.doing):
            attempt.doing = state["doing"]
            more, attempt.done = state["done"] - attempt.done, state["done"]
            speed = {key: state[key] for key in ("doing", "loss", "tokens_per_second")}
            self.progress.advance(more, trial=str(trial), **speed)

    def _begin(self, trial: Trial) -> None:
        if trial not in self.shown:
            self.shown.add(trial)
            self.progress.start_trial(str(trial), self.steps + self.tasks[trial.task].work())

    def _stop_showing(self, attempt: _Attempt) -> None:
        if attempt.trial in self.shown:
            self.shown.remove(attempt.trial)
            self.progress.drop_trial(str(attempt.trial))


def _kind(machine: dict[str, Any]) -> tuple[Any, Any]:
    return machine["cpu"], machine["gpu"]


def _note_if_too_small(ray: ModuleType, threads: int, on_gpu: bool, progress: Progress) -> None:
    """Say that no node can take a trial; where nodes are added on demand, one may come."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= on_gpu for node in nodes):
        needed = f"{threads} cores" if threads > 1 else "a core"
        progress.note(
            f"no node of the cluster has {needed}{' and a GPU' if on_gpu else ''} for a trial: the run waits for one"
        )

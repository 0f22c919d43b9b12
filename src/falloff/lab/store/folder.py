"""The folder of a comparison: its files, its lock, and how it is resumed after a kill."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from falloff.files import PART, make_folder, write_file
from falloff.lab.config import Settings
from falloff.lab.store.checksums import checked, digest, with_checksum
from falloff.lab.store.locks import held
from falloff.lab.store.results import result_lines
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial, trials_of

FORMAT = 2
"""Of the folder: 1 had one line of results.jsonl for each scheme and length, and no trials."""

_NOT_DECIDING = frozenset({"preset", "schemes", "tasks", "seeds", "text", "dataset", "text_limit", "tokenizer", "device"})
"""Settings that may change with --resume: what is compared; where the text was read, since its hash is compared; and the
number of the device, since its name is compared."""


DECIDING_VERSIONS = ("falloff", "torch", "numpy", "accelerate")
"""The libraries whose versions determine the results."""


class RunFolder:
    """`config.json`, `results.jsonl`, `report.html`, and a folder for each trial: trials/TASK/SCHEME/SEED.

    Every file is written under a temporary name and then renamed, so that a reader, or a resumed run, finds all of it or
    nothing. config.json and the result of each trial contain the SHA-256 of their other content, and a result also that of
    its model, so that later changes are detected. results.jsonl is made from the trials, for readers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.results_path = path / "results.jsonl"
        self.report_path = path / "report.html"
        self.lock_path = path / "lock"

    def trial(self, trial: Trial, config: dict[str, Any]) -> TrialFolder:
        """The folder of a trial of the run with this config: within this one, whatever the scheme's name is."""
        name = re.sub(r"[^\w.-]|^\.+", "_", trial.scheme, flags=re.ASCII)[-100:]  # a name has at most 255 bytes
        if name != trial.scheme:  # after the replacement, two names may be equal
            name += f"-{hashlib.sha256(trial.scheme.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        return TrialFolder(self.path / "trials" / trial.task / name / str(trial.seed), _decides(config, trial))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run: the system lets go of it when the process ends, however it ends.

        Raises:
            ValueError: if another process holds it.
        """

        def taken() -> None:
            raise ValueError(
                f"out: got {self.path}, in which another run is at work, expected a folder for this run alone: wait for the "
                "other, or give another --out"
            )

        with held(self.lock_path, taken):
            yield

    def stored_config(self, device: str | None = None) -> dict[str, Any] | None:
        """The config.json of an earlier run, or None.

        Args:
            device: instead of the run's own, which this machine may lack.

        Raises:
            ValueError: if the file is not the config.json of a run.
        """
        if not self.config_path.exists():
            return None
        try:
            config = checked(self.config_path.read_bytes())
            if "settings" in config and config.get("format") != FORMAT:
                raise ValueError("it was written by another version of falloff: give another --out")
            if device is not None:
                config["settings"] = config["settings"] | {"device": device}
            Settings.from_json(config["settings"])
            deciding(config)
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"out: got {self.config_path}, expected the config.json of a run: {reason}") from None
        del config["sha256"]
        return config

    def check_usable(self) -> None:
        """Check that this is a folder, or can become one.

        Raises:
            ValueError: if it is something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out: got {self.path}, which is not a folder, expected a new or empty folder")

    def check_free(self) -> None:
        """Check that nothing would be lost if a new run were written here.

        Raises:
            ValueError: if it is not empty.
        """
        if self._is_empty():
            return
        if self.config_path.exists():
            raise ValueError(
                f"out: got {self.path}, which holds a run, expected a new or empty folder: --resume goes on with that "
                "run, another --out keeps it"
            )
        raise ValueError(f"out: got {self.path}, which holds other files, expected a new or empty folder")

    def _is_empty(self) -> bool:
        if not self.path.exists():
            return True
        return all(entry.name.endswith(PART) or entry == self.lock_path for entry in self.path.iterdir())

    def completed(self, config: dict[str, Any]) -> tuple[dict[Trial, dict[str, Any]], list[str]]:
        """The result of each complete trial of a run, and what is wrong with those that are damaged.

        Args:
            config: as in config.json.
        """
        done, lost = {}, []
        for trial in trials_of(Settings.from_json(config["settings"])):
            try:
                result = self.trial(trial, config).result()
            except ValueError as error:
                lost.append(f"{trial} is run again: {error}")
                continue
            if result is not None:
                done[trial] = result
        return done, lost

    def results(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of results.jsonl, from the undamaged results of trials."""
        return [line for result in self.completed(config)[0].values() for line in result_lines(result)]

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        self._write(self.config_path, json.dumps(with_checksum(config), indent=2, allow_nan=False) + "\n")

    def write_results(self, lines: list[dict[str, Any]]) -> None:
        """Write results.jsonl."""
        self._write(self.results_path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))

    def write_report(self, page: str) -> None:
        """Write report.html."""
        self._write(self.report_path, page)

    def _write(self, path: Path, content: str) -> None:
        make_folder(self.path)
        # Bytes of a file name that are not UTF-8 cannot be encoded: they are written as escapes.
        write_file(path, content.encode("utf-8", "backslashreplace"))


def check_same(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that nothing that determines the results has changed since a run began.

    Raises:
        ValueError: naming what differs, with both values.
    """
    before, after = deciding(stored), deciding(now)
    codes = [config.get("code", {}) for config in (stored, now)]
    for name in codes[0].keys() & codes[1].keys():  # schemes may be added
        before[name], after[name] = (f"code {code[name][:8]}" for code in codes)
    if None in (before["text"], after["text"]):  # a task that needs a text may be added
        before["text"] = after["text"]
    differing = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name) != after.get(name)
    ]
    if differing:
        raise ValueError(
            f"resume: got another run than the folder's ({'; '.join(differing)}), expected the same; or another --out"
        )


def _decides(config: dict[str, Any], trial: Trial) -> str:
    """The SHA-256 of everything that determines the result of a trial."""
    everything = deciding(config) | {"trial": str(trial), "code": config.get("code", {}).get(trial.scheme)}
    if not config["tasks"][trial.task]["needs_text"]:
        everything["text"] = None
    return digest(everything)


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """Everything that determines the results: most settings, the text itself, the libraries' versions, the machine."""
    found = {name: value for name, value in config["settings"].items() if name not in _NOT_DECIDING}
    found["text"] = None if config["text"] is None else config["text"]["sha256"]
    versions, machine = config["versions"], config["machine"]
    found |= {name: versions.get(name) for name in DECIDING_VERSIONS}
    return found | {name: machine.get(name) for name in ("cpu", "threads", "gpu")}

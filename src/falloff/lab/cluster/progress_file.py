"""Progress of a trial that another process runs, by a small file in the trial's folder."""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from falloff.files import make_folder, write_file
from falloff.lab.progress import Progress


class WrittenProgress(Progress):
    """Writes the progress of one trial to a file, at most every `EVERY` seconds, and keeps its notes.

    Args:
        path: of the file.
        attempt: names this attempt at the trial, so that what an earlier one left behind is not taken for this one's.
    """

    EVERY = 2.0

    def __init__(self, path: Path, attempt: str) -> None:
        self.path = path
        self.notes: list[str] = []
        self.state: dict[str, Any] = {
            **{"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid()},
            **{"work": 0, "done": 0, "doing": "begins", "loss": None, "tokens_per_second": None},
        }
        self.written = 0.0

    def start_trial(self, name: str, work: int) -> None:
        self.state["work"] = work
        self._write()

    def advance(
        self,
        work: int,
        *,
        doing: str,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        trial: str | None = None,
    ) -> None:
        self.state |= {"doing": doing, "loss": loss, "tokens_per_second": tokens_per_second}
        self.state["done"] += work
        if time.monotonic() - self.written >= self.EVERY:
            self._write()

    def note(self, line: str) -> None:
        self.notes.append(line)
        self.state["doing"] = line  # such as what it waits for
        self._write()

    def _write(self) -> None:
        self.written = time.monotonic()
        with suppress(OSError):  # a full disk is the business of what must be stored
            make_folder(self.path.parent)
            write_file(self.path, json.dumps(self.state).encode())


def read_progress(path: Path, attempt: str) -> dict[str, Any] | None:
    """What an attempt at a trial has written last; None if nothing yet."""
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and state.get("attempt") == attempt else None

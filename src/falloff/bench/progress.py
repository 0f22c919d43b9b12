"""Progress of a suite on stderr: a bar with the remaining time on a terminal, else a line for each case."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """Prints nothing; the base class of the others."""

    def begin(self, doing: str, total: int) -> None:
        """A stage of `total` cases begins."""

    def doing(self, name: str) -> None:
        """The next case begins."""

    def share(self, share: float) -> None:
        """A share, 0 to 1, of the current case is done."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class LineProgress(Progress):
    """Prints a line when a case begins."""

    def __init__(self) -> None:
        self.stage, self.total, self.begun = "", 0, 0

    def begin(self, doing: str, total: int) -> None:
        self.stage, self.total, self.begun = doing, total, 0

    def doing(self, name: str) -> None:
        self.begun += 1
        print(f"[{self.begun}/{self.total}] {self.stage}: {name}", file=sys.stderr, flush=True)


class BarProgress(Progress):
    """One rich bar for each stage."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self.bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[name]}", style="dim"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True, highlight=False),
            speed_estimate_period=600.0,
            expand=True,
        )
        self.stage: Any = None
        self.begun = 0

    def begin(self, doing: str, total: int) -> None:
        self.stage, self.begun = self.bars.add_task(doing, total=total, name=""), 0

    def doing(self, name: str) -> None:
        self.bars.update(self.stage, completed=self.begun, name=name)
        self.begun += 1

    def share(self, share: float) -> None:
        self.bars.update(self.stage, completed=self.begun - 1 + share)

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()


def progress_for(*, silent: bool) -> Progress:
    """A bar if stderr is a terminal, else lines; nothing if `silent`."""
    if silent:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()

"""Progress of a run: bars on a terminal, else short lines, or nothing."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from falloff.lab.extras import require


@runtime_checkable
class Stream(Protocol):
    """A stream for text, such as stderr."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


class Progress:
    """Prints notes only; the base class of the others.

    The unit of work is an optimizer step; tests count as the number of steps that take about as long.
    """

    def start(self, trials: int, done: int, work_left: int) -> None:
        """The run begins: the number of trials, how many an earlier run has completed, and the work of the others."""

    def start_trial(self, name: str, work: int) -> None:
        """A trial begins."""

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        """Some work is done."""

    def finish_trial(self, name: str, summary: str) -> None:
        """A trial is complete and stored."""

    def note(self, line: str) -> None:
        """A line that the reader of the results should know. Always printed, on stderr."""
        print(f"Note: {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class LineProgress(Progress):
    """Prints a line when a trial begins, when it is complete, and every `EVERY` seconds in between."""

    EVERY = 20.0

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.trials = self.done = 0
        self.name = ""
        self.began = self.trial_began = self.said = 0.0
        self.left = self.after = self.worked = 0  # work left now, after the trial under way, and what this run has done

    def start(self, trials: int, done: int, work_left: int) -> None:
        self.trials, self.done, self.left = trials, done, work_left
        self.began = time.monotonic()
        if done:
            self._say(f"{done} of {trials} trials were done by an earlier run")

    def start_trial(self, name: str, work: int) -> None:
        self.trial_began = time.monotonic()
        self.name = name
        self.after = self.left - work
        self._say(f"[{self.done + 1}/{self.trials}] {name} ...")

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        self.worked += work
        self.left -= work
        if time.monotonic() - self.said >= self.EVERY:
            place = f"[{self.done + 1}/{self.trials}] {self.name}"
            self._say(f"{place}: {_doing(doing, loss, tokens_per_second)}{self._rest()}")

    def finish_trial(self, name: str, summary: str) -> None:
        self.done += 1
        self.left = self.after  # so that rounding of the work does not accumulate
        spent = _clock(time.monotonic() - self.trial_began)
        self._say(f"[{self.done}/{self.trials}] {name}: {summary}, {spent}{self._rest()}")

    def note(self, line: str) -> None:
        self._say(f"Note: {line}")

    def _rest(self) -> str:
        if not self.left or not self.worked:
            return ""
        return f", about {_clock((time.monotonic() - self.began) / self.worked * self.left)} left"

    def _say(self, line: str) -> None:
        self.said = time.monotonic()
        print(line, file=self.stream, flush=True)


class BarProgress(Progress):
    """Two rich bars: the current trial, with loss and tokens per second, and the whole run."""

    def __init__(self, stream: Stream) -> None:
        progress = require("rich.progress")
        console = require("rich.console").Console(file=stream, highlight=False)
        self.bars: Any = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[said]}", style="dim"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            # The speed is estimated over a minute: schemes differ in speed, and evaluation differs from training.
            progress.TimeRemainingColumn(compact=True),
            console=console,
            speed_estimate_period=60.0,
            expand=True,
        )
        self.whole: Any = None
        self.trial: Any = None
        self.counts = (0, 0)
        self.after = 0  # work done once the trial under way is

    def start(self, trials: int, done: int, work_left: int) -> None:
        self.whole = self.bars.add_task("[bold]all trials", total=work_left, said="")
        self._count(trials, done)
        if done:
            self.bars.console.print(f"{done} of {trials} trials were done by an earlier run")

    def start_trial(self, name: str, work: int) -> None:
        self.trial = self.bars.add_task(require("rich.markup").escape(name), total=work, said="")
        self.after += work

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        self.bars.update(self.trial, advance=work, said=_doing(doing, loss, tokens_per_second))
        self.bars.update(self.whole, advance=work)

    def finish_trial(self, name: str, summary: str) -> None:
        self.bars.remove_task(self.trial)
        self.bars.update(self.whole, completed=self.after)  # so that rounding of the work does not accumulate
        self._count(self.counts[0], self.counts[1] + 1)
        self.bars.console.print(f"[bold]{require('rich.markup').escape(name)}[/bold]: {summary}")

    def note(self, line: str) -> None:
        self.bars.console.print(f"Note: {line}", markup=False)

    def _count(self, trials: int, done: int) -> None:
        self.counts = (trials, done)
        self.bars.update(self.whole, said=f"{done} of {trials} done")

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()


def progress_for(stream: Stream | None = None, *, silent: bool = False) -> Progress:
    """Bars if the stream (stderr by default) is a terminal, else lines; nothing if `silent`."""
    stream = sys.stderr if stream is None else stream
    if silent:
        return Progress()
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def _doing(doing: str, loss: float | None, tokens_per_second: float | None) -> str:
    if loss is None or tokens_per_second is None:
        return doing
    return f"{doing}, loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

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

    The unit of work is an optimizer step; evaluation counts as the number of steps that take about as long.
    """

    def start(self, schemes: int, done: int, work_per_scheme: int) -> None:
        """The run begins: the number of schemes, and how many of them an earlier run has completed."""

    def start_scheme(self, name: str) -> None:
        """A scheme begins."""

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        """Some work is done."""

    def finish_scheme(self, name: str, summary: str) -> None:
        """A scheme is complete and stored."""

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
    """Prints a line when a scheme begins, when it is complete, and every `EVERY` seconds in between."""

    EVERY = 20.0

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.schemes = self.done = 0
        self.name = ""
        self.began = self.scheme_began = self.said = 0.0
        self.each = self.left = self.worked = 0  # work per scheme, work left, work that this run has done

    def start(self, schemes: int, done: int, work_per_scheme: int) -> None:
        self.schemes, self.done, self.each = schemes, done, work_per_scheme
        self.left = (schemes - done) * work_per_scheme
        self.began = time.monotonic()
        if done:
            self._say(f"{done} of {schemes} schemes were done by an earlier run")

    def start_scheme(self, name: str) -> None:
        self.scheme_began = time.monotonic()
        self.name = name
        self._say(f"[{self.done + 1}/{self.schemes}] {name} ...")

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        self.worked += work
        self.left -= work
        if time.monotonic() - self.said >= self.EVERY:
            place = f"[{self.done + 1}/{self.schemes}] {self.name}"
            self._say(f"{place}: {_doing(doing, loss, tokens_per_second)}{self._rest()}")

    def finish_scheme(self, name: str, summary: str) -> None:
        self.done += 1
        # Computed anew, so that rounding of the work does not accumulate.
        self.left = (self.schemes - self.done) * self.each
        spent = _clock(time.monotonic() - self.scheme_began)
        self._say(f"[{self.done}/{self.schemes}] {name}: {summary}, {spent}{self._rest()}")

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
    """Two rich bars: the current scheme, with loss and tokens per second, and the whole run."""

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
        self.work = 1
        self.whole: Any = None
        self.scheme: Any = None

    def start(self, schemes: int, done: int, work_per_scheme: int) -> None:
        self.work = work_per_scheme
        total = schemes * work_per_scheme
        self.whole = self.bars.add_task("[bold]all schemes", total=total, completed=done * self.work, said="")
        self._count(schemes, done)
        if done:
            self.bars.console.print(f"{done} of {schemes} schemes were done by an earlier run")

    def start_scheme(self, name: str) -> None:
        self.scheme = self.bars.add_task(name, total=self.work, said="")

    def advance(self, work: int, *, doing: str, loss: float | None = None, tokens_per_second: float | None = None) -> None:
        self.bars.update(self.scheme, advance=work, said=_doing(doing, loss, tokens_per_second))
        self.bars.update(self.whole, advance=work)

    def finish_scheme(self, name: str, summary: str) -> None:
        self.bars.remove_task(self.scheme)
        # Computed anew, so that rounding of the work does not accumulate.
        schemes, done = self.counts[0], self.counts[1] + 1
        self.bars.update(self.whole, completed=done * self.work)
        self._count(schemes, done)
        self.bars.console.print(f"[bold]{require('rich.markup').escape(name)}[/bold]: {summary}")

    def note(self, line: str) -> None:
        self.bars.console.print(f"Note: {line}", markup=False)

    def _count(self, schemes: int, done: int) -> None:
        self.counts = (schemes, done)
        self.bars.update(self.whole, said=f"{done} of {schemes} done")

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

"""Progress of a run: bars on a terminal, else short lines, or nothing."""

import sys
import time
from dataclasses import dataclass
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
        """A trial begins; on a cluster, others may be under way."""

    def advance(
        self,
        work: int,
        *,
        doing: str,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        trial: str | None = None,
    ) -> None:
        """Some work is done, by the trial with this name; None means the one that began last."""

    def finish_trial(self, name: str, summary: str) -> None:
        """A trial is complete and stored."""

    def drop_trial(self, name: str) -> None:
        """A trial that began has stopped: it failed, or is begun again later."""

    def note(self, line: str) -> None:
        """A line that the reader of the results should know. Always printed, on stderr."""
        print(f"Note: {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class Silent(Progress):
    """Prints nothing: of processes that run together, the main one has the word."""

    def note(self, line: str) -> None:
        pass


@dataclass
class _UnderWay:
    """A trial under way: its work, how much of it is done, when it began, and what it does now."""

    name: str
    work: int
    began: float
    done: int = 0
    doing: str = ""


class LineProgress(Progress):
    """Prints a line when a trial begins, when it is complete, and every `EVERY` seconds in between."""

    EVERY = 20.0
    SHOWN = 4
    """Of the trials under way, the most that a line names."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.trials = self.done = 0
        self.under_way: dict[str, _UnderWay] = {}
        self.began = self.said = 0.0
        self.left = self.worked = 0  # work of the trials that are not complete, and what this run has done

    def start(self, trials: int, done: int, work_left: int) -> None:
        self.trials, self.done, self.left = trials, done, work_left
        self.began = time.monotonic()
        if done:
            self._say(f"{done} of {trials} trials were done by an earlier run")

    def start_trial(self, name: str, work: int) -> None:
        self.under_way[name] = _UnderWay(name, work, time.monotonic())
        self._say(f"[{self.done + len(self.under_way)}/{self.trials}] {name} ...")

    def advance(
        self,
        work: int,
        *,
        doing: str,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        trial: str | None = None,
    ) -> None:
        one = self.under_way[trial or next(reversed(self.under_way))]
        one.done += work
        one.doing = _doing(doing, loss, tokens_per_second)
        self.worked += work
        if time.monotonic() - self.said >= self.EVERY:
            self._say(f"[{self.done + 1}/{self.trials}] {self._all_under_way()}{self._rest()}")

    def finish_trial(self, name: str, summary: str) -> None:
        self.done += 1
        one = self.under_way.pop(name)
        self.left -= one.work  # whatever its parts added up to, so that rounding does not accumulate
        self._say(f"[{self.done}/{self.trials}] {name}: {summary}, {_clock(time.monotonic() - one.began)}{self._rest()}")

    def drop_trial(self, name: str) -> None:
        self.worked -= self.under_way.pop(name).done

    def note(self, line: str) -> None:
        self._say(f"Note: {line}")

    def _all_under_way(self) -> str:
        """What runs now, in one line, those that began first before the others."""
        shown = [f"{one.name}: {one.doing}" for one in list(self.under_way.values())[: self.SHOWN]]
        more = len(self.under_way) - len(shown)
        return "; ".join(shown) + (f"; and {more} more" if more else "")

    def _rest(self) -> str:
        left = self.left - sum(one.done for one in self.under_way.values())
        if left <= 0 or self.worked <= 0:
            return ""
        return f", about {_clock((time.monotonic() - self.began) / self.worked * left)} left"

    def _say(self, line: str) -> None:
        self.said = time.monotonic()
        print(line, file=self.stream, flush=True)


class BarProgress(Progress):
    """Rich bars: one for each trial under way, with loss and tokens per second, and one for the whole run."""

    SHOWN = 16
    """Of the trials under way, the most that have a bar: a terminal scrolls away what does not fit."""

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
        self.under_way: dict[str, Any] = {}  # the bar of each trial
        self.counts = (0, 0)

    def start(self, trials: int, done: int, work_left: int) -> None:
        self.whole = self.bars.add_task("[bold]all trials", total=work_left, said="")
        self._count(trials, done)
        if done:
            self.bars.console.print(f"{done} of {trials} trials were done by an earlier run")

    def start_trial(self, name: str, work: int) -> None:
        visible = len(self.under_way) < self.SHOWN
        self.under_way[name] = self.bars.add_task(require("rich.markup").escape(name), total=work, said="", visible=visible)

    def advance(
        self,
        work: int,
        *,
        doing: str,
        loss: float | None = None,
        tokens_per_second: float | None = None,
        trial: str | None = None,
    ) -> None:
        bar = self.under_way[trial or next(reversed(self.under_way))]
        self.bars.update(bar, advance=work, said=_doing(doing, loss, tokens_per_second))
        self.bars.update(self.whole, advance=work)

    def finish_trial(self, name: str, summary: str) -> None:
        bar = self._removed(name)
        self.bars.update(self.whole, advance=bar.total - bar.completed)  # so that rounding of the work does not accumulate
        self._count(self.counts[0], self.counts[1] + 1)
        self.bars.console.print(f"[bold]{require('rich.markup').escape(name)}[/bold]: {summary}")

    def drop_trial(self, name: str) -> None:
        self.bars.update(self.whole, advance=-self._removed(name).completed)

    def _removed(self, name: str) -> Any:
        """The bar of a trial, taken away, and one that had no room shown in its place."""
        bar = next(bar for bar in self.bars.tasks if bar.id == self.under_way[name])
        self.bars.remove_task(self.under_way.pop(name))
        for hidden in list(self.under_way.values())[: self.SHOWN]:
            self.bars.update(hidden, visible=True)
        return bar

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

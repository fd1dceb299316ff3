"""Show the progress of a run: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.cli.printing import error_console, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

Progress = Callable[[str, int, int], None]  # phase, how many are done, of how many (0: not known)

LINE_EVERY_S = 10.0
PHASES = {
    "plan": ("Reading", "rows"),
    "send": ("Sending", "profiles"),
    "confirm": ("Klaviyo imports", "jobs"),
}


@contextmanager
def show_progress(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Give what to call with the progress of a run."""
    console = error_console()
    if not console.is_terminal:
        lines = _Lines(clock)
        yield lines.show
        lines.end_phase()
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        yield _Bars(bar).show


def count_of(phase: str, done: int, total: int) -> str:
    """Write how much of a phase is done, "" where nothing is known."""
    noun = PHASES.get(phase, ("", ""))[1]
    if (total or done) == 1:
        noun = noun.removesuffix("s")
    if total:
        return f"{done:,} of {total:,} {noun}".rstrip()
    return f"{done:,} {noun}".rstrip() if done else ""


def name_of(phase: str) -> str:
    """Name a phase for a person."""
    return PHASES.get(phase, (phase.capitalize(), ""))[0]


class _Bars:
    """A bar for each phase; that of a phase which is over is full."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._done = 0

    def show(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            for task in self._tasks.values():
                whole = max(self._done, 1)
                self._bar.update(task, total=whole, completed=whole)
            self._tasks[phase] = self._bar.add_task(name_of(phase), total=None, count="")
        self._done = done
        count = count_of(phase, done, total)
        self._bar.update(self._tasks[phase], completed=done, total=total or None, count=count)


class _Lines:
    """A line when a phase is over, and every few seconds while it lasts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._said_at = clock, clock()
        self._phase, self._line, self._said = "", "", ""

    def show(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self.end_phase()
            self._phase, self._said_at = phase, self._clock()
        count = count_of(phase, done, total)
        self._line = f"{name_of(phase)}: {count}" if count else ""
        if self._clock() - self._said_at >= LINE_EVERY_S:
            self._said_at = self._clock()
            self._say()

    def end_phase(self) -> None:
        """Say where the phase has ended."""
        self._say()

    def _say(self) -> None:
        if self._line and self._line != self._said:
            say(self._line)
            self._said = self._line

"""Where output goes: tables to standard output, progress and errors to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Step = Callable[[str, int, int], None]

_WIDTH_OF_A_FILE = 120


def output() -> Console:
    """The console for results. No colour unless it is a terminal; names are never read as markup."""
    return _console(sys.stdout)


def diagnostics() -> Console:
    """The console for what is not the result: progress, notes."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        no_color=None if terminal else True,
        width=None if terminal or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE,
        markup=False,
        highlight=False,
        emoji=False,
    )


class Reporter:
    """What is under way, and what has been done. Without a bar, `Reporter()` keeps silent about the former."""

    def __init__(self, step: Step | None = None, console: Console | None = None) -> None:
        self._step = step
        self._console = console

    def __call__(self, label: str, done: int = 0, total: int = 0) -> None:
        """`label` is under way: `done` steps of `total` (0: not known)."""
        if self._step is not None:
            self._step(label, done, total)

    def note(self, line: str) -> None:
        """A line that stays: above the bar where there is one, else on standard output."""
        (self._console or output()).print(line)


def rate(done: int, seconds: float) -> str:
    """How fast it goes: '12.5/s', '18/min'; nothing before there is something to count."""
    if done < 2 or seconds <= 0:
        return ""
    each = done / seconds
    return f"{each:.3g}/s" if each >= 0.5 else f"{60 * each:.3g}/min"


@contextmanager
def progress() -> Iterator[Reporter]:
    """A progress bar that vanishes when the work is done; nothing at all where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield Reporter()
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = diagnostics()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        redirect_stdout=False,  # what a command prints as its result must not end up on standard error
    ) as bar:
        task = bar.add_task("starting", total=None, rate="")
        before = 0, 0

        def step(label: str, done: int, total: int) -> None:
            nonlocal before, task
            if done < before[0] or total != before[1]:  # another step: its total, rate and time left are its own
                bar.remove_task(task)
                task = bar.add_task(label, total=total if total > 0 else None, rate="")
            before = done, total
            bar.update(task, description=label, completed=done, rate=rate(done, bar.tasks[0].elapsed or 0.0))

        yield Reporter(step, console)

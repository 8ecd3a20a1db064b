"""Where output goes: tables to standard output, progress and errors to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]
"""What is being done, how many steps are done, how many there are (0: not known)."""

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


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar that vanishes when the work is done; nothing at all where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda label, done, total: None
        return

    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=diagnostics(),
        transient=True,
    ) as bar:
        task = bar.add_task("starting", total=None)

        def step(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total if total > 0 else None)

        yield step

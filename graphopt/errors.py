"""Every error that graphopt raises on purpose.

::

    GraphoptError              exit status 1
    ├── ModelError             1   the model, or a file it needs, is at fault
    ├── UsageError             2   an unknown pass, option, name or value
    ├── DependencyError        1   something that is not installed is needed
    └── VerificationError      3   the result is not the same function as the original

A message has three parts, each on its own line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class GraphoptError(Exception):
    """The root of the tree: a fault with a message for a person, not a bug.

    Args:
        what: What is wrong, in one sentence, without a full stop.
        where: The node, value, file or source line at fault; None when there is none.
        help: What the reader can do about it; None when nothing is known to help.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, what: str, where: str | None = None, help: str | None = None) -> None:
        super().__init__(what, where, help)
        self.what = what
        self.where = where
        self.help = help

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class ModelError(GraphoptError):
    """The input model, or a file that it needs, is at fault."""


class UsageError(GraphoptError):
    """A pass, option, name or value that graphopt does not know."""

    exit_status = 2


class DependencyError(GraphoptError):
    """Something is needed that is not installed; the help says what to install."""


class VerificationError(GraphoptError):
    """The result is not the same function as the original.

    Attributes:
        report: The ``graphopt.verify.VerifyReport`` that failed (None when there is none).
        pass_name: The pass that broke the model, None when no single one could be blamed.
    """

    exit_status = 3

    def __init__(
        self,
        what: str,
        where: str | None = None,
        help: str | None = None,
        *,
        report: Any = None,
        pass_name: str | None = None,
    ) -> None:
        super().__init__(what, where, help)
        self.report = report
        self.pass_name = pass_name

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from their positional arguments only: the two named ones travel as state,
        # so that an error raised in a worker process arrives whole.
        return type(self), (self.what, self.where, self.help), {"report": self.report, "pass_name": self.pass_name}


@contextmanager
def about(where: str) -> Iterator[None]:
    """Let an error that does not say where say that it is here: the option whose value is being read."""
    try:
        yield
    except GraphoptError as error:
        if error.where is None:
            error.where = where
            error.args = (error.what, where, error.help)
        raise


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be.

    Case, ``-`` and ``_`` do not count. None when nothing is near enough to be worth suggesting.

    >>> nearest("fold_mask", ["narrow", "fold-masks"])
    'fold-masks'
    """

    def plain(text: str) -> str:
        return text.casefold().replace("_", "-")

    by_plain = {plain(candidate): candidate for candidate in sorted(known, reverse=True)}
    found = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.6)
    return by_plain[found[0]] if found else None

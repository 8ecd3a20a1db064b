"""The command line: one file per command.

Nothing heavy is imported here or at the top of a command's file, so that `graphopt --help` answers at once; a command
imports what it needs when it runs.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0 done, 1 input or environment, 2 usage, 3 verification failed.

    `arguments` are those after the program's name, `sys.argv` if None. Raises nothing: every error is printed on
    standard error as `error: what / --> where / help: what to do`. 130 after Ctrl-C.
    """
    try:
        from graphopt.cli.app import application
        from graphopt.cli.failures import guarded

        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character shows a question mark; that is no reason to fail.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return guarded(application(), arguments)
    except KeyboardInterrupt:  # Ctrl-C while Python is still reading our files
        return 130

"""Hands that are processes of this machine.

They are plain programs at the other end of a pipe. Nothing of the caller's main module runs in them, so scripts need no
guard and notebooks work; and when the pipe ends, because the caller was killed, they end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from graphopt.calibrate.counting import Nonfinite, Tally
from graphopt.calibrate.crew import Clerk
from graphopt.calibrate.watch import Part
from graphopt.errors import GraphoptError

_PROGRAM = "from graphopt.calibrate.processes import main; main()"


class ProcessHand:
    """A process that counts."""

    def __init__(self, part: Part, nonfinite: Nonfinite, sign: bool) -> None:
        """Start the process, and do not wait for it.

        Raises:
            GraphoptError: It cannot be started.
        """
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C in a terminal goes to the caller alone, who closes this one
            )
        except OSError as error:
            raise GraphoptError(f"cannot start a process: {error.strerror}", help="use fewer workers") from error
        self._first: tuple[Any, ...] | None = ("start", part, nonfinite, sign)

    def take(self, number: int, feeds: Mapping[str, Any]) -> None:
        """Run and count a batch."""
        self._ask("take", number, dict(feeds))

    def tally(self) -> Tally:
        """Return what was counted so far."""
        if self._first is not None:
            return Tally()  # it never had a batch; the model is not loaded for nothing
        return self._ask("tally")

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _ask(self, *question: Any) -> Any:
        try:
            if self._first is not None:
                self._exchange(self._first)
                self._first = None
            return self._exchange(question)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            status = self._process.wait()
            ended = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
            raise GraphoptError(
                f"a process of the calibration ended with {ended}",
                help="fewer workers or smaller batches need less memory; one worker runs in this process",
            ) from error

    def _exchange(self, question: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(question, self._process.stdin, protocol=5)
        self._process.stdin.flush()
        answer, failure = pickle.load(self._process.stdout)
        if failure is not None:
            raise failure
        return answer


def main() -> None:
    """Answer the process at the other end of standard input and output until it closes them."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed here must not come between the answers
    clerk = Clerk()
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, *arguments = pickle.load(sys.stdin.buffer)
            pickle.dump(getattr(clerk, what)(*arguments), answers, protocol=5)
            answers.flush()

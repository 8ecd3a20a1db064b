"""Arrays that are put away until they are asked for again: in memory while they are few, then in a temporary file."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Any

from graphopt.errors import ModelError

ROOM = 64 << 20
"""Bytes that are kept in memory; what comes after them goes to the file."""


class Kept:
    """A place for arrays, and lists and dictionaries of them; it is gone when nothing that was put there is left."""

    def __init__(self, room: int = ROOM) -> None:
        """Begin with nothing; ``room``: bytes that may stay in memory."""
        self._room = room
        self._file: IO[bytes] | None = None

    def put(self, found: Any) -> Callable[[], Any]:
        """Keep something, and return a function that returns it, as often as it is called.

        Raises:
            ModelError: There is no room for the file.
        """
        self._room -= size_of(found)
        if self._room >= 0:
            return lambda: found
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="graphopt-")  # noqa: SIM115  # closed with the last reader
            file = self._file
            place = file.seek(0, os.SEEK_END)
            pickle.dump(found, file, protocol=pickle.HIGHEST_PROTOCOL)
            file.flush()
        except OSError as error:
            raise ModelError(
                f"the outputs of that many samples cannot be kept on disk: {error.strerror or error}",
                where=tempfile.gettempdir(),
                help="fewer samples, or a larger disk: set TMPDIR",
            ) from error

        def read() -> Any:
            file.seek(place)
            return pickle.load(file)

        return read


def size_of(found: Any) -> int:
    """Return how many bytes the arrays in lists, tuples and dictionaries hold."""
    if isinstance(found, Mapping):
        return sum(size_of(one) for one in found.values())
    if isinstance(found, list | tuple):
        return sum(size_of(one) for one in found)
    return int(getattr(found, "nbytes", 0))

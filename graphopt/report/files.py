"""Writing a text file so that it is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from graphopt.errors import GraphoptError


def write(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text under a temporary name beside `path`, then renames it.

    Raises GraphoptError when the folder is missing or cannot be written to; `path` is then as it was.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except OSError as problem:
        _forget(temporary)
        raise _unwritable(target, problem) from problem
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        _forget(temporary)
        raise


def _mode(target: Path) -> int:
    """The permissions the file would have had: its own if it is there, else those that the umask leaves."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _forget(temporary: str) -> None:
    with suppress(OSError):
        os.unlink(temporary)


def _unwritable(target: Path, problem: OSError) -> GraphoptError:
    return GraphoptError(
        f"cannot write {target.name}: {problem.strerror or problem}",
        where=str(target),
        help="choose a file in an existing folder with write permission and free space",
    )

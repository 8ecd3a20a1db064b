"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from graphopt.errors import GraphoptError


def folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made if it is missing (its parent must exist). Raises GraphoptError when it cannot be made."""
    try:
        Path(path).mkdir(exist_ok=True)
    except OSError as problem:
        raise GraphoptError(
            f"cannot make the folder: {problem.strerror or problem}",
            where=str(path),
            help="name a folder inside an existing one that you may write to",
        ) from problem
    return Path(path)


def write(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text under a temporary name beside `path`, then renames it.

    Raises GraphoptError when the folder is missing or cannot be written to; `path` is then as it was.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes in the same way."""
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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

"""Where files of data are looked for, and how one is fetched that is not there.

In this order: the folder ``$GRAPHOPT_DATA``; ``../shared/data`` beside the repository; the cache, which is
``$XDG_CACHE_HOME/graphopt`` or ``~/.cache/graphopt`` (``graphopt`` in ``%LOCALAPPDATA%`` on Windows).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import GraphoptError

_CHUNK = 1 << 20
_PATIENCE = 30.0
"""Seconds without a byte after which a connection is given up."""

Said = Callable[[str], None]
"""Takes a line for people."""


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched.

    Attributes:
        name: Of the file in any of the folders.
        address: Where it comes from.
        sha256: Of its content, hexadecimal.
        size: Bytes.
    """

    name: str
    address: str
    sha256: str
    size: int


def say(line: str) -> None:
    """Write a line for people to the standard error."""
    print(line, file=sys.stderr, flush=True)


def cache() -> Path:
    """Return the folder for what was fetched or decoded; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(home) if home else Path.home() / ".cache") / "graphopt"


def present(name: str) -> Path | None:
    """Return the file if one of the folders has it."""
    named = os.environ.get("GRAPHOPT_DATA")
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folders = [*([Path(named).expanduser()] if named else []), beside, cache()]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def fetched(remote: Remote, said: Said = say) -> Path:
    """Return the file, downloaded into the cache if no folder has it.

    It appears there under its name when it is whole and its digest is right, so a broken download leaves nothing.

    Raises:
        GraphoptError: There is no connection, the content is not the expected one, or the cache cannot be written.
    """
    found = present(remote.name)
    if found is not None:
        return found
    target = cache() / remote.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{remote.name}.", suffix=".part", dir=target.parent)
    except OSError as problem:
        raise GraphoptError(
            f"cannot write into the cache: {problem.strerror}", str(target.parent), _by_hand(remote)
        ) from problem
    try:
        with os.fdopen(handle, "wb") as file:
            digest, size = _download(remote, file.write, said)
        if (digest, size) != (remote.sha256, remote.size):
            raise GraphoptError(
                f"what was downloaded is not {remote.name}: {size:,} bytes with SHA-256 {digest}, "
                f"{remote.size:,} with {remote.sha256} were expected",
                remote.address,
                "try again; if it stays so, the file has changed at its address: " + _by_hand(remote),
            )
        os.replace(temporary, target)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return target


def _download(remote: Remote, write: Callable[[bytes], object], said: Said) -> tuple[str, int]:
    """Return digest and size of what came; says every tenth how far it is."""
    digest, done, tenth = hashlib.sha256(), 0, 0
    try:
        with urllib.request.urlopen(remote.address, timeout=_PATIENCE) as source:
            said(f"downloading {remote.name}, {remote.size / 1e6:.1f} MB, from {remote.address}")
            while block := source.read(_CHUNK):
                write(block)
                digest.update(block)
                done += len(block)
                if done > remote.size:  # whatever it is, it is not the file
                    break
                if done * 10 // remote.size > tenth:
                    tenth = done * 10 // remote.size
                    said(f"downloading {remote.name}: {tenth * 10} %")
    except (OSError, urllib.error.URLError) as problem:
        reason = getattr(problem, "reason", None) or problem
        raise GraphoptError(
            f"{remote.name} is not here and cannot be downloaded: {reason}", remote.address, _by_hand(remote)
        ) from problem
    return digest.hexdigest(), done


def _by_hand(remote: Remote) -> str:
    return (
        f"download it where there is a connection and put it as {remote.name} into {cache()}, "
        "or into a folder that GRAPHOPT_DATA names"
    )

"""The user's own data, for verification and calibration: ``.npz`` files, directories of them, Python iterables."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import npz
from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.user_code import load_object, raised

BATCH = 32
"""Samples per batch where the model leaves the batch size open ..."""

BATCH_BYTES = 1 << 21
"""... and bytes: large samples come in smaller batches, or activations would need gigabytes."""

Ranks = Mapping[str, tuple[int | None, int | None]]  # input -> (rank, batch size), None where open


_WRITTEN = "write it with numpy.savez(FILE, INPUT=numbers): an array for each input, samples along the first axis"

_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, NotImplementedError)


def open_data(source: str, ranks: Ranks) -> Iterator[Mapping[str, Any]]:
    """Open any form of data that is named by text.

    Args:
        source: A ``.npz`` file, a directory of them, or ``PKG.MODULE:ITERABLE``.
        ranks: Rank and batch size of the inputs of the model.

    Raises:
        UsageError: It is none of the three.
    """
    if not os.path.exists(source) and re.fullmatch(r"[\w.]+:[\w.]+", source):
        return from_object(source)
    return from_file(source, ranks)


def from_file(path: str | os.PathLike[str], ranks: Ranks | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Read a ``.npz`` file of samples, or a directory of ``.npz`` files.

    Args:
        path: A file with one array per model input, samples along the first axis, or a directory of files that hold one
            batch each (read in the order of their names).
        ranks: Rank and batch size per input: a file of samples is cut into batches of that size (where the model leaves
            it open: 32, fewer of large samples), one by one where the model has no batch axis. A last batch that is
            too small for a fixed batch size is left out. Without ranks the file is one batch.

    Yields:
        Name to array.

    Raises:
        ModelError: The file is missing or broken, or holds fewer samples than one batch.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise ModelError("no .npz file in the directory", where=str(path), help="put one file a batch into it")
        for file in files:
            yield _read(file)
        return
    if not ranks:
        yield _read(path)
        return
    if not zipfile.is_zipfile(path):
        _read(path)  # says what is wrong
    try:
        with npz.opened(path) as arrays:
            yield from _cut(arrays, ranks, str(path))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def from_object(spec: str) -> Iterator[Mapping[str, Any]]:
    """Import an iterable of dictionaries, or a function that returns one.

    Args:
        spec: ``PKG.MODULE:ITERABLE``; the current directory is searched too.

    Raises:
        UsageError: There is no such module or name, or it is not iterable.
        GraphoptError: Importing it, calling it or reading from it raised; the message names the line.
    """
    found = load_object(spec, "PKG.MODULE:ITERABLE")
    if callable(found) and not isinstance(found, Iterable):
        try:
            found = found()
        except Exception as error:
            raise raised(f"calling {spec!r} failed", error, spec) from error
    if not isinstance(found, Iterable):
        raise UsageError(f"{spec!r} is a {type(found).__name__}", help="it must yield dictionaries of arrays")
    return _blamed(found, spec)


def _blamed(batches: Iterable[Any], spec: str) -> Iterator[Any]:
    """Yield what the user's iterable yields; what it raises is an error at the user's line."""
    try:
        yield from batches
    except (GraphoptError, GeneratorExit):
        raise
    except Exception as error:
        raise raised(f"reading {spec!r} failed", error, spec) from error


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ModelError("no such data file", where=str(path), help="check the path")
    try:
        with path.open("rb") as file:
            start = file.read(len(np.lib.format.MAGIC_PREFIX))
        if start == np.lib.format.MAGIC_PREFIX:
            raise ModelError("the file holds one nameless array", where=str(path), help=_WRITTEN)
        if not zipfile.is_zipfile(path):
            raise _unreadable(path, "it is no archive, or it is truncated" if start else "it is empty")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> ModelError:
    return ModelError(f"not a readable .npz file: {why}", where=str(path), help=_WRITTEN)


def number(path: str | os.PathLike[str], ranks: Ranks) -> int:
    """Return how many batches ``from_file`` will yield, from the headers alone; 0 where they do not tell."""
    path = Path(path)
    if path.is_dir():
        return len(list(path.glob("*.npz")))
    try:
        with npz.opened(path) as arrays:
            known = _known(arrays, ranks)
            return len(_starts(known, ranks, str(path))) if known else 0
    except (*_UNREADABLE, ModelError):
        return 0


def _known(arrays: Mapping[str, npz.Rows], ranks: Ranks) -> dict[str, npz.Rows]:
    """Return the arrays that are samples of inputs; none where one of them cannot be."""
    known = {name: array for name, array in arrays.items() if name in ranks}
    return {} if any(array.ndim == 0 for array in known.values()) else known


def _cut(arrays: Mapping[str, npz.Rows], ranks: Ranks, where: str) -> Iterator[dict[str, np.ndarray]]:
    known = _known(arrays, ranks)
    if not known:
        # Names or ranks are wrong: whoever checks the batch says so.
        yield {name: array.whole() for name, array in arrays.items()}
        return
    starts = _starts(known, ranks, where)
    single = {name: array.ndim - 1 == ranks[name][0] for name, array in known.items()}
    for _ in starts:
        batch = {name: array.take(starts.step) for name, array in known.items()}
        yield {name: array[0] if single[name] else array for name, array in batch.items()}


def _starts(known: Mapping[str, npz.Rows], ranks: Ranks, where: str) -> range:
    """Return the number of the first sample of each batch; the step is the size of a batch.

    Raises:
        ModelError: The arrays do not agree, or hold less than a batch.
    """
    counts = {name: len(array) for name, array in known.items()}
    if len(set(counts.values())) != 1:
        raise ModelError(
            f"the arrays differ in their number of samples: {counts}", where, "each sample needs a row of every array"
        )
    count = next(iter(counts.values()))
    if any(array.ndim - 1 == ranks[name][0] for name, array in known.items()):
        return range(count)
    fixed = {size for name in known if (size := ranks[name][1]) is not None}
    if len(fixed) > 1:
        raise ModelError(
            f"the inputs have different first axes: {sorted(fixed)}", where=where, help="use a directory of batches"
        )
    size = max(fixed.pop(), 1) if fixed else None
    if size is not None and count < size:
        raise ModelError(f"{count} samples, but the model wants batches of {size}", where=where)
    most = BATCH_BYTES // max(1, sum(array.row_bytes for array in known.values()))
    return range(0, count - (size or 1) + 1, size or min(BATCH, max(1, most)))

"""What an interrupted calibration leaves behind, so that the next one goes on from there.

A folder holds tallies of different batches, one file each, and every file is written as a whole or not at all. Each run
writes a file of its own and replaces it as it goes on; it never touches those of runs before it. So whatever moment a
run is killed at, the files are sums over different batches, and adding them up gives the bits of one run.
"""

from __future__ import annotations

import json
import secrets
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import model as models
from graphopt import model_files, runtime
from graphopt.calibrate.counting import Tally
from graphopt.calibrate.histogram import HALF, Histogram
from graphopt.calibrate.watch import Part
from graphopt.errors import ModelError

EVERY = 10.0
"""Seconds between two checkpoints."""

PATIENCE = 20
"""... or so many times as long as writing one takes, if that is more."""

_VERSION = 1


class Checkpoints:
    """The checkpoints of one calibration in a folder.

    Attributes:
        done: The sum of the tallies that earlier runs left.
    """

    def __init__(self, folder: Path, part: Part, options: str) -> None:
        """Read what earlier runs left.

        Args:
            folder: Is made if it is not there.
            part: What is calibrated.
            options: What else the result depends on.

        Raises:
            ModelError: The folder cannot be used, or holds the checkpoints of something else.
        """
        self._folder = folder
        self._key = key(part, options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"no folder for checkpoints: {error.strerror}", str(folder)) from error
        self.done = Tally()
        # Two runs at once in one folder do the same work twice. What is counted twice is left out.
        for tally in sorted((self._read(file) for file in sorted(folder.glob("part-*.npz"))), key=lambda t: -t.count):
            if not self.done.batches.keys() & tally.batches.keys():
                self.done += tally
        self._file = folder / f"part-{secrets.token_hex(8)}.npz"
        self._saved = time.monotonic()
        self._took = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() - self._saved >= max(EVERY, PATIENCE * self._took)

    def require(self, number: int, signature: str) -> None:
        """Check that a batch is the one that an earlier run counted.

        Raises:
            ModelError: It is another one.
        """
        if self.done.batches[number] != signature:
            raise ModelError(
                f"batch {number} of the data is not the one that was counted before the interruption",
                str(self._folder),
                "resume with the same data in the same order, or start anew in an empty folder",
            )

    def require_all(self, batches: int) -> None:
        """Check that the data was not shorter than before.

        Raises:
            ModelError: It was.
        """
        last = max(self.done.batches, default=-1)
        if last >= batches:
            raise ModelError(
                f"the data holds {batches} batches; batch {last} was counted before the interruption",
                str(self._folder),
                "resume with the same data, or start anew in an empty folder",
            )

    def save(self, tallies: Iterable[Tally]) -> None:
        """Replace this run's file by the sum of these.

        Raises:
            ModelError: It cannot be written.
        """
        started = time.monotonic()
        tally = sum(tallies, Tally())
        if tally.batches:
            try:
                with model_files.Replacement() as files:
                    with files.open(self._file) as file:
                        np.savez(file, allow_pickle=False, **_arrays(tally, self._key))
                    files.commit()
            except OSError as error:
                raise ModelError(f"cannot write a checkpoint: {error.strerror or error}", str(self._file)) from error
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _read(self, file: Path) -> Tally:
        try:
            with np.load(file, allow_pickle=False) as archive:
                found: dict[str, np.ndarray] = dict(archive)
            head = json.loads(str(found.pop("head")))
            known = head["key"]
            tally = _tally(head, found) if known.get("version") == _VERSION else Tally()
        except (ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ModelError(
                f"not a checkpoint of a calibration: {error}", str(file), "remove the file, or choose another folder"
            ) from error
        for field, what in _KEY.items():
            if known.get(field) != self._key[field]:
                raise ModelError(
                    f"the checkpoint belongs to another {what}", str(file), "start anew in an empty folder"
                )
        return tally


_KEY = {
    "version": "version of graphopt",
    "onnxruntime": "version of onnxruntime",
    "model": "model, or other values of it were watched",
    "options": "choice of options",
}


def key(part: Part, options: str) -> dict[str, Any]:
    """Return what a tally depends on besides the data."""
    model = models.load(part.model) if isinstance(part.model, str) else part.model
    return {
        "version": _VERSION,
        "onnxruntime": runtime.version(),
        "model": f"{models.digest(model)} {' '.join(sorted(part.order))}",
        "options": options,
    }


def _arrays(tally: Tally, known: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a tally as arrays; counts in the narrowest type that holds them."""
    names = list(tally.histograms)
    head = {"key": known, "names": names, "batches": list(tally.batches.items()), "count": tally.count}
    arrays = {"head": np.array(json.dumps(head))}
    for i, h in enumerate(tally.histograms.values()):
        arrays[f"{i}.range"] = np.array([h.minimum, h.maximum])
        arrays[f"{i}.numbers"] = np.array([h.exponent, h.first, h.nans, h.infinities])
        arrays[f"{i}.counts"] = h.counts.astype(np.min_scalar_type(int(h.counts.max(initial=0))))
        if h.distinct is not None and h.frequencies is not None:
            arrays[f"{i}.distinct"], arrays[f"{i}.frequencies"] = h.distinct, h.frequencies
    return arrays


def _tally(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Tally:
    histograms: dict[str, Histogram] = {}
    for i, name in enumerate(head["names"]):
        exponent, first, nans, infinities = (int(n) for n in arrays[f"{i}.numbers"])
        minimum, maximum = (float(x) for x in arrays[f"{i}.range"])
        counts = arrays[f"{i}.counts"].astype(np.int64)
        if counts.size > 2 * HALF:
            raise ValueError("too many bins")
        histograms[name] = Histogram(
            exponent,
            first,
            counts,
            minimum,
            maximum,
            nans,
            infinities,
            arrays.get(f"{i}.distinct"),
            arrays.get(f"{i}.frequencies"),
        )
    return Tally(histograms, {int(n): str(text) for n, text in head["batches"]}, int(head["count"]))

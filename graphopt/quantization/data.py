"""Calibration data that can be read as often as needed, cut into what is calibrated with and what is held out."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import datafiles
from graphopt import samples as feeding
from graphopt.errors import ModelError, UsageError

Feeds = Mapping[str, Any]

DRAWN = 64
"""Samples that ``random_data`` draws where the user does not say how many."""

NO_DATA = (
    "a .npz file with an array for each input, a directory of such files, PKG.MODULE:ITERABLE, or an iterable of"
    " dictionaries; --random-data (random_data=True) to calibrate with random inputs all the same"
)


class Data:
    """The batches of a user's data for one model.

    An iterator, which can be read only once, is kept in a temporary directory while it is read first, so that memory
    does not grow with the number of samples.
    """

    def __init__(self, model: ir.Model, data: Any, *, samples: int | None = None, held_out: int = 64) -> None:
        """Take the data; nothing is read yet.

        Args:
            model: The model that is to be fed.
            data: Any form of ``samples.feeds``; tuples and lists of arrays are taken in the order of the inputs, and
                tensors with a method ``numpy`` as arrays.
            samples: Calibrate with so many, and hold out the ones behind them; None: with all.
            held_out: So many samples at most are held out.
        """
        self._model, self._data = model, data
        self._samples, self._held_out = samples, held_out
        self._names = [str(value.name) for value in model.graph.inputs if value.name not in model.graph.initializers]
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._kept = 0

    @property
    def total(self) -> int:
        """How many batches are calibrated with, where it is known without reading them; else 0."""
        if self._samples is None and hasattr(self._data, "__len__") and not isinstance(self._data, str | Mapping):
            return len(self._data)
        if isinstance(self._data, str | os.PathLike) and self._samples is None and os.path.exists(self._data):
            return datafiles.number(self._data, feeding.Inputs(self._model).ranks())
        return 0

    def calibration(self) -> Iterator[Feeds]:
        """Yield the batches to calibrate with, from the start."""
        return self._between(0, self._samples)

    def held_out(self) -> Iterator[Feeds]:
        """Yield the batches behind them, none if there are none."""
        if self._samples is None:
            return iter(())
        return self._between(self._samples, self._samples + self._held_out)

    def _between(self, start: int, stop: int | None) -> Iterator[Feeds]:
        """Yield samples ``start`` to ``stop``; batches are cut where the model leaves their size open."""
        at = 0
        for batch in self._batches():
            size = size_of(batch)
            first, last = max(start - at, 0), size if stop is None else min(stop - at, size)
            if first < last:
                whole = (first, last) == (0, size) or not self._open(batch)
                yield batch if whole else {name: array[first:last] for name, array in batch.items()}
            at += size
            if stop is not None and at >= stop:
                return

    def _open(self, batch: Feeds) -> bool:
        """Tell whether the first axis of every input is the same batch, of a size that the model leaves open."""
        sizes = {np.shape(array)[:1] for array in batch.values()}
        inputs = [value for value in self._model.graph.inputs if value.name in batch]
        return len(sizes) == 1 and all(
            v.shape is not None and len(v.shape) and not v.shape.is_static(0) for v in inputs
        )

    def _batches(self) -> Iterator[Feeds]:
        data = self._data
        if isinstance(data, Iterator):
            if self._folder is None:
                return self._keeping(data)
            kept = (Path(self._folder.name) / f"{number}.npz" for number in range(self._kept))
            return itertools.chain((_read(path) for path in kept), self._keeping(data))
        if isinstance(data, Iterable) and not isinstance(data, str | Mapping) and not hasattr(data, "__fspath__"):
            data = (self._named(batch) for batch in data)
        return feeding.feeds(data, self._model)

    def _keeping(self, data: Iterator[Any]) -> Iterator[Feeds]:
        """Yield the batches of an iterator that were not read yet, and keep them on disk."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-data-")
        for batch in data:
            checked = next(feeding.feeds([self._named(batch)], self._model))
            np.savez(Path(self._folder.name) / f"{self._kept}.npz", **checked)
            self._kept += 1
            yield checked
        if not self._kept:
            raise ModelError("the data holds no batch", help="at least one is needed")

    def _named(self, batch: Any) -> Feeds:
        """Return a batch by name; what comes as a tuple is (inputs in order, labels …), what comes alone the input."""
        if isinstance(batch, Mapping):
            return {str(name): _array(one) for name, one in batch.items()}
        row = list(batch) if isinstance(batch, tuple | list) else [batch]
        if len(row) < len(self._names):
            raise UsageError(
                f"a batch of the data holds {len(row)} arrays for {len(self._names)} inputs",
                help="give dictionaries of arrays",
            )
        return {name: _array(one) for name, one in zip(self._names, row, strict=False)}


def size_of(batch: Feeds) -> int:
    """Return how many samples a batch holds: the first axis of its first array."""
    for array in batch.values():
        shape = np.shape(array)
        return int(shape[0]) if shape else 1
    return 1


def first(batches: Iterable[Feeds], samples: int) -> Iterator[Feeds]:
    """Yield batches until they hold so many samples; 0: all."""
    seen = 0
    for batch in batches:
        yield batch
        seen += size_of(batch)
        if 0 < samples <= seen:
            return


def _array(found: Any) -> Any:
    """Return what a tensor of another library holds, as an array."""
    for step in ("detach", "cpu"):
        found = getattr(found, step)() if hasattr(found, step) and not isinstance(found, np.ndarray) else found
    return found if isinstance(found, np.ndarray) or not hasattr(found, "numpy") else found.numpy()


def _read(path: Path) -> Feeds:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def drawn(
    model: ir.Model, *, seed: int = 0, samples: int | None = None, shapes: feeding.Shapes | None = None
) -> list[dict[str, Any]]:
    """Return random inputs at sizes at which the model runs: what ``random_data`` asks for."""
    from graphopt import runtime

    inputs = feeding.Inputs(model, shapes)
    session = runtime.session(model)
    sizes, style = inputs.settle(lambda feeds: runtime.run(session, feeds), seed=(seed, 0))
    found: list[dict[str, Any]] = []
    count = 0
    while count < (samples or DRAWN):
        found.append(inputs.draw(sizes, seed=(seed, len(found)), style=style))
        count += max(1, size_of(found[-1]))
    return found

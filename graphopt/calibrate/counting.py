"""One pair of hands of a calibration: runs batches of one model and counts what the watched values hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from graphopt.calibrate.accumulator import Accumulator
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.inside import Inside, Seen
from graphopt.calibrate.watch import Part, Tap
from graphopt.errors import ModelError, UsageError

Nonfinite = Literal["refuse", "refuse nan", "count"]
"""What to do about NaN and infinities: refuse both, refuse NaN and count infinities, count both."""


@dataclass(frozen=True)
class Tally:
    """What was counted, and of which data; ``a + b`` of different batches is that of both.

    Attributes:
        histograms: By name of the value.
        batches: Number of a batch to the SHA-256 of its arrays; empty where nobody asked for it.
        count: How many batches.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    batches: Mapping[int, str] = field(default_factory=dict)
    count: int = 0

    def __add__(self, other: Tally) -> Tally:
        names = {**self.histograms, **other.histograms}
        return Tally(
            {n: self.histograms.get(n, Histogram()) + other.histograms.get(n, Histogram()) for n in names},
            {**self.batches, **other.batches},
            self.count + other.count,
        )


class Counting:
    """Takes batches and keeps a tally of them."""

    def __init__(self, part: Part, *, nonfinite: Nonfinite = "refuse", sign: bool = False) -> None:
        """Load the part of a model.

        Args:
            part: What to run.
            nonfinite: What to do about NaN and infinities: refuse them, or count them apart in the histograms.
            sign: Keep the SHA-256 of each batch.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        self._part = part
        self._tap = Inside.of(part) or Tap(part)
        self._nonfinite = nonfinite
        self._sign = sign
        kept = self._tap.kept if isinstance(self._tap, Inside) else {}
        self._found = {name: kept.get(name) or Accumulator() for name in part.order}
        self._batches: dict[int, str] = {}
        self._count = 0

    @property
    def ahead(self) -> bool:
        """Whether a batch may ``run`` before the one before it is counted: not where running is counting."""
        return not isinstance(self._tap, Inside)

    def take(self, number: int, feeds: Mapping[str, Any]) -> None:
        """Run a batch and count it.

        Raises:
            ModelError: The model does not run; an activation is NaN or infinite.
        """
        self.count(number, feeds, self.run(number, feeds))

    def run(self, number: int, feeds: Mapping[str, Any]) -> dict[str, np.ndarray | Seen]:
        """Return the watched values, none of a batch without samples; those that are arrays are not counted yet."""
        if is_empty(feeds):
            return {}
        try:
            return dict(self._tap(feeds))
        except ModelError as error:
            error.where = f"batch {number} of the data" + (f", {error.where}" if error.where else "")
            raise

    def count(self, number: int, feeds: Mapping[str, Any], values: dict[str, np.ndarray | Seen]) -> None:
        """Count what ``run`` returned, and take it out of ``values``: the next batch is on its way and needs room.

        Raises:
            ModelError: An activation is NaN or infinite; the first such tensor in the order of the model is named.
        """
        for name in self._part.order if values else ():
            value = values.pop(name)
            nans, infinities = value.nonfinite.sum(0) if isinstance(value, Seen) else self._add(name, value)
            if self._nonfinite != "count" and (nans or (infinities and self._nonfinite == "refuse")):
                seen = value if isinstance(value, Seen) else Seen.of(value)
                raise self._refusal(name, seen, number, feeds)
        if self._sign:
            self._batches[number] = signature(feeds)
        self._count += 1

    def tally(self) -> Tally:
        """Return what was counted so far."""
        return Tally({name: one.result() for name, one in self._found.items()}, dict(self._batches), self._count)

    def _add(self, name: str, array: np.ndarray) -> tuple[int, int]:
        accumulator = self._found[name]
        assert isinstance(accumulator, Accumulator)
        try:
            return accumulator.add(array)
        except TypeError as error:
            raise UsageError(f"the value {name!r} has no histogram: it is {array.dtype}") from error

    def _refusal(self, name: str, seen: Seen, number: int, feeds: Mapping[str, Any]) -> ModelError:
        wrong = seen.nonfinite * (1, self._nonfinite == "refuse")
        nan, infinite = wrong.sum(0)
        kind = "NaN" if not infinite else "infinite" if not nan else "NaN or infinite"
        where = f"batch {number} of the data"
        if seen.shape and {getattr(one, "shape", ())[:1] for one in feeds.values()} == {seen.shape[:1]}:
            samples = np.flatnonzero(wrong.any(1))
            more = f" and {samples.size - 1} more of its samples" if samples.size > 1 else ""
            where = f"sample {samples[0]} of {where}{more}"
        return ModelError(
            f"{wrong.sum()} of the {math.prod(seen.shape)} numbers of {name!r}, {self._part.writers[name]}, are {kind}",
            where,
            "leave that sample out, or repair the model; a mask of -inf stays in float when its node is excluded",
        )


def is_empty(feeds: Mapping[str, Any]) -> bool:
    """Tell whether a batch has no samples: the first axis of every input has none."""
    return bool(feeds) and all(isinstance(x, np.ndarray) and x.ndim and not x.shape[0] for x in feeds.values())


def signature(feeds: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the names, types, shapes and numbers of a batch."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        items = feeds[name] if isinstance(feeds[name], list | tuple) else [feeds[name]]  # a sequence is a list
        digest.update(f"{name}:{len(items)};".encode())
        for item in items:
            array = np.asarray(item, order="C")
            digest.update(f"{array.dtype}:{array.shape};".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return digest.hexdigest()

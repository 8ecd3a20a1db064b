"""Runs a model on the user's data and keeps a histogram of each tensor that was asked for.

The result is a function of the batches alone: it is the same, bit for bit, whether one process counts them, several, or
a cluster, and whether they were counted at once or before and after an interruption.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.calibrate.checkpoint import Checkpoints
from graphopt.calibrate.counting import Counting, Nonfinite, Tally, signature
from graphopt.calibrate.crew import Batch, Crew, Hand
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.processes import ProcessHand
from graphopt.calibrate.watch import extract, held
from graphopt.errors import ModelError, UsageError

Progress = Callable[[str, int, int], None]

WHAT = "calibrating"
"""What progress is reported about."""


def collect(
    model: ir.Model,
    names: Sequence[str],
    batches: Iterable[Mapping[str, Any]],
    *,
    progress: Progress | None = None,
    total: int = 0,
    workers: int = 1,
    ray: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    nonfinite: Nonfinite = "refuse",
) -> dict[str, Histogram]:
    """Return a histogram of each named value, over all batches.

    Batches may differ in size and in every size that the model leaves open; those without samples count nothing.

    Args:
        model: A float model; not changed.
        names: Values of the main graph (inputs too), each of a real type.
        batches: Feeds of the model (``samples.feeds``); read once, one at a time.
        progress: Called with (what, batches done, batches in all or 0).
        total: The number of batches; 0: that of ``batches`` if it knows, else not known.
        workers: Processes that run the model; with 1, this one does.
        ray: Address of a Ray cluster that runs it, or ``local`` to start one here; it has the ``workers`` actors, or
            with 1 as many as it has processors.
        resume: A folder for checkpoints. What an earlier run left there is not computed again.
        nonfinite: NaN and infinities are refused ("refuse"), or only NaN ("refuse nan"), or none ("count"); what is not
            refused is counted apart in the histograms.

    Raises:
        ModelError: The model does not run; the data holds no samples; an activation is NaN or infinite (names the
            tensor, the batch and the sample); the checkpoints in the folder are of another model or other data.
        UsageError: There is no such value, or it is not of a real type.
        DependencyError: Ray is not installed, or there is no such cluster.
    """
    if workers < 1:
        raise UsageError(f"{workers} workers", help="at least one process has to run the model")
    if not names:
        return {}
    total = total or (len(batches) if hasattr(batches, "__len__") else 0)  # type: ignore[arg-type]
    part = extract(model, names)
    saved = None if resume is None else Checkpoints(Path(resume), part, f"nonfinite={nonfinite}")
    work = _Work(batches, saved, progress, total)
    with contextlib.ExitStack() as stack:
        if ray is not None:
            from graphopt.calibrate.cluster import actors

            tally = _together(stack.enter_context(actors(ray, workers, part, nonfinite, saved is not None)), work)
        elif workers > 1:
            stored = part.stored(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-")))
            hands = []
            for _ in range(workers):
                hands.append(ProcessHand(stored, nonfinite, saved is not None))
                stack.callback(hands[-1].close)
            tally = _together(hands, work)
        else:
            tally = _alone(Counting(part, nonfinite=nonfinite, sign=saved is not None), work)
    tally += work.before
    if not any(h.count or h.nans or h.infinities for h in tally.histograms.values()):
        raise ModelError(
            "the calibration data holds no samples",
            help="give at least one batch that is not empty: a .npz file, a directory of them, or an iterable",
        )
    return {name: tally.histograms[name] for name in part.names}


class _Work:
    """The batches that are still to be counted, and the book that is kept of them.

    Attributes:
        before: What earlier runs counted.
    """

    def __init__(
        self, batches: Iterable[Mapping[str, Any]], saved: Checkpoints | None, progress: Progress | None, total: int
    ) -> None:
        self.before = Tally() if saved is None else saved.done
        self._batches, self._saved, self._progress, self._total = batches, saved, progress, total
        self._passed = 0
        self._shown = -1

    def __iter__(self) -> Iterator[Batch]:
        """Yield number and feeds of the batches that no earlier run has counted."""
        number = -1
        for number, feeds in enumerate(self._batches):
            if self._saved is not None and number in self.before.batches:
                self._saved.require(number, signature(feeds))
                self._passed += 1
            else:
                yield number, held(feeds)
        if self._saved is not None:
            self._saved.require_all(number + 1)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._saved is not None and self._saved.due

    def save(self, tallies: Sequence[Tally]) -> None:
        """Write a checkpoint."""
        if self._saved is not None:
            self._saved.save(tallies)

    def show(self, counted: int) -> None:
        """Report progress."""
        done = self._passed + counted
        if self._progress is not None and done != self._shown:
            self._shown = done
            self._progress(WHAT, done, self._total)


def _alone(counting: Counting, work: _Work) -> Tally:
    """Count in this thread what the kernels computed in another one, which is at the next batch meanwhile.

    Where the kernels count themselves, the next batch is but read meanwhile: a tally is one of whole batches.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="calibrate")
    counted = 0

    def count(number: int, feeds: Mapping[str, Any], arrays: Any) -> None:
        nonlocal counted
        counting.count(number, feeds, arrays.result())
        counted += 1
        work.show(counted)
        if work.due:
            work.save([counting.tally()])

    try:
        work.show(0)
        running = None
        for number, feeds in work:
            if running is not None and not counting.ahead:
                count(*running)
                running = None
            before, running = running, (number, feeds, pool.submit(counting.run, number, feeds))
            if before is not None:
                count(*before)
        if running is not None:
            count(*running)
        work.show(counted)
    finally:
        pool.shutdown(cancel_futures=True)
    tally = counting.tally()
    work.save([tally])
    return tally


def _together(hands: Sequence[Hand], work: _Work) -> Tally:
    """Count with hands that are elsewhere."""
    crew = Crew(hands)
    asked = False

    def step() -> None:
        nonlocal asked
        work.show(crew.counted)
        if asked and crew.answered:
            work.save(crew.tallies)
            asked = False
        elif not asked and work.due:
            crew.ask()
            asked = True

    tally = crew.share_out(work, step)
    work.show(crew.counted)
    work.save([tally])
    return tally

"""Runs a model on the user's data and keeps a histogram of each tensor that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as models
from graphopt import runtime
from graphopt.calibrate.histogram import Histogram, histogram

Progress = Callable[[str, int, int], None]


def collect(
    model: ir.Model,
    names: Sequence[str],
    batches: Iterable[Mapping[str, Any]],
    *,
    progress: Progress | None = None,
) -> dict[str, Histogram]:
    """Return a histogram of each named value, over all batches.

    Args:
        model: A float model; not changed.
        names: Values of the main graph (inputs too), each of a real type.
        batches: Feeds of the model (``samples.feeds``).
        progress: Called with (what, batches done, batches in all or 0).

    Raises:
        ModelError: The model does not run; an activation is NaN or infinite (names the tensor and the sample).
    """
    watched = models.clone(model)
    inputs = {value.name for value in watched.graph.inputs}
    inside = [name for name in names if name not in inputs]
    by_name = {out.name: out for node in watched.graph for out in node.outputs}
    watched.graph.outputs[:] = [by_name[name] for name in inside] or list(watched.graph.outputs)
    session = runtime.session(watched)
    found = {name: Histogram() for name in names}
    for number, feeds in enumerate(batches):
        outputs = runtime.run(session, feeds)
        for name, array in (*zip(inside, outputs, strict=False), *((n, feeds[n]) for n in names if n in inputs)):
            found[name] += histogram(np.asarray(array))
        if progress is not None:
            progress("calibrating", number + 1, 0)
    return found

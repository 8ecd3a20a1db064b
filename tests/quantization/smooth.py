"""Models whose channels are uneven, and the proof that a pass evened them without changing any result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from graphopt import model as models
from graphopt import rounds, runtime
from graphopt.context import Context
from graphopt.quantization import steps
from graphopt.quantization.request import Request
from graphopt.quantization.state import State
from graphopt.registry import Pass
from graphopt.rounds import Settings
from tests.strategies.graphs import feeds

Batch = dict[str, np.ndarray]


def context_of(proto: onnx.ModelProto, batches: Sequence[Batch] = (), **request: object) -> Context:
    """A context as passes of the stage "smooth" find it; with a placement where there is data."""
    context = rounds.prepare(models.load(proto), Settings((), target="portable"))
    if batches:

        def again() -> Iterator[Batch]:
            return iter(batches)

        context.quantization = State(Request(**request), again)  # type: ignore[arg-type]
        steps.place(context)
    return context


def evened(
    proto: onnx.ModelProto, item: Pass, context: Context | None = None, *, sizes: Sequence[int] = (0, 1, 5)
) -> bool:
    """Run the pass and tell whether it did anything: every result is the number it was, a second run finds nothing."""
    context = context or context_of(proto)
    as_it_was = models.serialize(context.model)
    changed = item.run(context)
    assert changed == (models.serialize(context.model) != as_it_was)
    for size in sizes:
        given = feeds(proto, size)
        for optimize in (False, True):
            before = runtime.run(runtime.session(models.load(proto), optimize=optimize), given)
            after = runtime.run(runtime.session(context.model, optimize=optimize), given)
            for a, b in zip(before, after, strict=True):
                np.testing.assert_array_equal(a, b)
    assert not item.run(context), "a second run finds more"
    return changed


def skew(rng: np.random.Generator, channels: int, octaves: float = 3.0) -> np.ndarray:
    """Factors for channels, powers of two so that making up for them is exact."""
    return np.exp2(np.rint(octaves * rng.standard_normal(channels))).astype(np.float32)

"""Runs a model batch by batch and hands out what the watched values hold: memory does not grow with the data.

The watched values become the outputs of a copy of the model (which shares its weights), and nothing else is left in it.
onnxruntime optimizes that copy as it would for a user: the numbers to be quantized are those that are computed in
production, and they come several times sooner. A value that is an output is computed as it stands, fused kernels before
and behind it give the same numbers up to rounding. One thread: the same batch gives the same bits in every process.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as models
from graphopt import runtime
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.rewrite.unused import remove_unused


def watch(
    model: ir.Model, names: Sequence[str], batches: Iterable[Mapping[str, Any]], *, ahead: bool = True
) -> Generator[dict[str, np.ndarray]]:
    """Yield the arrays of the named values, batch after batch.

    Args:
        model: Any model; not changed.
        names: Values of the main graph: graph inputs, outputs of nodes.
        batches: Feeds of the model (``samples.feeds``), read one at a time.
        ahead: Run the next batch in a thread while the caller works on this one. Two batches of watched arrays are
            alive instead of one; a failing batch is still reported after all those before it were handed out.

    Yields:
        For each batch name to array, in the order of ``names``. The caller must not write into the arrays, and copies
        what it wants to keep.

    Raises:
        ModelError: The model does not run.
        UsageError: There is no such value, or it is not a tensor.
    """
    tap = Tap(model, names)
    if not ahead:
        for feeds in batches:
            yield tap(feeds)
        return
    # The caller's data is read in the caller's thread; only the kernels run in the other one.
    pool = ThreadPoolExecutor(1, thread_name_prefix="watch")
    try:
        running = None
        for feeds in batches:
            done, running = running, pool.submit(tap, feeds)
            if done is not None:
                yield done.result()
        if running is not None:
            yield running.result()
    finally:
        pool.shutdown(cancel_futures=True)


class Tap:
    """A model, loaded, whose outputs are the watched values.

    Attributes:
        names: The watched values, each once, in the order in which they were named.
        order: The same in the order in which the model computes them, inputs first.
    """

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        """Load the part of the model that computes these values.

        Raises:
            ModelError: onnxruntime refuses the model.
            UsageError: There is no such value, or it is not a tensor.
        """
        self.names = list(dict.fromkeys(names))
        part, self.order = extract(model, self.names)
        self._inside = [str(value.name) for value in part.graph.outputs]
        self._fatal = runtime.fatal_on_empty(part)
        self._inputs = [str(value.name) for value in part.graph.inputs if value.name not in part.graph.initializers]
        self._session = runtime.session(part) if self._inside else None
        kinds = {} if self._session is None else {out.name: out.type for out in self._session.get_outputs()}
        for value in part.graph.inputs:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                kinds[str(value.name)] = str(value.type)
        for name in self.order:
            if not kinds.get(name, "tensor(").startswith("tensor("):
                raise UsageError(
                    f"the value {name!r} is no tensor but {kinds[name]}", help="only tensors can be watched"
                )

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run one batch; return name to array, in the order of ``names``.

        Raises:
            ModelError: The model does not run, or would end the process on an input without elements.
        """
        found: dict[str, np.ndarray] = {}
        if self._session is not None:
            given = {name: feeds[name] for name in self._inputs}
            empty = next((name for name, array in given.items() if not np.size(array)), None)
            if empty is not None and self._fatal is not None:
                raise ModelError(
                    f"input {empty!r} has no elements, on which onnxruntime's {self._fatal} ends the process",
                    help="leave such batches out of the data",
                )
            found = dict(zip(self._inside, runtime.run(self._session, given), strict=True))
        return {name: found[name] if name in found else np.asarray(feeds[name]) for name in self.names}


def extract(model: ir.Model, names: Sequence[str]) -> tuple[ir.Model, list[str]]:
    """Return a copy of the model that computes the named values only, and these in the order of the model.

    Graph inputs are not among the outputs of the copy: who feeds them has them. All inputs stay.

    Raises:
        UsageError: There is no such value in the main graph.
    """
    part = models.clone(model)
    inputs = {str(value.name): value for value in part.graph.inputs}
    computed = {str(out.name): out for node in part.graph for out in node.outputs if out.name}
    for name in names:
        value = inputs.get(name) or computed.get(name)
        if value is None:
            guess = nearest(name, [*inputs, *computed])
            raise UsageError(
                f"no value {name!r} in the main graph that depends on the data",
                help=f"did you mean {guess!r}?" if guess else "see graphopt inspect",
            )
    wanted = set(names)
    order = [name for name in inputs if name in wanted] + [name for name in computed if name in wanted]
    part.graph.outputs[:] = [computed[name] for name in order if name not in inputs]
    remove_unused(part.graph)
    return part, order

"""Runs a model batch by batch and hands out what the watched values hold: memory does not grow with the data.

The watched values become the outputs of a copy of the model (which shares its weights), and nothing else is left in it.
onnxruntime optimizes that copy as it would for a user: the numbers to be quantized are those that are computed in
production, and they come several times sooner. A value that is an output is computed as it stands, fused kernels before
and behind it give the same numbers up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import model as models
from graphopt import runtime
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.model_check import node_place
from graphopt.rewrite.unused import remove_unused

THREADS = 2
"""Threads that run the model, on every machine: sums may depend on how many there are, and the same batch has to give
the same bits in every process and on every worker."""


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
            done, running = running, pool.submit(tap, held(feeds))
            if done is not None:
                yield done.result()
        if running is not None:
            yield running.result()
    finally:
        pool.shutdown(cancel_futures=True)


def held(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a batch: data that is read ahead may come in arrays that are filled again and again."""
    return {name: [np.array(y) for y in x] if isinstance(x, list) else np.array(x) for name, x in feeds.items()}


@dataclass(frozen=True)
class Part:
    """The part of a model that computes the watched values; can be sent to another process once it is ``stored``.

    Attributes:
        model: The part itself, or the path of its file.
        names: The watched values, each once, in the order in which they were named.
        order: The same in the order in which the model computes them, inputs first.
        outputs: What the part computes; the rest of the watched values are inputs.
        inputs: What it is fed with.
        fatal: An operator in it that ends the process on inputs without elements; None if there is none.
        writers: For each watched value what computes it, in words.
    """

    model: ir.Model | str
    names: tuple[str, ...]
    order: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    fatal: str | None
    writers: Mapping[str, str]

    def given(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a batch feeds the part with.

        Raises:
            ModelError: It would end the process on an input without elements.
        """
        given = {name: feeds[name] for name in self.inputs}
        empty = next((name for name, x in given.items() if isinstance(x, np.ndarray) and not x.size), None)
        if empty is not None and self.fatal is not None:
            raise ModelError(
                f"input {empty!r} has no elements, on which onnxruntime's {self.fatal} ends the process",
                help="leave such batches out of the data",
            )
        return given

    def stored(self, folder: str | os.PathLike[str]) -> Part:
        """Return the same part as a file in a folder."""
        if isinstance(self.model, str):
            return self
        path = os.path.join(os.fspath(folder), "part.onnx")
        models.save(self.model, path)
        return replace(self, model=path)


class Tap:
    """A model, loaded, that hands out what the watched values hold.

    Attributes:
        part: What is loaded.
    """

    def __init__(self, model: ir.Model | Part, names: Sequence[str] = ()) -> None:
        """Load the part of the model that computes these values, or one that was made already.

        Raises:
            ModelError: onnxruntime refuses the model.
            UsageError: There is no such value, or it is not a tensor.
        """
        self.part = model if isinstance(model, Part) else extract(model, names)
        self._session = runtime.session(self.part.model, threads=THREADS) if self.part.outputs else None
        for out in [] if self._session is None else self._session.get_outputs():
            _require_tensor(out.name, out.type)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run one batch; return name to array, in the order in which they were named.

        Raises:
            ModelError: The model does not run, or would end the process on an input without elements.
        """
        found: dict[str, np.ndarray] = {}
        if self._session is not None:
            found = dict(zip(self.part.outputs, runtime.run(self._session, self.part.given(feeds)), strict=True))
        return {name: found[name] if name in found else np.asarray(feeds[name]) for name in self.part.names}


def extract(model: ir.Model, names: Sequence[str]) -> Part:
    """Return the part of a model that computes the named values: a copy that shares the weights. All inputs stay.

    Raises:
        UsageError: There is no such value in the main graph, or it is not a tensor.
    """
    part = models.clone(model)
    inputs = {str(value.name): value for value in part.graph.inputs if value.name not in part.graph.initializers}
    computed = {str(out.name): out for node in part.graph for out in node.outputs if out.name}
    for name in names:
        value = inputs.get(name) or computed.get(name)
        if value is None:
            guess = nearest(name, [*inputs, *computed])
            raise UsageError(
                f"no value {name!r} in the main graph that depends on the data",
                help=f"did you mean {guess!r}?" if guess else "see graphopt inspect",
            )
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            _require_tensor(name, str(value.type))
    wanted = set(names)
    order = tuple(name for name in {**inputs, **computed} if name in wanted)
    outputs = tuple(name for name in order if name not in inputs)
    writers = {name: _writer(inputs.get(name) or computed[name]) for name in order}
    part.graph.outputs[:] = [computed[name] for name in outputs]
    remove_unused(part.graph)
    return Part(
        part,
        tuple(dict.fromkeys(names)),
        order,
        outputs,
        tuple(inputs),
        runtime.fatal_on_empty(part),
        writers,
    )


def _writer(value: ir.Value) -> str:
    node = value.producer()
    return "an input of the model" if node is None else f"the output of {node_place(node)}"


def _require_tensor(name: str, kind: str) -> None:
    if not kind.startswith("tensor("):
        raise UsageError(f"the value {name!r} is no tensor but {kind}", help="only tensors can be watched")

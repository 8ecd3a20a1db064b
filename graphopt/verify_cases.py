"""The inputs on which two models are compared, and what the original makes of them.

Part of the family ``graphopt/verify*.py``; use it through `graphopt.verify`.

Inputs are given as data, or drawn at typical sizes and then with every symbolic size 1, 0 and a prime where the
original runs there (see ``samples``). Sizes at which the original fails are skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import runtime
from graphopt.difference import all_nan
from graphopt.errors import ModelError
from graphopt.kept import Kept
from graphopt.samples import Feeds, Inputs, Sizes, Style, feeds

DRAWN = 4
"""Sets of inputs that are drawn where nobody says how many."""


@dataclass(frozen=True)
class Case:
    """One set of inputs and what the original makes of it; neither need be in memory."""

    sizes: Sizes
    shapes: dict[str, list[int]]
    _inputs: Callable[[], Feeds]
    _outputs: Callable[[], list[Any]]

    @property
    def feeds(self) -> Feeds:
        """The inputs: as they were given, or drawn anew from their seed."""
        return self._inputs()

    @property
    def outputs(self) -> list[Any]:
        """What the original makes of the inputs."""
        return self._outputs()

    def __str__(self) -> str:
        return describe(self.shapes)


class Cases(Sequence[Case]):
    """Sets of inputs on which the original ran, with its outputs.

    Attributes:
        skipped: Sizes at which the original does not run, each with the reason.
    """

    def __init__(
        self,
        model: ir.Model,
        plain: Any,
        inputs: Inputs,
        *,
        data: Any = None,
        samples: int | None = None,
        seed: int = 0,
    ):
        """Run the original.

        Args:
            model: The original.
            plain: A session of it as it is written.
            inputs: Draws its inputs.
            data: Inputs to use instead of drawn ones; see ``samples.feeds``.
            samples: How many; None: all that ``data`` holds, or ``DRAWN`` that are drawn.
            seed: The same seed draws the same inputs.

        Raises:
            ModelError: The original runs at no size; data does not fit.
        """
        self._inputs, self._seed = inputs, seed
        self._style: Style = "any"
        self._ranks = [(value.name, len(value.shape or ())) for value in plain.get_outputs()]
        self._fatal = runtime.fatal_on_empty(model)
        self._kept = Kept()
        self._plain = plain
        self.skipped: list[str] = []
        self._cases = (
            self._given(feeds(data, model, samples=samples))
            if data is not None
            else self._drawn(DRAWN if samples is None else samples)
        )
        del self._plain  # its outputs are all that is needed from here on

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, number: Any) -> Any:
        return self._cases[number]

    def _given(self, batches: Iterable[Feeds]) -> list[Case]:
        cases = []
        for batch in batches:
            if self._fatal is not None and any(np.asarray(array).size == 0 for array in batch.values()):
                raise ModelError(
                    f"onnxruntime's {self._fatal} ends the process on empty inputs", help="leave empty batches out"
                )
            outputs = self._kept.put(runtime.run(self._plain, batch))
            cases.append(Case({}, _shapes(batch), self._kept.put(batch), outputs))
        return cases

    def _drawn(self, samples: int) -> list[Case]:
        cases: list[Case] = []
        for case in self._runnable():
            cases.append(case)
            if len(cases) == samples:
                return cases
        cycle = [case.sizes for case in cases]
        for number in range(len(cases), samples):
            sizes = cycle[number % len(cycle)]
            case = self._try(sizes, number)
            if isinstance(case, ModelError):
                self.skipped.append(f"{describe(self._inputs.shapes(sizes))}: {case.what}")
            else:
                cases.append(case)
        return cases

    def _runnable(self) -> Iterator[Case]:
        """Typical sizes at which the original runs, then its edges."""
        sizes, self._style = self._inputs.settle(lambda inputs: runtime.run(self._plain, inputs), seed=(self._seed, 0))
        found = self._try(sizes, 0)
        if isinstance(found, ModelError):
            raise found
        yield found
        number = 1
        for variants in self._inputs.edges(found.sizes):
            case = self._try(variants[0], number)
            if isinstance(case, ModelError):
                self.skipped.append(f"{describe(variants[0])}: {case.what}")
                alone = [sizes for sizes in variants[1:] if isinstance(self._try(sizes, number), Case)]
                if len(alone) > 1:
                    joint = dict(found.sizes)
                    for sizes in alone:
                        joint |= {k: v for k, v in sizes.items() if v != found.sizes[k]}
                    case = self._try(joint, number)
                if isinstance(case, ModelError) and alone:
                    case = self._try(alone[0], number)
            if isinstance(case, Case):
                yield case
                number += 1

    def _try(self, sizes: Sizes, number: int) -> Case | ModelError:
        """Run the original at these sizes; with positive inputs where others tell nothing (roots, logarithms)."""
        seed = (self._seed, number)
        try:
            style = self._style
            inputs = self._inputs.draw(sizes, seed=seed, style=style)
            if self._fatal is not None and any(array.size == 0 for array in inputs.values()):
                return ModelError(f"onnxruntime's {self._fatal} ends the process on empty inputs")
            outputs = runtime.run(self._plain, inputs)
            if any(array.size == 0 for array in inputs.values()):
                self._require_ranks(outputs)
            if any(all_nan(output) for output in outputs):
                style = "positive"
                inputs = self._inputs.draw(sizes, seed=seed, style=style)
                outputs = runtime.run(self._plain, inputs)
            again = partial(self._inputs.draw, sizes, seed=seed, style=style)
            return Case(sizes, _shapes(inputs), again, self._kept.put(outputs))
        except ModelError as error:
            return error

    def _require_ranks(self, outputs: list[Any]) -> None:
        """Refuse what no operator of the original means: onnxruntime's reductions of nothing forget a negative axis.

        ``ReduceSum(x[0, 16], axes=[-1], keepdims=0)`` is ``[0, 16]`` there, and so would the same of fewer positions be
        ``[0, 8]``. The model itself says how many axes its outputs have.
        """
        for (name, rank), output in zip(self._ranks, outputs, strict=True):
            if rank and isinstance(output, np.ndarray) and output.ndim != rank:
                raise ModelError(
                    f"onnxruntime returns '{name}' with {output.ndim} axes instead of {rank} on empty inputs", name
                )


def _shapes(inputs: Feeds) -> dict[str, list[int]]:
    return {name: list(np.shape(array)) if isinstance(array, np.ndarray) else [] for name, array in inputs.items()}


def describe(shapes: dict[str, Any]) -> str:
    """The shapes, or the sizes, of inputs for a person."""
    return ", ".join(f"{name}={size}" for name, size in shapes.items()) or "no inputs"

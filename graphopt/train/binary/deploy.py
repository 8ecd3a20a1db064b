"""What a binary net is deployed as: bits, thresholds, and a proof by its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from graphopt import runtime
from graphopt.errors import UsageError, VerificationError
from graphopt.pipeline import optimize
from graphopt.torch_export import export
from graphopt.train.binary.layers import deployable
from graphopt.train.data import Data, take
from graphopt.train.family import Family

WORTH = 1
"""Fewest numbers side by side that become bits, where the size of the file counts and not only its speed."""


def to_onnx(net: nn.Module, family: Family) -> ir.Model:
    """Export a binary net in standard operators, in eval mode, with the batch left open.

    The result is not compared element by element: a sign is a jump, and where a sum lies within rounding of 0, two
    runtimes may say -1 and +1. ``agreement`` judges by the answers.

    Raises:
        UsageError: The net takes more than one input.
    """
    example = tuple(one.to(next(net.parameters()).device) for one in family.example(net))
    if len(example) != 1:
        raise UsageError(f"'{family.name}' takes {len(example)} inputs, and binary nets one", family.name)
    return export(
        deployable(net),
        example,
        dynamic_shapes=[{0: "batch"}],
        input_names=[family.input],
        output_names=[family.output],
        verify=False,
    )


def lowered(model: ir.Model, *, least: int = WORTH) -> ir.Model:
    """Return an exported binary net with packed weights and thresholds.

    Batch-norms and scales go into the weights (``optimize``), then ``lower-binary`` stores the signs as bits; where the
    result of a layer is read by its sign alone, scale, bias and norm are one threshold a channel.

    Args:
        model: As ``to_onnx`` returns it; not changed.
        least: Layers with fewer input channels (of a group) stay float.
    """
    folded = optimize(model, operators=False, verify=False, measure=False).model
    passes = f"lower-binary{{least={least}}}"
    return optimize(folded, passes=passes, operators=True, verify=False, measure=False).model


@dataclass(frozen=True)
class Agreement:
    """How far two forms of a net agree on the test samples.

    Attributes:
        samples: How many there are.
        same: How many get the same answer (the largest logit) from both.
        figures: What the task says of each: of torch, of ONNX.
    """

    samples: int
    same: int
    figures: tuple[float, float]


def agreement(net: nn.Module, model: ir.Model, family: Family, data: Data, *, batch: int = 256) -> Agreement:
    """Compare a net and its ONNX model, run as users run it, by what they answer on the test samples.

    Raises:
        ModelError: onnxruntime does not run the model.
    """
    session = runtime.session(model, lean=False)
    same, number, sums = 0, 0, [0.0, 0.0]
    for inputs, targets in _batches(data, batch):
        with torch.no_grad():
            ours = family.task.outputs(net, inputs)
        theirs = torch.from_numpy(np.asarray(runtime.run(session, {family.input: inputs.numpy()})[0]))
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        for position, one in enumerate((ours, theirs)):
            total, _ = family.task.count(one, targets)
            sums[position] += float(total)
        number += len(targets)
    figures = [family.task.finish(one / number) if number else float("nan") for one in sums]
    return Agreement(number, same, (figures[0], figures[1]))


def require(found: Agreement, points: float = 0.1) -> None:
    """Refuse a model whose figure is further from the net's than so many hundredths.

    Raises:
        VerificationError: It is.
    """
    off = abs(found.figures[0] - found.figures[1]) * 100
    if not off <= points:
        raise VerificationError(
            f"the net scores {found.figures[0]:.4f} on the test samples and its ONNX model {found.figures[1]:.4f}",
            help=f"{found.same} of {found.samples} answers agree; report the model",
        )


def _batches(data: Data, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(data.test), size):
        inputs, targets = take(data.test, range(start, min(start + size, len(data.test))))
        yield data.prepare(inputs), targets

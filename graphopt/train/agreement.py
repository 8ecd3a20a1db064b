"""A net and its ONNX file, both judged by their answers on the test samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphopt import runtime
from graphopt.errors import VerificationError
from graphopt.train.data import Data, take
from graphopt.train.family import Family

_BATCH = 256


@dataclass(frozen=True)
class Judged:
    """One form of a net on the test samples.

    Attributes:
        figure: What the task says of it.
        answers: The largest logit of each sample (of each token), one after the other.
        samples: How many samples there are.
    """

    figure: float
    answers: np.ndarray
    samples: int


@dataclass(frozen=True)
class Agreement:
    """How far two forms of a net agree on the test samples.

    Attributes:
        samples: How many there are.
        answers: How many answers they want: one a sample, or one a token.
        same: How many of these are the same from both.
        figures: What the task says of each: of torch, of ONNX.
    """

    samples: int
    answers: int
    same: int
    figures: tuple[float, float]


def in_torch(net: nn.Module, family: Family, data: Data, *, batch: int = _BATCH) -> Judged:
    """Judge a net, in eval mode, where it lies."""
    device = next((one.device for one in net.parameters()), torch.device("cpu"))
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            return _judge(family, data, batch, lambda inputs: family.task.outputs(net, inputs.to(device)).cpu())
    finally:
        net.train(training)


def in_onnxruntime(model: Any, family: Family, net: nn.Module, data: Data, *, batch: int = _BATCH) -> Judged:
    """Judge a model (``ir.Model`` or a path), run as users run it. The net tells which inputs there are, if several.

    Raises:
        ModelError: onnxruntime does not run the model.
    """
    session = runtime.session(model, lean=False)
    position = [one.name for one in session.get_outputs()].index(family.output)

    def answer(inputs: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(runtime.run(session, feeds(family, net, inputs.numpy()))[position]))

    return _judge(family, data, batch, answer)


def feeds(family: Family, net: nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return all inputs of the ONNX file of a net for a batch of prepared samples."""
    return {family.input: inputs} if family.feeds is None else dict(family.feeds(net, inputs))


def batches(data: Data, size: int = _BATCH, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield prepared test samples and their targets, on the CPU, at most ``limit`` samples."""
    number = len(data.test) if limit is None else min(limit, len(data.test))
    for start in range(0, number, size):
        inputs, targets = take(data.test, range(start, min(start + size, number)))
        yield data.prepare(inputs), targets


def between(torch_says: Judged, onnx_says: Judged) -> Agreement:
    """Return how far the two agree."""
    same = int((torch_says.answers == onnx_says.answers).sum())
    return Agreement(torch_says.samples, len(torch_says.answers), same, (torch_says.figure, onnx_says.figure))


def agreement(net: nn.Module, model: Any, family: Family, data: Data, *, batch: int = _BATCH) -> Agreement:
    """Compare a net and its ONNX model by what they answer on the test samples.

    Raises:
        ModelError: onnxruntime does not run the model.
    """
    return between(in_torch(net, family, data, batch=batch), in_onnxruntime(model, family, net, data, batch=batch))


def require(found: Agreement, points: float = 0.1) -> None:
    """Refuse a model whose figure is further from the net's than so many hundredths (of a figure above 1: of it).

    A single answer may differ in any case: of a few hundred samples, one is more than a tenth of a hundredth.

    Raises:
        VerificationError: It is further.
    """
    one, other = found.figures
    far = abs(one - other)
    if found.samples and not far <= points / 100 * max(1.0, abs(one)) and found.answers - found.same > 1:
        raise VerificationError(
            f"the net scores {one:.4f} on the test samples and its ONNX model {other:.4f}",
            help=f"{found.same} of {found.answers} answers agree; this is a bug in graphopt, please report it",
        )


def _judge(family: Family, data: Data, batch: int, answer: Callable[[Tensor], Tensor]) -> Judged:
    total, number, samples = 0.0, 0, 0
    answers = [np.zeros(0, np.int64)]
    for inputs, targets in batches(data, batch):
        outputs = answer(inputs)
        some, n = family.task.count(outputs, targets)
        total, number, samples = total + float(some), number + n, samples + len(targets)
        answers.append(outputs.argmax(-1).flatten().numpy())
    return Judged(family.task.finish(total / number) if number else float("nan"), np.concatenate(answers), samples)

"""Neuron-by-neuron quantization (US 18/104,043; Mathematics 2023, 11(9) 2112): levels while the net is trained.

For each layer in the order in which the net runs: pick a subset of its filters, put them on levels (and with them what
they feed the next layer), re-train the whole net through the quantizers, freeze the subset, and so on until nothing is
left in float. The scales are those of ``graphopt.calibrate``.

::

    settings.py    strategies, levels, budgets
    fold.py        batch-norms become part of the layer in front of them
    layers.py      what is quantized, in the order in which the net runs; the quantizers are put there
    quantizers.py  fake quantizers of weights and values, some of whose components are active
    subsets.py     filters in disjoint subsets
    solve.py       scales
    strategies.py  what is quantized when
    process.py     a step: quantize, re-train, freeze
    biases.py      biases on the steps of integer kernels
    export.py      Q and DQ with the trained parameters
    integer.py     the exported model in integers alone, in numpy
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.quantize.biases import settle
from graphopt.train.quantize.export import exported
from graphopt.train.quantize.fold import folded
from graphopt.train.quantize.layers import quantizable
from graphopt.train.quantize.process import Process, Row
from graphopt.train.quantize.settings import QuantizeSettings
from graphopt.train.trainer import Progress, Trainer, quiet

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeSettings", "Quantized", "Row", "folded", "quantizable", "quantize"]


@dataclass(frozen=True)
class Quantized:
    """A quantized net.

    Attributes:
        net: In eval mode, on the CPU or the device it was trained on; a graph of the same modules.
        model: The same in ONNX, with QuantizeLinear and DequantizeLinear.
        history: One row a subset.
        figure: What the task says of ``net`` on the test samples.
    """

    net: nn.Module
    model: ir.Model
    history: list[Row]
    figure: float


def quantize(
    net: nn.Module,
    data: Data,
    family: Family,
    settings: QuantizeSettings,
    *,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progress = quiet,
    device: str = "auto",
) -> Quantized:
    """Quantize a trained net step by step, and export it.

    Args:
        net: Trained in float; is left as it is. Weights that are exactly zero stay zero (``settings.zeros``).
        data: What it is re-trained on and judged by.
        family: Its task, example inputs and export.
        settings: How it goes.
        folder: Where the checkpoint lies; an interrupted run goes on from it. None: nothing is written.
        seed: Of the order of samples and whatever the net draws.
        progress: Is told of every step.
        device: ``cpu``, ``cuda``, or ``auto``.

    Raises:
        GraphoptError: The net cannot be traced or exported; an activation is not finite; the checkpoint is another's.
    """
    example = family.example(net)
    found = quantizable(folded(net, example), settings, example)
    trainer = Trainer(found.net, data, family.task, seed=seed, folder=folder, device=device, progress=progress)
    process = Process(found, trainer, settings)
    process.run()
    settle(found)
    return Quantized(found.net.eval(), exported(found, family), process.history.rows, trainer.evaluate())

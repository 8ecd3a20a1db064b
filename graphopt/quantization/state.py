"""What is known while a model is quantized: passes of the stages ``smooth`` and ``repair`` find it in the context.

The order: ``prepare`` passes, placement, ``smooth`` passes (they change the float model and keep its function),
calibration, scales, ``repair`` passes (they change scales, integers and biases), then the edit, on a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.grid import Grid
from graphopt.calibrate.histogram import Histogram
from graphopt.calibrate.solve import Parameters
from graphopt.quantization.placement import Placement
from graphopt.quantization.request import Request

STAGES = ("prepare", "smooth", "repair")


@dataclass
class State:
    """The state of one quantization.

    Attributes:
        request: What the user asked for.
        batches: Returns the calibration data from the start; may be called as often as needed.
        held_out: Returns batches that were not calibrated with; none where all of the data was.
        total: How many batches are calibrated with; 0: not known.
        given: Whether there is data at all; weights alone need none.
        original: The model that the user gave, with which results are compared; None: the float model itself.
        floats: Nodes that were returned to float (mixed precision, or slower on integers); placement leaves them out.
        why: Why such a node was returned.
        grids: Types of single weights and activations that are not the ones asked for (mixed precision).
        placement: Which tensors are quantized; empty before that was decided.
        histograms: By name of the value.
        parameters: Scales and zero points of the activations and weights of the placement.
        asked: What the parameters of each value were found for: its type, its constraint, and whose numbers it shares.
        shared: The names of the values whose numbers share one scale, by that of the group.
        corrections: What is added to the bias of a node when it is quantized, ``[channels]``.
        codes: Integers of weights that are not simply rounded to nearest: int64, of the weight's shape.
    """

    request: Request
    batches: Callable[[], Iterator[Mapping[str, Any]]]
    held_out: Callable[[], Iterator[Mapping[str, Any]]] = lambda: iter(())
    total: int = 0
    given: bool = True
    original: ir.Model | None = None
    floats: set[ir.Node] = field(default_factory=set)
    why: dict[ir.Node, str] = field(default_factory=dict)
    grids: dict[ir.Value, Grid] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    parameters: dict[ir.Value, Parameters] = field(default_factory=dict)
    asked: dict[ir.Value, object] = field(default_factory=dict)
    shared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    calibrations: int = 0
    """How often data was collected."""
    calibrated: int = 0
    """How many batches it was collected from."""
    step: Callable[[str, int, int], None] = lambda what, done, total: None
    """Progress of passes that take long: what, done, total or 0."""
    corrections: dict[ir.Node, np.ndarray] = field(default_factory=dict)
    codes: dict[ir.Value, np.ndarray] = field(default_factory=dict)

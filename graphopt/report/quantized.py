"""What the report says about quantization: `report.quantize`.

Names and meanings are a promise to scripts, like those of `schema`; a field may be added, none is renamed. Nothing but
the standard library is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

WORST = 5
"""How many tensors are shown with their histogram."""

WEIGHT_READERS = frozenset({"DequantizeLinear", "GatherBlockQuantized", "MatMulNBits"})
"""Kernels that read weights in few bits and compute in float."""

TensorKind = Literal["activation", "weight"]


@dataclass
class TensorRow:
    """One tensor that is stored or handed on in a quantized type."""

    name: str
    dtype: str
    """The type as the user writes it: `uint8`, `int4`, `levels23`."""
    scale: float | list[Any] | None
    """One number; one for each position of `axis`; a list of each row's blocks; None where there are too many."""
    zero_point: int | list[Any] | None
    mse: float
    """Mean squared error over what was seen (of a weight: over the weight itself)."""
    sqnr_db: float | None
    """`10 log10(power / mse)`; None where there is no error at all."""
    method: str
    kind: TensorKind = "activation"
    node: str = ""
    """Who writes the activation, or reads the weight."""
    axis: int | None = None
    block: int = 0
    """With `axis`: so many positions share a scale; 0: one scale for each position."""
    low: float = 0.0
    """The smallest number that can be represented (in any channel)."""
    high: float = 0.0
    minimum: float = 0.0
    """The smallest number that was there."""
    maximum: float = 0.0


@dataclass
class NodeRow:
    """One operator that could run on integers: which kernel it gets, or why it stays in float."""

    name: str
    op_type: str
    kernel: str | None = None
    """The integer kernel: as planned, or as read from the graph that the runtime made; None: float."""
    types: str = ""
    """What goes in and out: `uint8 x int8 -> uint8`."""
    reason: str = ""
    """Why it stays in float."""
    source_line: str | None = None


@dataclass
class Drawing:
    """A histogram with the range that the chosen scale can represent, ready to be drawn.

    `counts[i]` numbers lie in the i-th of equally wide bins between `low` and `high`. Of a weight with several scales
    the unit is `steps`: each number is divided by the scale of its channel, so that one range holds for all.
    """

    name: str
    kind: TensorKind
    dtype: str
    sqnr_db: float | None
    low: float
    high: float
    counts: list[int]
    clip_low: float
    clip_high: float
    unit: Literal["value", "steps"] = "value"


@dataclass
class FidelityRow:
    """How near an output is to that of the float model."""

    name: str
    sqnr_db: float | None
    """None where nothing differs, and for outputs that are no real numbers."""
    equal: float
    """The share of elements that are the same: what tells of integer outputs."""
    spoiled: int = 0
    """Elements that are NaN or infinite although the float model's are not."""


@dataclass
class QuantizeReport:
    """What was quantized, how, and what it cost in accuracy."""

    tensors: list[TensorRow] = field(default_factory=list)
    integer_nodes: int = 0
    """Operators that run on integer kernels."""
    float_nodes: int = 0
    """Operators that could, and stay in float; `nodes` has the reasons."""
    output_sqnr_db: float | None = None
    """The worst output beside that of the float model, on the calibration data; None: not measured, or no error."""
    held_out_sqnr_db: float | None = None
    """The same on data that was not calibrated with; None: there was none."""
    outputs: list[FidelityRow] = field(default_factory=list)
    """Each output on the calibration data."""
    method: str = "mse"
    weights: str | None = None
    activations: str | None = None
    batches: int = 0
    """How many batches of data were calibrated on."""
    measured_kernels: bool = False
    """Whether `kernel` was read from the runtime's own graph, and not only planned."""
    nodes: list[NodeRow] = field(default_factory=list)
    recovery: list[str] = field(default_factory=list)
    """Passes that were run to recover accuracy, with what they did."""
    worst: list[Drawing] = field(default_factory=list)
    """The tensors with the lowest ratio of signal to noise, the worst first."""
    declined: str | None = None
    """Why nothing was quantized although it was asked for; None: it was."""

    @property
    def weights_only(self) -> bool:
        """Whether operators compute in float on weights that are stored in few bits."""
        kernels = {row.kernel for row in self.nodes if row.kernel is not None}
        return kernels <= WEIGHT_READERS if kernels else {row.kind for row in self.tensors} == {"weight"}


def worst(rows: Sequence[TensorRow], number: int = WORST) -> list[TensorRow]:
    """Return the rows with the lowest SQNR, the worst first; those without any error are never among them.

    Of activations that are moved along with the same scale (a reshape, a pad) only the first is one of them.
    """
    lossy = [row for row in rows if row.sqnr_db is not None and not math.isinf(row.sqnr_db)]
    chosen: list[TensorRow] = []
    scales: set[object] = set()
    for row in sorted(lossy, key=lambda row: row.sqnr_db or 0.0):
        shared = (row.scale, row.zero_point, row.dtype) if row.kind == "activation" else row.name
        if isinstance(row.scale, list) or shared not in scales:
            chosen.append(row)
        if not isinstance(row.scale, list):
            scales.add(shared)
    return chosen[:number]

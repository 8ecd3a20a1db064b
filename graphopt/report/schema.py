"""The report as a record.

Names and meanings of the fields are a promise to scripts (see the JSON report in the documentation): a field may be
added, none is renamed. This module (and `quantized`, a part of it) imports nothing but the standard library, so that
everything may import it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from graphopt.report.quantized import QuantizeReport

if TYPE_CHECKING:
    from graphopt.verify import VerifyReport

SCHEMA = "graphopt.report/1"

MaskKind = Literal["weight", "activation", "dynamic", "soft"]
MaskAction = Literal["removed", "folded", "kept"]
FillKind = Literal["zero", "constant", "mixed"]


@dataclasses.dataclass
class FileInfo:
    """One model file. `path` is None for a model that was handed over in memory, and then nothing else is known."""

    path: str | None = None
    bytes: int | None = None
    """Size on disk, the external data files included."""
    sha256: str | None = None


@dataclasses.dataclass
class Stats:
    """How large a model is. Counted by `graphopt.facts.stats.stats`."""

    parameters: int = 0
    """Elements of floating-point constants, a shared tensor once."""
    macs: int = 0
    """Multiply-adds of one evaluation; a symbolic size counts 1."""
    nodes: int = 0
    initializer_bytes: int = 0
    ops: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class MaskRow:
    """One mask and what became of it."""

    value: str
    kind: MaskKind
    nodes: list[str]
    """Names of the nodes that the mask acts through."""
    zeros: int
    size: int
    action: MaskAction
    reason: str


@dataclasses.dataclass
class AxisRow:
    """One axis of a value of which some positions are dead."""

    value: str
    axis: int
    size: int
    kept: int
    fill: FillKind
    decided_by: str
    """The node that forces dead positions to stay; where none does, the one whose weights make them."""
    reason: str
    stays: int = 0
    """How many of the kept positions are dead or unread."""


@dataclasses.dataclass
class ForcedRow:
    """One scatter or gather that had to stay, and the operator that forced it."""

    value: str
    forced_by: str


@dataclasses.dataclass
class Moves:
    """Scatters, or gathers: how many were inserted on the way, and which are left."""

    inserted: int = 0
    remaining: list[ForcedRow] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class PassRow:
    """One execution of one pass. `name` holds the options too where they differ from the defaults."""

    name: str
    seconds: float
    changed: bool
    nodes_before: int
    nodes_after: int
    parameters_after: int


@dataclasses.dataclass
class WarningRow:
    """Something the user should know. `source_line` is the user's own line where the exporter left it."""

    code: str
    message: str
    node: str | None = None
    source_line: str | None = None


@dataclasses.dataclass
class Measure:
    """Latencies before anything was written: medians of runs in turn on one thread, and the median of their ratios.

    ``way`` says which plan was kept: ``fastest``; ``standard``, without runtime operators; ``still``, without gathers
    and scatters; ``folded``, masks folded only; ``quantized``; ``input``, nothing.
    """

    input_ms: float
    output_ms: float
    ratio: float
    way: str


@dataclasses.dataclass
class OperatorCalls:
    """Runtime operators that the result calls."""

    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often, by name."""
    library: bool = False
    """Whether their library was there when the result was compared and measured; else they ran as functions."""


@dataclasses.dataclass
class Report:
    """Everything that one run did."""

    schema: str = SCHEMA
    graphopt_version: str = ""
    input: FileInfo = dataclasses.field(default_factory=FileInfo)
    output: FileInfo | None = None
    """None until the result has been saved."""
    target: str = "cpu"
    plan: str = "fastest"
    seconds: float = 0.0
    before: Stats = dataclasses.field(default_factory=Stats)
    after: Stats = dataclasses.field(default_factory=Stats)
    masks: list[MaskRow] = dataclasses.field(default_factory=list)
    axes: list[AxisRow] = dataclasses.field(default_factory=list)
    scatters: Moves = dataclasses.field(default_factory=Moves)
    gathers: Moves = dataclasses.field(default_factory=Moves)
    operators: OperatorCalls | None = None
    """None where the result calls no runtime operators."""
    passes: list[PassRow] = dataclasses.field(default_factory=list)
    verify: VerifyReport | None = None
    """None when verification was switched off."""
    measure: Measure | None = None
    """None when nothing was measured: ``--no-measure``, chosen passes, plans that do not ask for speed."""
    quantize: QuantizeReport | None = None
    """None when nothing was quantized."""
    warnings: list[WarningRow] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, strings, numbers, booleans and None, ready for `json.dumps`."""
        return plain(self)


def plain(value: Any) -> Any:
    """Turns dataclasses (and what is inside) into what JSON can hold.

    NaN and infinities become None: JSON has no word for them, and a reader that meets `NaN` fails on the whole file.
    Numpy scalars become Python numbers. Everything else that JSON does not know becomes its `str`.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [plain(item) for item in value]
    item = getattr(value, "item", None)
    if callable(item):  # a numpy scalar
        return plain(item())
    return str(value)

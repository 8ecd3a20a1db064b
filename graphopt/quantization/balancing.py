"""From classes of scales to numbers, and the walk over their groups that makes the ranges of a whole model even.

``calibrate.balance`` knows numbers only; what it is told about weights and activations is put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.balance import FIXED, Balance, Reader, Tap, Writer, best
from graphopt.facts.ops.contraction import canonical
from graphopt.plan.components import components
from graphopt.quantization.scaling import Layer, Scaling, form
from graphopt.quantization.state import State

Candidates = Callable[[Balance], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Steps:
    """How a weight is quantized: steps from zero to the largest, 0 where it is not; whether each output has its own."""

    levels: float = 127.0
    per_channel: bool = False


def steps(layer: Layer, state: State | None) -> Steps:
    """Return how a layer's weight will be quantized; without a placement, to 8 bits with one scale for all of it."""
    if state is None or not state.placement.nodes:
        return Steps()
    weight = layer.node.inputs[layer.weight]
    row = state.placement.weights.get(weight) if weight is not None else None
    if row is None:
        return Steps(0.0)
    levels = row.grid.high if row.grid.signed else (row.grid.high - row.grid.low) / 2
    return Steps(max(levels, 1.0), row.axis is not None)


@dataclass(frozen=True)
class Channel:
    """What the channels of a value hold, ``[n]`` each: ``E[x^2]``, the smallest (at most 0) and the largest x."""

    power: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Watched:
    """A value that will be quantized with one scale, and the classes along its one axis that has any."""

    value: ir.Value
    axis: int
    ids: np.ndarray
    levels: float


def watched(found: Scaling, state: State | None) -> list[Watched]:
    """Return the values whose quantization depends on factors; without a placement, what layers read, in 8 bits."""
    if state is None or not state.placement.nodes:
        levels = {layer.x: 255.0 for layer in found.layers}
    else:
        levels = {value: row.grid.high - row.grid.low for value, row in state.placement.activations.items()}
    rows = []
    for value, number in levels.items():
        ids = found.ids.get(value)
        wide = [axis for axis, size in enumerate(ids.shape) if size != 1] if ids is not None else []
        if ids is not None and len(wide) == 1 and found.roots[ids].any():
            rows.append(Watched(value, wide[0], ids.ravel(), number))
    return rows


@dataclass(frozen=True)
class _Weight:
    """``[g, o, i]``: largest weight, sums of squares and of fourth powers over the kernel; ``[g, o]``: bias."""

    peak: np.ndarray
    energy: np.ndarray
    bulk: np.ndarray | None
    bias: np.ndarray
    kernel: int


@dataclass(slots=True)
class Balancing:
    """The factors of a graph's classes, ``s = 2**exponents``, and what follows from them.

    Attributes:
        found: The classes.
        state: How the model is to be quantized, if that is known.
        measured: What values hold, measured; the rest is estimated from the weights alone, as if the inputs of the
            graph, and of whatever is no layer, had power one.
        exponents: ``[classes]`` by root.
        groups: The roots that are chosen together: those of the rows or columns of one weight.
    """

    found: Scaling
    state: State | None = None
    measured: Mapping[ir.Value, Channel] = field(default_factory=dict)
    exponents: np.ndarray = field(init=False)
    groups: list[np.ndarray] = field(init=False)
    _power: dict[ir.Node, np.ndarray] = field(default_factory=dict)
    """``[g, i]`` ``E[x^2]`` of what a layer reads."""
    _gains: dict[ir.Node, np.ndarray] = field(default_factory=dict)
    """``[g, o]`` how much each output of a layer counts."""
    _watched: list[tuple[Watched, Channel]] = field(default_factory=list)
    _small: dict[ir.Node, _Weight] = field(default_factory=dict)
    _layers: list[list[Layer]] = field(default_factory=list)
    """By number of the group: the layers that its factors touch."""
    _taps: list[list[tuple[Watched, Channel]]] = field(default_factory=list)
    """By number of the group: the values that are quantized with one step."""
    _local: np.ndarray = field(init=False)
    """``[classes]`` the place of a class in the group that is looked at, else ``FIXED``."""

    def __post_init__(self) -> None:
        self.exponents = np.zeros(self.found.classes)
        self.groups = list(_groups(self.found))
        power = self._estimate()
        for row in watched(self.found, self.state):
            known = power[self.found.roots[row.ids]]
            spread = 4 * np.sqrt(known)
            producer = row.value.producer()
            low = np.zeros_like(spread) if producer is not None and producer.op_type in ("Relu", "Clip") else -spread
            self._watched.append((row, self.measured.get(row.value) or Channel(known, low, spread)))
        self._importance()
        self._local = np.full(self.found.classes, FIXED)
        number = np.full(self.found.classes, -1)
        for own, group in enumerate(self.groups):
            number[group] = own
        self._layers, self._taps = [[] for _ in self.groups], [[] for _ in self.groups]
        for layer in self.found.layers:
            for own in self._touched(number, np.concatenate([layer.into.ravel(), layer.out.ravel()])):
                self._layers[own].append(layer)
        for tap in self._watched:
            for own in self._touched(number, tap[0].ids):
                self._taps[own].append(tap)

    def _touched(self, number: np.ndarray, ids: np.ndarray) -> list[int]:
        found = np.unique(number[self.found.roots[ids]])
        return found[found >= 0].tolist()

    def sweep(
        self, candidates: Candidates, *, whole: bool, decibels: float, search: bool = True, most: int = 12
    ) -> int:
        """Choose the factors of group after group, until no choice gains anything; return how many groups changed.

        ``most``: rounds over all groups.
        """
        changed: set[int] = set()
        idle = 0
        for turn in range(most * len(self.groups)):
            number = turn % len(self.groups)
            group = self.groups[number]
            balance = self.problem(number)
            chosen = None
            if balance.readers:
                chosen = best(balance, candidates(balance), whole=whole, decibels=decibels, search=search)
            idle = 0 if chosen is not None else idle + 1
            if chosen is not None:
                self.exponents[group] += chosen
                changed.add(number)
            if idle == len(self.groups):
                break
        return len(changed)

    def problem(self, number: int) -> Balance:
        """Return what the factors of one group touch, as it is with the factors chosen so far."""
        group, local = self.groups[number], self._local
        local[group] = np.arange(group.size)
        writers, readers, taps = [], [], []
        for layer in self._layers[number]:
            into, out = local[self.found.roots[layer.into]], local[self.found.roots[layer.out]]
            how = steps(layer, self.state)
            if how.levels and not how.per_channel and (out != FIXED).any():
                writers.append(self._writer(layer, out.ravel(), how))
            if (into != FIXED).any():
                readers.append(self._reader(layer, into, how))
        for row, holds in self._taps[number]:
            index = local[self.found.roots[row.ids]]
            if (index != FIXED).any():
                s = self._scale(row.ids)
                taps.append(Tap(index, holds.low * s, holds.high * s, row.levels))
        local[group] = FIXED
        return Balance(group.size, writers, readers, taps)

    def _scale(self, ids: np.ndarray) -> np.ndarray:
        return np.exp2(self.exponents[self.found.roots[ids]])

    def _writer(self, layer: Layer, index: np.ndarray, how: Steps) -> Writer:
        weight, s = self._weight(layer), self._scale(layer.into)
        rows = (weight.peak / s[:, None]).max(2, initial=0) * self._scale(layer.out)
        power = float((self._power[layer.node] * s**2).sum()) * weight.kernel / layer.groups
        return Writer(index, rows.ravel(), power, how.levels)

    def _reader(self, layer: Layer, index: np.ndarray, how: Steps) -> Reader:
        weight = self._weight(layer)
        s, rows = self._scale(layer.into), self._scale(layer.out)
        gain = self._gains[layer.node] / rows**2
        columns = np.einsum("goi,go->gi", weight.energy, self._gains[layer.node]) / s**2
        ratio = (rows[:, :, None] / s[:, None]).astype(np.float32)
        bulk = None if weight.bulk is None or how.levels > _MANY else weight.bulk * ratio**4
        power = self._power[layer.node] * s**2
        return Reader(
            index, weight.peak * ratio, bulk, columns, gain, power, weight.kernel, how.levels, how.per_channel
        )

    def _weight(self, layer: Layer) -> _Weight:
        """Return a weight as it was; small results are kept."""
        if layer.node in self._small:
            return self._small[layer.node]
        constants = self.found.constants
        value = layer.node.inputs[layer.weight]
        array = constants.array(value)
        assert array is not None and value is not None
        shaped = canonical(array, form(layer.node, layer.weight))
        flat = np.abs(shaped.reshape(*shaped.shape[:3], -1)).astype(np.float32)
        bias = constants.array(layer.node.inputs[layer.bias]) if layer.bias is not None else None
        biases = np.zeros(layer.out.shape) if bias is None else np.broadcast_to(bias.ravel(), layer.out.size)
        peak = flat.max(3, initial=0)
        energy = peak.astype(np.float64) ** 2 if flat.shape[3] == 1 else (flat.astype(np.float64) ** 2).sum(3)
        bulk = (flat**4).sum(3) if 0 < steps(layer, self.state).levels <= _MANY else None
        found = _Weight(peak, energy, bulk, biases.reshape(layer.out.shape).astype(np.float64), flat.shape[3])
        constants.release(value)
        if found.peak.size <= _KEPT:
            self._small[layer.node] = found
        return found

    def _estimate(self) -> np.ndarray:
        """Return ``[classes]`` powers: ``E[y_o^2] = sum_i |W_oi|^2 E[x_i^2] + b_o^2``, and keep what layers read."""
        power = np.zeros(self.found.classes)
        for change in self.found.changes:
            if change.node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub"):
                array = self.found.constants.array(change.node.inputs[change.position])
                assert array is not None
                roots = np.broadcast_to(self.found.roots[change.up], change.shape)
                np.add.at(power, roots.ravel(), np.broadcast_to(array, change.shape).astype(np.float64).ravel() ** 2)
        power[0] = 1.0
        for layer in self.found.layers:
            into, out = self.found.roots[layer.into], self.found.roots[layer.out]
            seen = self.measured.get(layer.x)
            self._power[layer.node] = power[into] if seen is None else seen.power.reshape(into.shape)
            weight = self._weight(layer)
            found = np.einsum("goi,gi->go", weight.energy, self._power[layer.node]) + weight.bias**2
            np.add.at(power, out.ravel(), found.ravel())
            power[0] = 1.0
        return power

    def _importance(self) -> None:
        """``g_i = sum_o g_o |W_oi|^2 / sum_o g_o E[y_o^2]``, from behind; one for whatever is not read by a layer."""
        gain = np.zeros(self.found.classes)
        for layer in reversed(self.found.layers):
            into, out = self.found.roots[layer.into], self.found.roots[layer.out]
            weight = self._weight(layer)
            own = np.where(out == 0, 1.0, gain[out])
            if not own.any():
                own = np.ones(out.shape)
            self._gains[layer.node] = own
            columns = np.einsum("goi,go->gi", weight.energy, own)
            signal = float((columns * self._power[layer.node]).sum())
            if signal > 0:
                np.add.at(gain, into.ravel(), columns.ravel() / signal)


_MANY = 31.0
"""Steps from zero to the largest weight up to which clipping the largest weights pays."""

_KEPT = 1 << 22
"""Weights of at most so many numbers are held while the factors are chosen."""


def _groups(found: Scaling) -> Iterator[np.ndarray]:
    """Yield the roots that belong together, from the front of the graph to its end."""
    firsts, seconds = [], []
    for layer in found.layers:
        for ids in (layer.into, layer.out):
            roots = np.unique(found.roots[ids])
            roots = roots[roots > 0]
            firsts.append(np.full(max(roots.size - 1, 0), roots[0] if roots.size else 0))
            seconds.append(roots[1:])
    if not firsts:
        return
    together = components(found.classes, np.concatenate(firsts), np.concatenate(seconds))
    used = np.unique(np.concatenate([found.roots[layer.into].ravel() for layer in found.layers]))
    used = used[used > 0]
    order = np.argsort(together[used], kind="stable")
    ends = np.flatnonzero(np.diff(together[used][order])) + 1
    yield from (part for part in np.split(used[order], ends) if part.size)

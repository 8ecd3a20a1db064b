"""Quantized layers get the mean outputs of the float ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.calibrate.channels import measure
from graphopt.context import Context
from graphopt.facts.constants import Constants
from graphopt.facts.ops.contraction import canonical
from graphopt.quantization import steps
from graphopt.quantization.corrections import Site, sites
from graphopt.quantization.data import first
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.scaling import form

COMPARED = 256
"""So many samples tell what layers lack in the mean, and whether the corrections help."""


@dataclass(frozen=True)
class BiasCorrection:
    """Add to the bias of each quantized layer what its outputs lack in the mean.

    1. ``b_o += E[y_o] - E[y'_o]``, y the output of the float model and y' that of the quantized model, both measured on
       the first 256 samples of the calibration data, with the corrections of all layers before it in place.
    2. Layers are taken in the order of their depth, in at most ``passes`` portions: the data is read once by the float
       model and once for each portion, by as much of the quantized model as that needs. Of the layers of a portion,
       those that are not the first get ``E[y] - E[y'] - W' (E[x] - E[x'])``, their own share of what they lack.
    3. The same with its own share for every layer, and for the layers with no other one behind them alone, which needs
       the data once more each. Of the three, what brings the outputs nearest to the float ones on the calibration data
       (256 samples) is taken; no bias is changed if none does.
    4. A layer without a bias gets one; the addend of a MatMul is the constant of the Add behind it.

    *Options*: ``passes``: portions of rule 2.

    *Never* the float model: a layer that goes back to float has its own bias again. A MatMul without an addend.

    *Needs* scales, so that it runs behind calibration; the last of the passes that repair, because it corrects for what
    they leave.

    ``Conv(x, W, b)`` -> ``Conv(x, W, b + E[W x] - E[W' x'])``
    """

    name: ClassVar[str] = "bias-correction"
    stage: ClassVar[str] = "repair"

    passes: int = 8

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1, not {self.passes}")

    def run(self, context: Context) -> bool:
        """Run on the main graph."""
        state = context.quantization
        if state is None or not state.parameters or state.corrections:
            return False
        found = sites(context, state.placement)
        if not found:
            return False
        levels = _levels(context.model.graph, found)
        means = _means(context.model, found, context)
        seen = Fidelity(context.model, state.batches(), COMPARED)
        best, chosen, measured = worst(seen.of(steps.inserted(context))), {}, 0
        last = _last(context.model, found)
        ways = (_by_portions(found, levels, self.passes), [(found, [])], [(last, last)])
        total = sum(map(len, ways))
        for way in ways:
            state.corrections = {}
            for sites_now, whole in way:
                state.step(f"{self.name}: measuring", measured := measured + 1, total)
                _correct(context, sites_now, whole, means)
            reached = worst(seen.of(steps.inserted(context)))
            if best is not None and (reached is None or reached > best):
                best, chosen = reached, state.corrections
        state.corrections = chosen
        return context.record({"corrected biases": len(chosen)})


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name


def _levels(graph: ir.Graph, found: Sequence[Site]) -> dict[ir.Node, int]:
    """Return for each corrected node how many there are on the longest way to it, itself included."""
    nodes = {site.node for site in found}
    level: dict[ir.Value, int] = {}
    levels = {}
    for node in graph:
        deepest = max((level.get(value, 0) for value in node.inputs if value is not None), default=0)
        if node in nodes:
            deepest = levels[node] = deepest + 1
        level.update(dict.fromkeys(node.outputs, deepest))
    return levels


def _by_portions(
    found: Sequence[Site], levels: dict[ir.Node, int], portions: int
) -> list[tuple[Sequence[Site], Sequence[Site]]]:
    """Return the layers of each portion, and those among them that are its first."""
    ordered = np.unique(list(levels.values()))
    cut = np.array_split(ordered, min(portions, ordered.size))
    return [
        ([s for s in found if levels[s.node] in some], [s for s in found if levels[s.node] == some[0]]) for some in cut
    ]


def _last(model: ir.Model, found: Sequence[Site]) -> list[Site]:
    """Return the layers with no other layer behind them."""
    nodes = {site.node for site in found}
    leads: set[ir.Value] = set()
    last = []
    for node in reversed(list(model.graph)):
        behind = any(value in leads for value in node.outputs)
        if node in nodes and not behind:
            last.append(node)
        if behind or node in nodes:
            leads.update(value for value in node.inputs if value is not None)
    return [site for site in found if site.node in last]


@dataclass(frozen=True, slots=True)
class _Means:
    """The mean of each channel of what a node reads and writes; None for what the model does not show."""

    read: np.ndarray | None
    written: np.ndarray | None
    weight: np.ndarray | None = None
    """What the node is multiplied with, ``W'``, where that is quantized."""


def _means(model: ir.Model, found: Sequence[Site], context: Context) -> dict[ir.Node, _Means]:
    """Measure in the float model or in a quantized copy, whose nodes have the names of those that they stand for."""
    assert context.quantization is not None
    there = {_name(value) for value in model.graph.inputs} | {_name(v) for node in model.graph for v in node.outputs}
    named: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        named.setdefault(node.name or "", []).append(node)
    axes: dict[str, int] = {}
    twins = {}
    for site in found:
        same = [node for node in named.get(site.node.name or "", ()) if node.op_type == site.node.op_type]
        twin = twins[site.node] = site.node if site.node.graph is model.graph else same[0] if len(same) == 1 else None
        written = _name(site.node.outputs[0] if twin is None else twin.outputs[0])
        for name, axis in ((written, site.axis), (_name(site.node.inputs[0]), _summed(site))):
            if name in there:
                axes[name] = axis
    batches = first(context.quantization.batches(), COMPARED)  # they are read about ten times
    seen = {name: one.mean for name, one in measure(model, axes, batches).items()}
    constants = Constants()
    result = {}
    for site in found:
        twin = twins[site.node]
        written = seen.get(_name(site.node.outputs[0] if twin is None else twin.outputs[0]))
        weight = None if twin is None else constants.array(twin.inputs[site.weight])
        result[site.node] = _Means(seen.get(_name(site.node.inputs[0])), written, weight)
    return result


def _summed(site: Site) -> int:
    if site.node.op_type in ("Conv", "ConvTranspose"):
        return 1
    return 0 if site.node.attributes.get_int("transA", 0) else -1


def _correct(context: Context, chosen: Sequence[Site], whole: Sequence[Site], means: dict[ir.Node, _Means]) -> None:
    """Measure the quantized model as it is now and add the corrections of some layers.

    Those of ``whole`` get all that they lack, the others their own share of it.
    """
    state = context.quantization
    assert state is not None
    now = _means(steps.inserted(context), chosen, context)
    everything = {site.node for site in whole}
    for site in chosen:
        exact, found = means[site.node], now[site.node]
        if exact.written is None or found.written is None:
            continue
        lacks = exact.written - found.written
        if site.node not in everything:
            if exact.read is None or found.read is None or found.weight is None:
                continue
            lacks = lacks - _product(site, found.weight, exact.read - found.read)
        if np.isfinite(lacks).all():
            state.corrections[site.node] = lacks


def _product(site: Site, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``[channels]``: the mean output for an input of mean ``x`` (borders of convolutions left out)."""
    geometry = form(site.node, site.weight)
    shaped = canonical(weight.astype(np.float64), geometry)
    matrix = shaped.reshape(*shaped.shape[:3], -1).sum(3)
    factor = site.node.attributes.get_float("alpha", 1.0) if site.node.op_type == "Gemm" else 1.0
    if site.node.op_type == "ConvTranspose":
        factor /= float(np.prod(site.node.attributes.get_ints("strides", ()) or (1,)))
    return factor * np.einsum("goi,gi->go", matrix, x.reshape(geometry.groups, -1)).ravel()

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
from graphopt.quantization.fidelity import Fidelity, worst
from graphopt.quantization.scaling import form

COMPARED = 256
"""So many samples tell whether the corrections help."""


@dataclass(frozen=True)
class BiasCorrection:
    """Add to the bias of each quantized layer what its outputs lack in the mean.

    1. ``b_o += E[y_o] - E[y'_o]``, y the output of the float model and y' that of the quantized model, both measured on
       the calibration data, with the corrections of all layers before it in place.
    2. Layers are taken in the order of their depth, in at most ``passes`` portions: the data is read once by the float
       model and once for each portion, by as much of the quantized model as that needs. Of the layers of a portion, those
       that are not the first get ``E[y] - E[y'] - W' (E[x] - E[x'])``, their own share of what they lack.
    3. A layer without a bias gets one; the addend of a MatMul is the constant of the Add behind it.
    4. If the outputs of the quantized model are no nearer to the float ones on the calibration data (256 samples), no
       bias is changed.

    *Options*: ``passes``, how often the calibration data is read by the quantized model at most.

    *Never* the float model: a layer that goes back to float has its own bias again. A MatMul without an addend.

    *Needs* scales, so that it runs behind calibration; the last of the passes that repair, because it corrects for what
    they leave.

    ``Conv(x, W, b)`` -> ``Conv(x, W, b + E[W x] - E[W' x'])``
    """

    name: ClassVar[str] = "bias-correction"
    stage: ClassVar[str] = "repair"

    passes: int = 16

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1, not {self.passes}")

    def run(self, context: Context) -> bool:
        """Run on the main graph."""
        state = context.quantization
        if state is None or not state.parameters or state.corrections:
            return False
        found = [site for site in sites(context, state.placement) if site.node.outputs[0].name]
        if not found:
            return False
        before = steps.inserted(context)
        levels = _levels(context.model.graph, found)
        portions = np.array_split(np.unique(list(levels.values())), min(self.passes, max(levels.values())))
        means = _means(context.model, found, context)
        for portion in portions:
            chosen = [site for site in found if levels[site.node] in portion]
            _correct(context, chosen, {site.node for site in chosen if levels[site.node] == portion[0]}, means)
        if not _better(context, before):
            state.corrections.clear()
            return False
        return context.record({"corrected biases": len(state.corrections)})


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


def _means(model: ir.Model, found: Sequence[Site], context: Context) -> dict[str, np.ndarray]:
    """Return by name the mean of each channel of what the sites read and write, as far as the model has the names."""
    assert context.quantization is not None
    there = {_name(value) for value in model.graph.inputs} | {_name(v) for node in model.graph for v in node.outputs}
    axes = {}
    for site in found:
        axes[_name(site.node.outputs[0])] = site.axis
        axes[_name(site.node.inputs[0])] = _summed(site)
    known = {name: axis for name, axis in axes.items() if name in there}
    seen = measure(model, known, context.quantization.batches())
    return {name: one.mean for name, one in seen.items()}


def _summed(site: Site) -> int:
    if site.node.op_type in ("Conv", "ConvTranspose"):
        return 1
    return 0 if site.node.attributes.get_int("transA", 0) else -1


def _correct(context: Context, chosen: list[Site], first: set[ir.Node], means: dict[str, np.ndarray]) -> None:
    """Measure the quantized model as it is now and add the corrections of one portion."""
    state = context.quantization
    assert state is not None
    model = steps.inserted(context)
    writers = {_name(out): node for node in model.graph for out in node.outputs}
    now = _means(model, chosen, context)
    constants = Constants()
    for site in chosen:
        name = _name(site.node.outputs[0])
        if name not in now:
            continue
        lacks = means[name] - now[name]
        read = _name(site.node.inputs[0])
        if site.node not in first and read in now:
            array = constants.array(writers[name].inputs[site.weight]) if name in writers else None
            if array is None:
                continue
            lacks = lacks - _product(site, array, means[read] - now[read])
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


def _better(context: Context, before: ir.Model) -> bool:
    """Tell whether the outputs came nearer to those of the float model."""
    assert context.quantization is not None
    seen = Fidelity(context.model, context.quantization.batches(), COMPARED)
    old, new = (worst(seen.of(model)) for model in (before, steps.inserted(context)))
    return old is not None and (new is None or new > old)

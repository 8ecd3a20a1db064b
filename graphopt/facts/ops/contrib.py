"""What onnxruntime's optimizer fuses operators into: activations with a bias, contractions with an activation.

The rules are those of the operators that went into them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.facts.ops.contraction import Contraction, Gemm, Geometry, MatMul, geometry
from graphopt.facts.ops.convolution import Conv
from graphopt.facts.ops.elementwise import UNARY, Elementwise, Function
from graphopt.facts.ops.qlinear import operand
from graphopt.facts.rules import MICROSOFT, register, rule
from graphopt.facts.store import Facts, Link, Mask, Spec

# -- activations ------------------------------------------------------------------------------------------------------


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _erf_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def _tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _biased(gelu: Callable[[np.ndarray], np.ndarray]) -> Callable[[ir.Node], Function]:
    def summed(x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return gelu(x.astype(np.float64) + (0 if bias is None else bias.astype(np.float64)))

    return lambda node: summed


def _quick_gelu(node: ir.Node) -> Function:
    alpha = node.attributes.get_float("alpha", 1.702)
    return lambda x: x * _sigmoid(alpha * x.astype(np.float64))


register("Gelu", Elementwise(_biased(_erf_gelu)), MICROSOFT)
register("BiasGelu", Elementwise(_biased(_erf_gelu)), MICROSOFT)
register("FastGelu", Elementwise(_biased(_tanh_gelu)), MICROSOFT)
register("QuickGelu", Elementwise(_quick_gelu), MICROSOFT)


# -- contractions with an activation ----------------------------------------------------------------------------------


def activation(node: ir.Node) -> Function | None:
    """Return the function that a fused contraction applies to its sums, or ``None`` for one that is not known."""
    name = node.attributes.get_string("activation", "")
    given = list(node.attributes.get_floats("activation_params", ()))
    for letter in ("alpha", "beta", "gamma"):
        if f"activation_{letter}" in node.attributes:
            given.append(node.attributes.get_float(f"activation_{letter}", 0.0))
    if not name:
        return lambda x: x
    if name == "Clip":
        return (lambda x: np.clip(x, given[0], given[1])) if len(given) == 2 else None
    if name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"):
        return UNARY[name](node)
    names = {
        "Elu": ("alpha",),
        "HardSigmoid": ("alpha", "beta"),
        "LeakyRelu": ("alpha",),
        "ThresholdedRelu": ("alpha",),
    }
    if name not in names:
        return None
    attributes = [ir.AttrFloat32(key, value) for key, value in zip(names[name], given, strict=False)]
    return UNARY[name](ir.Node("", name, [], attributes))


class Activated(Contraction):
    """A contraction that applies a function to its sums."""

    addend: int | None = None
    """Position of what is added to the sums before."""

    def settle(self, node: ir.Node, axis: int, mask: Mask, sums: np.ndarray, facts: Facts) -> None:
        function = activation(node)
        value = None if self.addend is None else operand(node, self.addend)
        if function is None:
            return
        if value is not None:
            along = facts.along(value, axis, sums.size)
            if along is None:
                return
            mask, sums = mask & along[0], sums + np.where(along[0], along[1], 0).astype(np.float64)
        super().settle(node, axis, mask, np.asarray(function(sums)), facts)


@rule("FusedConv", domain=MICROSOFT)
class FusedConv(Activated, Conv):
    """``activation(Conv(x, w, b) + z)``: the outputs are where ``z`` has them."""

    addend = 3

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        bias, rank = operand(node, self.b), dims.rank(node.outputs[0])
        if rank is None or (bias is not None and not facts.constants.known(bias)):
            return None  # there is no other place for what constant inputs add
        spec = super().spec(node, facts)
        added = operand(node, 3)
        if spec is not None and added is not None:
            if dims.rank(added) != rank:
                return None
            # Only where the convolution itself can leave positions out: its weight must be known for channels, and
            # windows must not overlap for pixels.
            free = {link.out_axis for link in spec.links} | ({1} if spec.extra is not None else set())
            spec.links += [Link(3, axis, 0, axis) for axis in sorted(free)]
        return spec


@rule("FusedGemm", domain=MICROSOFT)
class FusedGemm(Activated, Gemm):
    """``activation(alpha A' B' + beta C)``."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        spec = super().spec(node, facts)
        geo = None if spec is None else geometry(spec)
        if spec is not None and geo is not None and not _takes_bias(node, geo, facts):
            spec.extra = replace(geo, position_dependent=True)  # nothing can be added in front of the activation
        return spec


def _takes_bias(node: ir.Node, geo: Geometry, facts: Facts) -> bool:
    bias = operand(node, 2)
    if geo.out_axis != 1 or geo.beta != 1.0:
        return False
    return bias is None or (facts.constants.known(bias) and (dims.static(bias) or ())[:-1] in ((), (1,)))


@rule("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
class FusedMatMul(MatMul):
    """``alpha * A' @ B'`` with the last two axes of either transposed or not."""

    def spec(self, node: ir.Node, facts: Facts) -> Spec | None:
        a, b = node.inputs[0], node.inputs[1]
        sizes, out_sizes = (dims.sizes(a), dims.sizes(b)), dims.sizes(node.outputs[0])
        if sizes[0] is None or sizes[1] is None or out_sizes is None or min(len(sizes[0]), len(sizes[1])) < 2:
            return None
        if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
            return None
        turned = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
        ranks, rank = [len(s) for s in sizes if s is not None], len(out_sizes)
        alpha = node.attributes.get_float("alpha", 1.0)
        summed = [ranks[0] - (2 if turned[0] else 1), ranks[1] - (1 if turned[1] else 2)]
        free = [ranks[0] - (1 if turned[0] else 2), ranks[1] - (2 if turned[1] else 1)]
        links = [Link(0, free[0], 0, rank - 2), Link(1, free[1], 0, rank - 1)]
        pinned: set[tuple[int, int]] = set()
        for position, own in enumerate(sizes):
            assert own is not None
            for axis in range(len(own) - 2):
                target = axis + rank - len(own)
                if dims.provably_equal(own[axis], out_sizes[target]):
                    links.append(Link(position, axis, 0, target))
                elif own[axis] != 1:
                    pinned.add((0, target))
        frozen = frozenset(pinned)
        for w in (1, 0):
            if facts.constants.known(node.inputs[w]):
                geo = Geometry(
                    1 - w,
                    summed[1 - w],
                    w,
                    summed[w],
                    free[w],
                    rank - 2 + w,
                    position_dependent=ranks[w] > 2,
                    alpha=alpha,
                )
                return Spec(links, ((geo.x, geo.x_axis),), pinned=frozen, at_source=True, extra=geo)
        pair = ((0, summed[0]), (1, summed[1]))
        return Spec(links, pair, pinned=frozen, products=(pair,), at_source=True)

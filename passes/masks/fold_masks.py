"""Masks over constants are multiplied into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import dims
from graphopt.context import Context
from graphopt.errors import ModelError
from graphopt.facts.constants import SMALL, tensor_of
from graphopt.facts.expressions import Expressions
from graphopt.model_shapes import infer_shapes
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.stored import fold_into_stored
from graphopt.rewrite.unused import remove_unused

GROWTH = 4096
"""Elements by which folding a mask may grow a model for the moment: masks of channels, which narrowing removes."""


@dataclass(frozen=True)
class FoldMasks:
    """Fold masks into the weights, biases and masks they are multiplied with, with their shape plumbing.

    1. ``Mul(W, mask)``, ``Where(mask, W, 0)`` and everything else that is computed from constants alone becomes one
       constant: through Cast, Not, Sub, Reshape, Unsqueeze, Expand, Transpose, Constant, ConstantOfShape, products of
       masks, on weights, biases and on masks of activations.
    2. Large results are computed when the model is written, one at a time.
    3. A mask of zeros and ones, or a transpose, over a weight behind ``DequantizeLinear`` goes into its integers.

    *Never* folds a mask over a weight that is NaN or Inf where the mask is zero: the original's output is NaN there,
    and a warning says so. Never folds what depends on a graph input, what would make the model larger, nor a decision
    that hangs on how a runtime rounds (a warning says so, too).

    Options:
        grow: fold small masks although the model has more parameters until ``narrow`` has cut them.

    *Needs* nothing.

    ``Conv(x, Mul(W, mask))`` -> ``Conv(x, W')``
    """

    name: ClassVar[str] = "fold-masks"

    grow: bool = True

    def run(self, context: Context) -> bool:
        """Run on every graph; again where folding has made sizes known that were computed."""
        changed = False
        for _ in range(4):
            folded = context.everywhere(lambda: context.record({"folded": self._fold(context) + _fold_stored(context)}))
            changed |= folded
            if not folded or not any(
                _unknown_size(out) for graph in context.graphs() for node in graph for out in node.outputs
            ):
                break
            try:
                infer_shapes(context.model)
            except ModelError:  # what was known stays known: operators of which inference and runtime disagree
                break
        return changed

    def _fold(self, context: Context) -> int:
        graph = context.graph
        expressions = Expressions(graph, context.constants)
        if not expressions.members:
            return 0
        for node in expressions.undecided:
            context.warn("mask-undecided", "it compares numbers that runtimes round differently: not folded", node)
        for node in graph:
            if node.outputs and node.outputs[0] in expressions.members and _hides_nan(node, expressions):
                context.warn("mask-over-nan", "a masked weight is NaN or Inf: its mask is not folded", node)
                _exclude(node.outputs[0], expressions)
        inside: dict[ir.Value, bool] = {}
        frontier = [value for value in expressions.frontier() if not self._grows(value, expressions, inside)]
        if not frontier:
            return 0
        edit = Edit(context.bare(), "composed", cut_weights=True)
        for value in frontier:
            _replace(value, expressions, edit)
        remove_unused(graph)
        return len(frontier)

    def _grows(self, value: ir.Value, expressions: Expressions, inside: dict[ir.Value, bool]) -> bool:
        """Tell whether the folded constant would be larger than the constants that it makes superfluous.

        ``inside`` remembers of each leaf whether expressions alone read it: it may have very many readers.
        """
        size = expressions.size(value)
        counted = value.dtype is None or value.dtype.is_floating_point()
        freed = 0
        for leaf in expressions.leaves(value):
            tensor = tensor_of(leaf)
            if leaf not in inside:
                inside[leaf] = all(expressions._inside(use.node) for use in leaf.uses())
            if tensor is not None and inside[leaf]:
                freed += int(tensor.size)
        if size <= freed or (not counted and size <= freed + GROWTH):
            return False
        producer = value.producer()
        if producer is not None and producer.op_type in ("Expand", "Tile", "ConstantOfShape"):
            return (dims.rank(value) or 2) > 1  # an operator that broadcasts needs no copies; a bias may
        # A float constant that only grows the model for the moment: a mask, or a masked weight that narrowing will cut.
        return not self.grow or size > freed + GROWTH or not _masks(value, expressions)


def _fold_stored(context: Context) -> int:
    """Fold what is done to weights that are stored as integers."""
    if "DequantizeLinear" not in context.operators():
        return 0
    return fold_into_stored(Edit(context.bare(), "composed", cut_weights=True))


def _hides_nan(node: ir.Node, expressions: Expressions) -> bool:
    """Tell whether a zero of one operand meets a number that is not finite in the other."""
    if node.op_type not in ("Mul", "Where"):
        return False
    operands = [value for value in node.inputs if value is not None]
    weights = operands[1:] if node.op_type == "Where" else operands
    for position, value in enumerate(weights):
        if value in expressions.members or value.dtype is None or not value.dtype.is_floating_point():
            continue
        if expressions.constants.finite(value) is not False:
            continue
        array = expressions.array(value)
        if node.op_type == "Mul":
            other = expressions.array(weights[1 - position])
            if bool((~np.isfinite(array) & (other == 0)).any()):
                return True
        else:
            chosen = expressions.array(operands[0]).astype(bool)
            hidden = ~chosen if position == 0 else chosen
            if bool((~np.isfinite(array) & hidden).any()):
                return False  # Where selects: what it hides does not reach the output
    return False


def _exclude(value: ir.Value, expressions: Expressions) -> None:
    """Take a value and everything computed from it out of the expressions."""
    pending = [value]
    while pending:
        current = pending.pop()
        if current in expressions.members:
            expressions.members.discard(current)
            pending += [out for use in current.uses() for out in use.node.outputs]


def _unknown_size(value: ir.Value) -> bool:
    known = dims.sizes(value)
    return known is None or any(size is None for size in known)


def _masks(value: ir.Value, expressions: Expressions) -> bool:
    array = expressions.array(value)
    return bool((array == 0).any())


def _replace(value: ir.Value, expressions: Expressions, edit: Edit) -> None:
    """Let a constant take an expression's place: shared where it is small, computed on writing where it is large."""
    size, dtype, known = expressions.size(value), value.dtype, dims.static(value)
    compute, base = expressions.closure(value), f"{value.name}_folded"
    if size <= GROWTH:
        _use(value, edit.constant(np.array(compute(), order="C"), base, dtype))
        return

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(np.array(compute(), order="C"), dtype=dtype)

    if size <= SMALL or dtype is None or known is None or any(dim is None for dim in known):
        _use(value, edit.initializer(evaluate(), base))
        return
    shape = ir.Shape([dim or 0 for dim in known])
    _use(value, edit.initializer(ir.LazyTensor(evaluate, dtype=dtype, shape=shape), base))


def _use(value: ir.Value, constant: ir.Value) -> None:
    """Let every reader of an expression read the constant; a graph output stays computed."""
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, constant)

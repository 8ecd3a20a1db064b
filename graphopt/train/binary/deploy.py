"""What a binary net is deployed as: bits and thresholds."""

from __future__ import annotations

import onnx_ir as ir
from torch import nn

from graphopt.errors import UsageError
from graphopt.pipeline import optimize
from graphopt.torch_export import export
from graphopt.train.binary.layers import deployable
from graphopt.train.family import Family

WORTH = 1
"""Fewest numbers side by side that become bits, where the size of the file counts and not only its speed."""


def to_onnx(net: nn.Module, family: Family) -> ir.Model:
    """Export a binary net in standard operators, in eval mode, with the batch left open.

    The result is not compared element by element: a sign is a jump, and where a sum lies within rounding of 0, two
    runtimes may say -1 and +1. ``graphopt.train.agreement`` judges by the answers.

    Raises:
        UsageError: The net takes more than one input.
    """
    example = tuple(one.to(next(net.parameters()).device) for one in family.example(net))
    if len(example) != 1:
        raise UsageError(f"'{family.name}' takes {len(example)} inputs, and binary nets one", family.name)
    return export(
        deployable(net),
        example,
        dynamic_shapes=[{0: "batch"}],
        input_names=[family.input],
        output_names=[family.output],
        verify=False,
    )


def lowered(model: ir.Model, *, least: int = WORTH) -> ir.Model:
    """Return an exported binary net with packed weights and thresholds.

    Batch-norms and scales go into the weights (``optimize``), then ``lower-binary`` stores the signs as bits; where the
    result of a layer is read by its sign alone, scale, bias and norm are one threshold a channel.

    Args:
        model: As ``to_onnx`` returns it; not changed.
        least: Layers with fewer input channels (of a group) stay float.
    """
    folded = optimize(model, operators=False, verify=False, measure=False).model
    passes = f"lower-binary{{least={least}}}"
    return optimize(folded, passes=passes, operators=True, verify=False, measure=False).model

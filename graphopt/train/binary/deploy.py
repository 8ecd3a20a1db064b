"""What a binary net is deployed as: bits and thresholds."""

from __future__ import annotations

import onnx_ir as ir
from torch import Tensor, nn

from graphopt.errors import UsageError
from graphopt.passes.lower.lower_binary import LowerBinary
from graphopt.pipeline import optimize
from graphopt.torch_export import export
from graphopt.train.binary.layers import deployable
from graphopt.train.family import Family


def to_onnx(net: nn.Module, family: Family) -> ir.Model:
    """Export a binary net in standard operators, in eval mode, with the batch left open.

    The result is not compared element by element: a sign is a jump, and where a sum lies within rounding of 0, two
    runtimes may say -1 and +1. ``graphopt.train.agreement`` judges by the answers.

    Raises:
        UsageError: The net takes more than one input.
    """
    example = only_input(net, family).to(next(net.parameters()).device)
    return export(
        deployable(net),
        (example,),
        dynamic_shapes=[{0: "batch"}],
        input_names=[family.input],
        output_names=[family.output],
        verify=False,
    )


def only_input(net: nn.Module, family: Family) -> Tensor:
    """Return the example of the one tensor that a net takes.

    Raises:
        UsageError: It takes more than one.
    """
    example = family.example(net)
    if len(example) != 1:
        raise UsageError(f"'{family.name}' takes {len(example)} inputs, and binary nets one", family.name)
    return example[0]


def lowered(model: ir.Model, *, least: int = LowerBinary.least) -> ir.Model:
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

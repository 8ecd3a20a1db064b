"""Zeros that stay in the file although whole units were pruned.

Which groups can leave is asked before anything is pruned (``removable``), at the recipe's amount of each. What is
pruned in the end is something else: with scope ``global`` one group loses more and another one less, and a result that
measures slower is given up for a wider one. So it is counted what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from graphopt import pipeline
from graphopt.train.prune.removable import Plan, weights, wide

WORTH_SAYING = 0.1
"""Share of the zeros: a few positions may be held where that spares a gather or a scatter."""


@dataclass(frozen=True)
class Leftover:
    """Weights that are zero and in the file.

    Attributes:
        zeros: Weights of two axes or more that were pruned.
        stay: Of these, how many the optimized file has.
        needlessly: How many plan ``smallest`` leaves in it: nothing but a file without speed is to be had of the rest.
    """

    zeros: int
    stay: int
    needlessly: int


def leftover(masks: Mapping[str, Tensor], trained: Path, pruned: Path, small: ir.Model) -> Leftover | None:
    """Count the zeros that are left; None where that is not worth a word.

    Both files are compared as `optimize` leaves them: it also removes what no mask has made superfluous (batch-norms,
    transposed copies), which is no merit of the zeros.

    Args:
        masks: By parameter, what was pruned.
        trained: The net before, as exported.
        pruned: The net with its masks, as exported.
        small: What ``optimize`` made of that.

    Raises:
        GraphoptError: A file is at fault.
    """
    zeros = sum(int(mask.sum()) for mask in masks.values() if wide(mask.shape))
    stay = zeros - weights(_optimized(trained, "fastest")) + weights(small)
    if stay <= WORTH_SAYING * zeros:
        return None
    fewest = zeros - weights(_optimized(trained, "smallest")) + weights(_optimized(pruned, "smallest"))
    return Leftover(zeros, stay, min(stay, max(0, fewest)))


def _optimized(path: Path, plan: Plan) -> ir.Model:
    return pipeline.optimize(path, plan=plan, verify=False, measure=False).model

"""What can only be removed together: filters, residual streams, hidden units, attention heads of a torch net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["filter", "hidden", "head", "stream"]


@dataclass(frozen=True)
class Slice:
    """The positions of one axis of one parameter that belong to each unit of a group.

    Attributes:
        parameter: As ``net.named_parameters()`` calls it.
        axis: Of that parameter.
        index: ``[units, k]`` (int64): the positions of each unit.
    """

    parameter: str
    axis: int
    index: np.ndarray


@dataclass(frozen=True)
class Group:
    """Units that may be removed one by one, each with all of its slices.

    Attributes:
        name: Of the first parameter that writes it.
        kind: ``filter``: channels that convolutions compute, or outputs of a linear layer; ``hidden``: units between
            two linear layers; ``head``: attention heads, or groups of them that share their keys; ``stream``: channels
            of a residual stream, with all that writes into it.
        units: How many there are.
        writes: What computes the units: zeros here remove a unit.
        reads: What reads the units: dead with them, whatever it holds.
    """

    name: str
    kind: Kind
    units: int
    writes: tuple[Slice, ...]
    reads: tuple[Slice, ...]

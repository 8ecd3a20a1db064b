"""Which net is binarized: a family may have a form of its own for that."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from torch import nn

from graphopt.train.family import Family


def binary_form(family: Family) -> Callable[..., nn.Module]:
    """Return what makes the float net that binary layers are put into.

    That is ``new`` of ``graphopt.models.<family>.binary`` where there is such a module (batch-norms in front of signs
    and no ReLU, as published nets have it), else the family's own.
    """
    name = f"graphopt.models.{family.name}.binary"
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a family of the user's
        found = None
    return family.new if found is None else importlib.import_module(name).new

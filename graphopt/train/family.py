"""A kind of net with its data, its task and its export: what a recipe names."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from graphopt.errors import UsageError, nearest
from graphopt.train.data import Data
from graphopt.train.task import Task
from graphopt.user_code import load_object

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.train.prune.groups import Group


@dataclass(frozen=True)
class Family:
    """What the training commands need to know of a kind of net.

    Attributes:
        name: As recipes write it; the folder in ``graphopt.models``.
        new: ``new(seed=0, **options)``: a net with random weights, the same ones for the same seed. Options are the
            ``model`` part of a recipe.
        data: ``data(**options)``: what it learns from; options are the ``data`` part of a recipe.
        task: What is learnt.
        example: Example inputs of ``forward``, batch first, two samples.
        export: From a net (masks, quantizers and all) to ONNX with the batch left open.
        input: Name of the ONNX input that takes the samples.
        output: Name of the ONNX output that the task judges.
        feeds: From a net and a batch of prepared samples to all inputs of its ONNX file, by name; None: ``input`` is
            the only one.
        groups: What can only be removed together, where the family knows it better than what can be seen from its
            graph (``graphopt.train.prune.groups``); None: that is looked at.
    """

    name: str
    new: Callable[..., nn.Module]
    data: Callable[..., Data]
    task: Task
    example: Callable[[nn.Module], tuple[Tensor, ...]]
    export: Callable[[nn.Module], ir.Model]
    input: str
    output: str
    feeds: Callable[[nn.Module, np.ndarray], Mapping[str, np.ndarray]] | None = None
    groups: Callable[[nn.Module], list[Group]] | None = None


def names() -> list[str]:
    """Return the names of the families that come with graphopt."""
    from graphopt import models

    folders = (one.name for one in pkgutil.iter_modules(models.__path__) if one.ispkg)
    return sorted(name for name in folders if importlib.util.find_spec(f"graphopt.models.{name}.family"))


def family(name: str) -> Family:
    """Return a family by its name, or by ``PKG.MODULE:NAME`` of a ``Family`` of the user's.

    Raises:
        UsageError: There is none.
    """
    if ":" in name:
        found: Any = load_object(name)
        if not isinstance(found, Family):
            raise UsageError(f"'{name}' is not a graphopt.train.family.Family", name, "see docs/training.md")
        return found
    known = names()
    if name not in known:
        meant = nearest(name, known)
        hint = f"did you mean {meant}? " if meant else ""
        raise UsageError(f"unknown family '{name}'", help=f"{hint}known: {', '.join(known)}, or PKG.MODULE:FAMILY")
    return importlib.import_module(f"graphopt.models.{name}.family").FAMILY

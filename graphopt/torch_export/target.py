"""``PKG.MODULE:FACTORY`` → a module and example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.errors import UsageError
from graphopt.inputspec import InputSpec
from graphopt.user_code import load_object, raised


@dataclass
class Target:
    """What a target names."""

    module: torch.nn.Module | torch.export.ExportedProgram
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def load_target(target: str) -> Target:
    """Import the target and, when it is a factory, call it.

    Raises:
        UsageError: It is not written as ``PKG.MODULE:NAME``, or there is no such module or name, or what it names
            cannot be exported.
        GraphoptError: Importing or calling it raised; the message names the line.
    """
    found = load_object(target, "PKG.MODULE:FACTORY")
    attribute = target.partition(":")[2]
    if not isinstance(found, (torch.nn.Module, torch.export.ExportedProgram)) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise raised(f"calling '{attribute}' failed", error, target) from error
    parts: list[Any] = list(found) if isinstance(found, tuple) else [found]
    module = parts[0] if parts else None
    if len(parts) > 3 or not isinstance(module, (torch.nn.Module, torch.export.ExportedProgram)):
        raise UsageError(
            f"'{attribute}' gives a {type(found).__name__}, which cannot be exported",
            target,
            "give a torch.nn.Module, or a function that returns one, or returns (module, args)",
        )
    args = parts[1] if len(parts) > 1 else ()
    kwargs = dict(parts[2] or {}) if len(parts) > 2 else {}
    return Target(module, tuple(args) if isinstance(args, (tuple, list)) else (args,), kwargs)


def example_inputs(
    module: torch.nn.Module | torch.export.ExportedProgram, specs: Sequence[InputSpec], seed: int
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    """Example values for the described inputs, by position or by name, and the names of the graph inputs in order."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {spec.name: _example(spec, generator) for spec in specs}
    known = parameters(module)
    if all(name in known for name in tensors):
        ordered = {name: tensors[name] for name in known if name in tensors}
        return (), ordered, list(ordered)
    return tuple(tensors.values()), {}, list(tensors)


def parameters(module: torch.nn.Module | torch.export.ExportedProgram) -> list[str]:
    """The names of what ``forward`` takes; none for an exported program, whose inputs are given in order."""
    return list(inspect.signature(module.forward).parameters) if isinstance(module, torch.nn.Module) else []


def _example(spec: InputSpec, generator: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(spec.shape, generator=generator).to(dtype)
    # 0 and 1 are valid ids, masks, lengths and flags more often than anything else.
    return torch.randint(0, 2, spec.shape, generator=generator).to(dtype)

"""``PKG.MODULE:FACTORY`` → a module and example inputs."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.errors import GraphoptError, UsageError, nearest
from graphopt.inputspec import InputSpec
from graphopt.torch_export.blame import user_line


@dataclass
class Target:
    """What a target names."""

    module: torch.nn.Module | torch.export.ExportedProgram
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def load_object(target: str, form: str = "PKG.MODULE:NAME") -> Any:
    """Import what ``PKG.MODULE:NAME`` names; the current folder is looked at first. ``form``: how to say that.

    Raises:
        UsageError: It is not written so, or there is no such module or name.
        GraphoptError: Importing it raised; the message names the line.
    """
    path, colon, attribute = target.partition(":")
    if not colon or not path or not attribute:
        raise UsageError(f"the target '{target}' cannot be read", help=f"write it as {form}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module '{error.name}'", target, "run from the folder that holds it, or install it"
            ) from None
        raise _raised(f"importing '{path}' failed", error, target) from error
    except Exception as error:
        raise _raised(f"importing '{path}' failed", error, target) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = [each for each in dir(found) if not each.startswith("_")]
            meant = nearest(name, known)
            raise UsageError(
                f"'{path}' has no '{name}'", target, f"did you mean {meant}?" if meant else "check the name"
            )
        found = getattr(found, name)
    return found


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
            raise _raised(f"calling '{attribute}' failed", error, target) from error
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


def _raised(what: str, error: Exception, target: str) -> GraphoptError:
    return GraphoptError(f"{what}: {type(error).__name__}: {error}", user_line(error) or target, "correct that line")

"""Which types a target takes: what it cannot load, or has no kernel for, is refused before any work is done."""

from __future__ import annotations

import re
from dataclasses import replace

from graphopt.calibrate.grid import Grid, grid
from graphopt.errors import UsageError, nearest
from graphopt.quantization.processor import saturates
from graphopt.quantization.request import Request
from graphopt.quantization.tables import WITH_OPERATORS
from graphopt.quantization.tables.rows import Table


def activation_grid(request: Request) -> Grid | None:
    """Return the type of activations; None where they stay in float (weight-only).

    Raises:
        UsageError: The target has no use for the type; says why.
    """
    table = request.table
    name = request.activations or (
        f"levels{request.levels}" if request.levels and table.activations[0] != "none" else table.activations[0]
    )
    _offered(request, "activations", name, table.activations)
    if name == "none":
        return None
    return _stored(grid(name, signed=table.symmetric), table)


def weight_grid(request: Request) -> Grid:
    """Return the type of weights; 7 bits by default where the processor's products of 8 bits saturate.

    Raises:
        UsageError: The target has no use for the type; says why.
    """
    table = request.table
    name = request.weights or (f"levels{request.levels}" if request.levels else table.weights[0])
    if request.weights is None and not request.levels and name == "int8" and request.target == "cpu" and saturates():
        name = "int7"
    _offered(request, "weights", name, table.weights)
    return _stored(grid(name, signed=True), table)


def opset(request: Request) -> int:
    """Return the version of the standard operator set that a request needs: 13 for scales per channel.

    Of weights alone, 0: it depends on the operators that read them, and ``weight_only.insert`` sees to it.
    """
    if request.weight_only:
        return 0
    grids = (activation_grid(request), weight_grid(request))
    return max([13, *(one.opset for one in grids if one is not None)])


def _stored(found: Grid, table: Table) -> Grid:
    """Return a grid as the target's kernels read it: fewer than 8 bits lie in 8, and a Clip keeps to their range."""
    if not table.bytes or found.storage not in ("int2", "int4", "uint2", "uint4"):
        return found
    return replace(found, storage="int8" if found.signed else "uint8", opset=10)


def _offered(request: Request, what: str, name: str, offered: tuple[str, ...]) -> None:
    levels = re.fullmatch(r"levels(\d+)", name)
    if name in offered or ("levels" in offered and levels and int(levels.group(1)) <= 256):
        return
    target, more = request.target, WITH_OPERATORS.get(request.target) if request.operators else None
    if what == "activations" and more is not None:  # those that runtime operators read, too
        offered = (*offered, *(one for one in more.activations if one not in offered))
    reasons = {**request.table.reasons, **({} if more is None else more.reasons)}
    reason = reasons.get("levels" if levels and "levels" in offered else name)
    close = nearest(name, offered)
    hint = f"did you mean {close!r}? " if close else ""
    shown = ", ".join("levelsN" if one == "levels" else one for one in offered)
    raise UsageError(
        f"{what} of type {name!r} are not for the target {target!r}" + (f": {reason}" if reason else ""),
        where=what,
        help=f"{hint}one of {shown}",
    )

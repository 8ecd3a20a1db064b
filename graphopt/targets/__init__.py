"""What `--target` may be, and the figures of each that the plan reckons with.

The figures are the shipped defaults until ``graphopt calibrate-target`` has measured others on this machine. Those are
kept in one small JSON file a target, in ``$GRAPHOPT_TARGETS`` if that is set, else below ``$XDG_CONFIG_HOME`` or
``~/.config``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

from graphopt.errors import ModelError
from graphopt.plan.cost import CostModel

TARGETS = ("cpu", "cuda", "portable")

DEFAULTS = {
    "cpu": CostModel(),
    # Tensor cores take channels by 8 in half precision; starting a kernel costs more than on a CPU, elements less.
    "cuda": CostModel(
        lanes=8,
        multiple=8,
        blocked_mac=0.00002,
        direct_mac=0.00004,
        column_mac=0.00004,
        depthwise_mac=0.0002,
        loose_mac=0.0002,
        product_mac=0.00002,
        weight=0.002,
        element=0.004,
        run=0.01,
        join=0.012,
        node=4000.0,
    ),
    "portable": CostModel(),
}
"""Shipped figures. ``cpu``: measured with onnxruntime 1.31 on AVX-512. ``cuda``: estimates, not measured yet."""


def folder() -> Path:
    """Return where measured figures are kept."""
    chosen = os.environ.get("GRAPHOPT_TARGETS")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "graphopt" / "targets"


def file_of(target: str) -> Path:
    """Return the file with the measured figures of a target; it need not exist."""
    return folder() / f"{target}.json"


def costs(target: str) -> CostModel:
    """Return the figures of a target: the measured ones where there are any, else the defaults.

    Raises:
        ModelError: the file with the measured figures cannot be used.
    """
    path = file_of(target)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return DEFAULTS[target]
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, str(error)) from error
    return read(text, path)


def read(text: str, path: Path) -> CostModel:
    """Return the figures in the text of a file.

    Raises:
        ModelError: it is not JSON, a figure is missing, unknown, or not a positive number.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _unusable(path, f"it is not JSON: {error}") from error
    wanted = {field.name: type(field.default) for field in dataclasses.fields(CostModel)}
    if not isinstance(content, dict) or set(content) != set(wanted):
        raise _unusable(path, f"it must hold exactly {', '.join(wanted)}")
    for name, kind in wanted.items():
        number = content[name]
        whole = kind is int
        if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
            raise _unusable(path, f"{name} is not a {'whole ' if whole else ''}number")
        if not (number > 0 and math.isfinite(number)):
            raise _unusable(path, f"{name} is not positive")
    return CostModel(**content)


def write(figures: CostModel, path: Path) -> None:
    """Write figures, atomically.

    Raises:
        GraphoptError: the place cannot be written to.
    """
    from graphopt.report import files

    files.write(path, json.dumps(dataclasses.asdict(figures), indent=2) + "\n")


def _unusable(path: Path, why: str) -> ModelError:
    return ModelError(
        "the measured figures of a target cannot be used",
        where=f"{path}: {why}",
        help="run `graphopt calibrate-target` again, or delete the file",
    )

"""Which passes run: the default ones, those named in a text, or those of a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from graphopt.errors import UsageError, about, nearest
from graphopt.registry import Pass, make, parse, passes, stage
from graphopt.targets.lowerings import LOWERINGS

WITHOUT_OPERATORS = {
    "portable": "its models consist of standard ONNX operators only",
    "tensorrt": "it does not run onnxruntime's custom operators",
}


def default() -> list[Pass]:
    """Return the passes of the default pipeline."""
    return [make(name, {}) for name, cls in passes().items() if stage(cls) == "optimize"]


def select(text: str | None, recipe: str | os.PathLike[str] | None) -> tuple[list[Pass], bool]:
    """Return the passes to run, and whether they are the default ones, which are repeated until nothing changes.

    Raises:
        UsageError: both are given; an unknown pass or option; a recipe that cannot be read.
    """
    if text is not None and recipe is not None:
        raise UsageError("both passes and a recipe are given", help="give one of them")
    if recipe is not None:
        return _from_recipe(Path(recipe)), False
    if text is not None:
        return parse(text), False
    return default(), True


def _from_recipe(path: Path) -> list[Pass]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the recipe cannot be read: {error.strerror}", str(path), "name a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("the recipe is not YAML", where=str(path), help=str(error).splitlines()[0]) from error
    entries = content.get("passes") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            "the recipe lists no passes", where=str(path), help="passes: [fold-masks, {narrow: {align: 16}}]"
        )
    with about(str(path)):
        return [one for entry in entries for one in _passes(entry)]


def _passes(entry: Any) -> list[Pass]:
    if isinstance(entry, str):
        return parse(entry)
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if options is None or isinstance(options, dict):
            return [make(str(name), options or {})]
    raise UsageError(f"cannot read {entry!r} in the recipe", help="a name, or {name: {option: value}}")


def operators_on(target: str, asked: bool | None) -> bool | None:
    """Return whether runtime operators may be inserted: as asked, by default for ``cuda`` alone.

    A model has to be fast in onnxruntime as it is installed, unless the user says that the library will be there. On
    CUDA it has to be there anyway: without it, quantized models are slower than float.

    Returns:
        True or False as asked; None where nothing was: none are inserted, those that the model calls already stay.

    Raises:
        UsageError: they are asked for where the result must do without.
    """
    if asked and target in WITHOUT_OPERATORS:
        raise UsageError(
            f"the target {target!r} has no runtime operators: {WITHOUT_OPERATORS[target]}",
            where="operators",
            help="leave --operators out, or name the target that the model will run on: cpu or cuda",
        )
    return True if asked is None and target == "cuda" else asked


def lowerings(target: str) -> list[Pass]:
    """Return the passes that write a model's work as runtime operators on a target, in the order of its table."""
    texts = dict.fromkeys(row.passes for row in LOWERINGS.get(target, {}).values() if row.passes)
    return [item for text in texts for item in parse(text)]


def one_of(what: str, given: str, known: Sequence[str]) -> None:
    """Refuse a word that is not one of the known ones.

    Raises:
        UsageError: names the nearest known word.
    """
    if given not in known:
        close = nearest(given, known)
        hint = f"did you mean {close!r}? " if close else ""
        raise UsageError(f"unknown {what} {given!r}", help=f"{hint}one of {', '.join(known)}")

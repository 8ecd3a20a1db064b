"""What a training stands at, in a file that is there whole or not at all."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphopt.errors import GraphoptError
from graphopt.report import files

NAME = "checkpoint.pt"

_PARTS = frozenset(("of", "net", "hooks", "history", "finished", "halfway", "drawn"))
"""What ``Trainer`` writes."""

_HALFWAY = frozenset(("stage", "epoch", "loss", "settings", "optimizer"))
_DRAWN = frozenset(("order", "changes", "chance"))
_ROW = frozenset(("stage", "epoch", "loss"))

_RESTART = "name another folder, or --restart to begin anew"


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state under a temporary name, then rename it. What was there before stays until then.

    Raises:
        GraphoptError: The folder cannot be made or written to.
    """
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    files.write_bytes(files.folder(folder) / NAME, stream.getvalue())


def read(folder: Path) -> dict[str, Any] | None:
    """Return the state, on the CPU; None if there is none. Reading it runs no code of the file's.

    Raises:
        GraphoptError: There is a file that is not a checkpoint.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        _whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what pickle, zipfile and itself raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphoptError(f"not a checkpoint: {reason}", str(path), _RESTART) from error
    if not isinstance(state, dict) or not state.keys() >= _PARTS or not _sound(state):
        raise GraphoptError("not a checkpoint of a training", str(path), _RESTART)
    return state


def _sound(state: Mapping[str, Any]) -> bool:
    """Tell whether the parts are of the kinds that ``Trainer`` writes."""
    parts = [state["of"], state["net"], state["hooks"], state["finished"]]
    halfway, drawn, rows = state["halfway"], state["drawn"], state["history"]
    return (
        all(isinstance(part, dict) for part in parts)
        and (halfway is None or (isinstance(halfway, dict) and halfway.keys() >= _HALFWAY))
        and (isinstance(drawn, list) and len(drawn) == state["of"].get("processes"))
        and all(isinstance(one, dict) and one.keys() >= _DRAWN for one in drawn)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and row.keys() >= _ROW for row in rows)
    )


@contextmanager
def taken(folder: Path, what: str) -> Iterator[None]:
    """Say that a checkpoint is damaged where what it says of ``what`` cannot be taken over.

    Raises:
        GraphoptError: Instead of whatever a wrong value raises.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        where = str(folder / NAME)
        raise GraphoptError(f"the checkpoint says of {what} what cannot be: {said}", where, _RESTART) from error


def finite(net: nn.Module, folder: Path) -> None:
    """Refuse parameters that no training leaves behind: it ends where a loss is not finite.

    Raises:
        GraphoptError: One holds nan or an infinity.
    """
    for name, one in net.named_parameters():
        if not torch.isfinite(one).all():
            what = f"the checkpoint holds numbers that are not finite: {name}"
            raise GraphoptError(what, str(folder / NAME), _RESTART)


def _whole(path: Path) -> None:
    """Compare the sums of the file, which torch does not: a byte that a disk lost would be a weight."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")


def of(net: nn.Module, **more: Any) -> dict[str, Any]:
    """Return what a checkpoint must agree on with the training that goes on from it."""
    tensors = {name: [str(one.dtype), *one.shape] for name, one in net.state_dict().items() if torch.is_tensor(one)}
    return {"net": tensors, **more}


def expect(state: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        GraphoptError: It says what differs first.
    """
    for key, value in wanted.items():
        found = state["of"].get(key)
        if found != value:
            raise GraphoptError(
                f"the checkpoint is of another training: {_difference(key, found, value)}",
                str(folder / NAME),
                _RESTART,
            )


def _difference(key: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in (*wanted, *found):
            if found.get(name) != wanted.get(name):
                return f"{key}: {name} is {_text(found.get(name))} there and {_text(wanted.get(name))} here"
    return f"{key} is {_text(found)} there and {_text(wanted)} here"


def _text(value: Any) -> str:
    return "missing" if value is None else str(value)

"""The user's own Python: found by its name, and named by its line where it raises."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from typing import Any

from graphopt.errors import GraphoptError, UsageError, nearest

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARY = os.path.abspath(sysconfig.get_paths()["stdlib"]) + os.sep


def load_object(target: str, form: str = "PKG.MODULE:NAME") -> Any:
    """Import what ``PKG.MODULE:NAME`` names. ``form``: how to say that.

    The current folder is looked at first, and stays where Python looks: what is named may import more when it runs.

    Raises:
        UsageError: It is not written so, or there is no such module or name.
        GraphoptError: Importing it raised; the message names the line.
    """
    path, colon, attribute = target.partition(":")
    if not colon or not attribute or not all(name.isidentifier() for name in path.split(".")):
        raise UsageError(f"the target '{target}' cannot be read", help=f"write it as {form}")
    if path.endswith(".py"):
        raise UsageError(f"'{path}' is a file, not a module", target, f"write it as {path[:-3]}:{attribute}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and (path == error.name or path.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module '{error.name}'", target, "run from the folder that holds it, or install it"
            ) from None
        raise raised(f"importing '{path}' failed", error, target) from error
    except Exception as error:
        raise raised(f"importing '{path}' failed", error, target) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = [each for each in dir(found) if not each.startswith("_")]
            meant = nearest(name, known)
            raise UsageError(
                f"'{path}' has no '{name}'", target, f"did you mean {meant}?" if meant else "check the name"
            )
        found = getattr(found, name)
    return found


def raised(what: str, error: Exception, target: str) -> GraphoptError:
    """Return an exception of the user's code as an error at the user's line, or at ``target`` where none is known."""
    return GraphoptError(f"{what}: {type(error).__name__}: {error}", user_line(error) or target, "correct that line")


def user_line(error: BaseException) -> str | None:
    """The innermost frame of a traceback that is neither torch's, nor Python's, nor ours; None when there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return _line(frame)
    return None


def users_fault(error: BaseException) -> str | None:
    """The line of the user's that raised, or called what raised; None where code of graphopt stands in between."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.abspath(frame.filename).startswith(_OURS):
            return None
        if is_users(frame.filename):
            return _line(frame)
    return None


def _line(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}" + (f": {frame.line}" if frame.line else "")


def is_users(filename: str) -> bool:
    """Whether a source file is the user's: not torch's, not Python's, not an installed package's, not ours."""
    path = os.path.abspath(filename)
    torch = getattr(sys.modules.get("torch"), "__file__", None)  # it may lie beside the installed packages
    foreign = (_LIBRARY, _OURS, *([os.path.dirname(torch) + os.sep] if torch else []))
    return not (path.startswith(foreign) or "site-packages" in path or filename.startswith("<"))

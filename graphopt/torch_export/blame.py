"""Which line of the user's own code an exception comes from."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback

import torch

from graphopt.errors import GraphoptError

_NOT_THE_USERS = tuple(
    os.path.abspath(folder) + os.sep
    for folder in (os.path.dirname(__file__), os.path.dirname(torch.__file__), sysconfig.get_paths()["stdlib"])
)

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def failure(error: Exception, module: str, exporter: str) -> GraphoptError:
    """What the exporter says at the root of its complaint, at the user's own line."""
    root: BaseException = error
    where: str | None = None
    seen: BaseException | None = error
    while seen is not None:
        root = seen
        where = user_line(seen) or where
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(root))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    short = " ".join(lines[:2])[:300]
    advice = f'change that line, or try exporter="{"torchscript" if exporter == "dynamo" else "dynamo"}"'
    if "data-dependent" in said or "GuardOnDataDependent" in type(root).__name__:
        advice = "control flow that depends on values needs torch.cond or torch.where"
    what = f"the {exporter} exporter cannot export {module}: {type(root).__name__}"
    return GraphoptError(f"{what}: {short}" if short else what, where, advice)


def user_line(error: BaseException) -> str | None:
    """The innermost frame of a traceback that is neither torch's, nor Python's, nor ours; None when there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno} in {frame.name}" + (f": {frame.line}" if frame.line else "")
    return None


def users_fault(error: BaseException) -> str | None:
    """The line of the user's that raised, or called what raised; None where code of graphopt stands in between."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.abspath(frame.filename).startswith(_OURS):
            return None
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno} in {frame.name}" + (f": {frame.line}" if frame.line else "")
    return None


def is_users(filename: str) -> bool:
    """Whether a source file is the user's: not torch's, not Python's, not an installed package's, not ours."""
    path = os.path.abspath(filename)
    return not (path.startswith(_NOT_THE_USERS) or "site-packages" in path or filename.startswith("<"))

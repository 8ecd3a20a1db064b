"""What an exporter complains of, at the line of the user's own code that it comes from."""

from __future__ import annotations

import re

from graphopt.errors import GraphoptError
from graphopt.user_code import user_line


def failure(error: Exception, module: str, exporter: str) -> GraphoptError:
    """What the exporter says at the root of its complaint, at the user's own line."""
    root: BaseException = error
    where: str | None = None
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):  # torch takes Ctrl-C for a failure of its own
            raise seen
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

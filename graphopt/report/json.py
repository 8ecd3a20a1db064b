"""Records as JSON: the report, and what other commands print with `--json`."""

from __future__ import annotations

import json
import os
from typing import Any

from graphopt.report.files import write as write_text
from graphopt.report.schema import plain


def dumps(record: Any) -> str:
    """One JSON object (dataclasses become objects, NaN and infinities null), indented, without a final newline."""
    return json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False)


def write(record: Any, path: str | os.PathLike[str]) -> None:
    """Writes `dumps(record)` to a file, whole or not at all. Raises GraphoptError when it cannot be written."""
    write_text(path, dumps(record) + "\n")

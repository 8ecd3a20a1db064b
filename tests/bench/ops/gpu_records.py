"""What ``make gpu-check`` has found so far: a file of lines to which every process appends at once.

A process may die at any line (a kernel that reads where it must not ends it), or be ended: what stands in the file is
kept. A line with ``begun`` says what is being tried, so that a death has a name. Needs the standard library alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PARTS = {
    "start": "Does onnxruntime run here?",
    "equal": "Equal to the CPU",
    "network": "A whole network",
    "targets": "Targets",
    "times": "Times",
    "suite": "The tests, in the CUDA provider",
    "sanitize": "compute-sanitizer",
}
"""In the order in which they are run: what is worth most comes first."""


CUT = "cut off by the end of the time"
"""What failed where nothing did but the clock: it is tried again when the check goes on."""


@dataclass(frozen=True)
class Record:
    """One thing that was tried.

    Attributes:
        part: One of :data:`PARTS`.
        name: Of what was tried; the same for its beginning and its end.
        begun: Whether this line says that it was begun, and nothing else.
        failed: What went wrong, in a line; empty where nothing did.
        numbers: What was measured or found, for the tables and targets.
        note: In words.
    """

    part: str
    name: str
    begun: bool = False
    failed: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    note: str = ""


class Records:
    """A file of records."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: Record) -> None:
        """Append a line, in one piece even where several processes write."""
        line = json.dumps(asdict(record)) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def all(self) -> list[Record]:
        """Every record; a last line that a death cut off is left out."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(Record(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def ended(self, part: str | None = None) -> list[Record]:
        """What has an end, in the order of the ends; of several ends of one thing the last."""
        last = {(one.part, one.name): one for one in self.all() if not one.begun and part in (None, one.part)}
        return list(last.values())

    def known(self, part: str) -> set[str]:
        """What need not be tried again."""
        return {one.name for one in self.ended(part) if not one.failed.startswith(CUT)}

    def open(self, part: str) -> list[str]:
        """What was begun and has no end since."""
        names: dict[str, None] = {}
        for one in self.all():
            if one.part != part:
                continue
            if one.begun:
                names[one.name] = None
            else:
                names.pop(one.name, None)
        return list(names)


def short(error: BaseException | str, most: int = 240) -> str:
    """An error in one line for a cell of a table; its end, where the reason stands, is kept."""
    text = " ".join(str(error).split()).replace("|", "/")
    if not text and isinstance(error, BaseException):
        return type(error).__name__
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"

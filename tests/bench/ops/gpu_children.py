"""Processes that note what they find, each ended when it takes too long over one thing. Standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.ops.gpu_records import CUT, Record, Records, short


@dataclass
class Child:
    """What is to be run, again and again until it ends well.

    Attributes:
        part: Of the records.
        command: Left out are what was ended or begun: a new start goes on behind what an old one died of.
        names: Whether a name of the part is one of this process's.
        patience: Seconds that one thing may take; the start of the process counts as one.
    """

    part: str
    command: Sequence[str]
    names: Callable[[str], bool]
    patience: float
    log: Path
    process: subprocess.Popen[bytes] | None = None
    moved: float = 0.0
    known: int = 0
    before: int = -1
    starts: int = 0
    done: bool = field(default=False)


def run(
    records: Records, children: list[Child], *, at_once: int, until: float, told: Callable[[], None]
) -> list[Child]:
    """Run processes, a few at once, until all have ended or time is up; return those that did not end.

    Args:
        records: What they append to.
        children: In the order in which they are begun.
        at_once: How many.
        until: When to stop, of ``time.monotonic``.
        told: Called when something is new.
    """
    waiting, going = list(children), list[Child]()
    last = -1
    try:
        while waiting or going:
            late = time.monotonic() >= until
            if late:
                return going + waiting
            while waiting and len(going) < at_once:
                going.append(_begin(waiting.pop(0), records))
            time.sleep(0.2)
            for child in list(going):
                if _ended(child, records):
                    going.remove(child)
                    if not child.done:
                        waiting.insert(0, child)
            count = len(records.all())
            if count != last:
                last = count
                told()
        return []
    finally:
        for child in going:
            _kill(child)
            for name in _mine(child, records.open(child.part)):
                records.add(Record(child.part, name, failed=CUT))
        told()


@dataclass(frozen=True)
class Command:
    """What is one record as a whole.

    Attributes:
        name: Of the record.
        command: What to run.
        verdict: Of its exit status and what it printed: words, and what failed.
        environment: Beside what this process has.
        limit: Seconds.
    """

    name: str
    command: Sequence[str]
    verdict: Callable[[int, str], tuple[str, str]]
    environment: dict[str, str] = field(default_factory=dict)
    limit: float = 600


def run_commands(
    records: Records, part: str, commands: list[Command], *, log: Path, at_once: int, until: float,
    told: Callable[[], None],
) -> list[Command]:  # fmt: skip
    """Run commands, a few at once, unless the records have them; return those that were not run to their end."""
    known = records.known(part)
    waiting = [one for one in commands if one.name not in known]
    going: list[tuple[Command, subprocess.Popen[bytes], float, Path]] = []
    unfinished: list[Command] = []
    while waiting or going:
        late = time.monotonic() >= until
        if late:
            unfinished += waiting
            waiting = []
        while waiting and len(going) < at_once:
            one = waiting.pop(0)
            path = log.with_name(f"{log.stem}-{part}-{len(known)}.log")
            known.add(one.name)
            with path.open("wb") as to:
                process = subprocess.Popen(
                    one.command, stdout=to, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    env={**os.environ, **one.environment}, start_new_session=True,
                )  # fmt: skip
            records.add(Record(part, one.name, begun=True))
            going.append((one, process, time.monotonic(), path))
        time.sleep(0.2)
        for entry in list(going):
            one, process, begun, path = entry
            slow = time.monotonic() - begun > one.limit
            if process.poll() is None and not (late or slow):
                continue
            cut = process.poll() is None
            if cut:
                _kill_group(process)
            going.remove(entry)
            printed = path.read_text(encoding="utf-8", errors="replace")
            note, failed = one.verdict(process.returncode, printed)
            if cut:
                failed = (
                    f"{CUT if late and not slow else 'too slow'}: ended after {time.monotonic() - begun:.0f} s; {note}"
                )
                unfinished.append(one)
            elif failed and process.returncode < 0:
                failed = f"{_status(process.returncode)}: {failed}"
            records.add(Record(part, one.name, note=short(note), failed=short(failed)))
            told()
    return unfinished


def _begin(child: Child, records: Records) -> Child:
    child.starts += 1
    child.before = _ends(child, records)
    child.moved, child.known = time.monotonic(), -1
    with child.log.open("ab") as log:
        log.write(f"\n--- {' '.join(' '.join(child.command).split())}\n".encode())
        child.process = subprocess.Popen(
            child.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    return child


def _ends(child: Child, records: Records) -> int:
    return sum(one.part == child.part and not one.begun and child.names(one.name) for one in records.all())


def _mine(child: Child, names: Sequence[str]) -> list[str]:
    return [name for name in names if child.names(name)]


def _ended(child: Child, records: Records) -> bool:
    """Whether the process is no longer there; then ``done`` says whether it is not to be begun again."""
    assert child.process is not None
    status = child.process.poll()
    lines = [one for one in records.all() if one.part == child.part and child.names(one.name)]
    if len(lines) != child.known:
        child.known, child.moved = len(lines), time.monotonic()
    hangs = status is None and time.monotonic() - child.moved > child.patience
    if status is None and not hangs:
        return False
    if hangs:
        _kill(child)
        why = f"nothing came for {child.patience:.0f} s: it hangs, and was ended"
    else:
        why = f"the process ended: {_status(status or 0)}; {_last_words(child.log)}"
    lost = _mine(child, records.open(child.part))
    for name in lost:
        records.add(Record(child.part, name, failed=short(why)))
    if status == 0 and not lost:
        child.done = True
        return True
    if _ends(child, records) == child.before:  # it dies before it tries anything: it would do so again
        records.add(Record(child.part, f"{child.part} {' '.join(child.command[-1:])}", failed=short(why)))
        child.done = True
    return True


def _kill(child: Child) -> None:
    """End the process and what it has started; both are ours, in a session of their own."""
    if child.process is not None and child.process.poll() is None:
        _kill_group(child.process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _last_words(log: Path) -> str:
    """The last lines that say something of CUDA, or the last line."""
    printed = log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:]
    lines = [line.strip() for line in printed if line.strip() and not line.startswith("---")]
    told = [line for line in lines if "CUDA" in line or "cuda" in line or "Error" in line]
    return " / ".join((told or lines)[-2:])

"""The check of the runtime operators on a machine with a GPU: ``make gpu-check``.

usage: python -m tests.bench.ops.gpu [--write FILE] [--parts A,B] [--budget SECONDS] [--continue] [--bundle FOLDER]
                                     [--only TEXT] [--small] [--provider cpu] [--at-once N]

Machines with a GPU are lent by the minute, so what is worth most comes first, and each part is processes of its own: a
kernel that reads where it must not takes down no other operator. In this order:

``start``     onnxruntime's CUDA provider: does it run at all? A few standard operators against the CPU.
``equal``     every runtime operator in the CUDA provider against its CPU kernel, bit by bit or within its tolerance,
              plain and as a CUDA graph that is captured and replayed; one process an operator.
``network``   residual networks, optimized and quantized with these operators, against the CPU.
``targets``   the measured peaks of the device, the times that something is asked of, and every shape of an int8 tile.
``times``     a table: time, bandwidth or operations a second, share of the peak, and stock onnxruntime's CUDA provider
              in float16 and float32 on the same shapes.
``suite``     the operators' tests, with every model that has kernels in the CUDA provider; one process a file.
``sanitize``  the small shapes under compute-sanitizer's memcheck, racecheck and synccheck.

What is found is appended to a file beside the page (``.jsonl``) at once, and the page is written anew: whatever ends
this, that stays. ``--continue`` leaves out what stands there. ``--budget`` stops after so many seconds, skips what no
longer fits, and says so. ``--bundle`` is what ``make gpu-bundle`` has made. ``--provider cpu`` tries this script where
there is no GPU. Needs the standard library alone; its processes need more (``gpu_needs.py``).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.ops import gpu_bundle, gpu_needs, gpu_report
from tests.bench.ops.gpu_children import Child, Command, run, run_commands
from tests.bench.ops.gpu_records import PARTS, Record, Records

TOOLS = ("memcheck", "racecheck", "synccheck")

NEEDED = {"start": 0, "equal": 25, "network": 25, "targets": 40, "times": 40, "suite": 60, "sanitize": 60}
"""Seconds below which a part is not begun."""

PATIENCE = 120.0
"""Seconds that one case, or the start of a process, may take before it counts as hanging."""

SANITIZED = 300.0
"""The same under compute-sanitizer."""


class Check:
    """One call of the check."""

    def __init__(self, asked: argparse.Namespace, records: Records, page: Path) -> None:
        self.asked, self.records, self.page = asked, records, page
        self.skipped: dict[str, str] = {}
        self.end = time.monotonic() + asked.budget if asked.budget else float("inf")
        self.log = page.with_suffix(".log")
        self.log.write_bytes(b"")
        self.about = [f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, `make gpu-check`", "", *_machine()]

    def write(self) -> None:
        """Write the page, as a whole."""
        new = self.page.with_name(self.page.name + ".new")
        new.write_text(gpu_report.page(self.records, self.about, self.skipped), encoding="utf-8")
        new.replace(self.page)

    def step(self, part: str, *more: str) -> list[str]:
        """The command of a part."""
        chosen = [f"--provider={self.asked.provider}", f"--only={self.asked.only}", *more]
        if self.asked.small:
            chosen.append("--small")
        if self.asked.bundle:
            chosen.append(f"--bundle={self.asked.bundle}")
        return [sys.executable, "-m", "tests.bench.ops.gpu_step", part, str(self.records.path), *chosen]

    def children(self, part: str, operators: list[str]) -> bool:
        """Run a part whose processes append by themselves; return whether it came to its end."""
        if part == "equal":
            made = [
                Child(
                    part, self.step(part, f"--operator={one}"),
                    lambda name, one=one: name.startswith(f"{one} "), PATIENCE, self.log,
                )
                for one in operators
            ]  # fmt: skip
        else:
            made = [Child(part, self.step(part), lambda _: True, PATIENCE, self.log)]
        at_once = self.asked.at_once if part == "equal" else 1
        left = run(self.records, made, at_once=at_once, until=self.end, told=self.write)
        return not left

    def suite(self) -> bool:
        """The operators' tests, a process a file."""
        left_out = (  # they have no session, or are of another machine
            *("_cuda.py", "test_abi.py", "test_emulator.py", "test_gpu_check.py", "test_install.py"),
            "test_sanitizers.py",
        )
        files = [
            path for path in sorted(Path("tests/runtime_ops").glob("test_*.py")) if not path.name.endswith(left_out)
        ]
        commands = [
            Command(
                path.stem, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
                _tested, {"GRAPHOPT_TEST_PROVIDER": self.asked.provider},
            )
            for path in files
        ]  # fmt: skip
        return not run_commands(
            self.records, "suite", commands, log=self.log, at_once=self.asked.at_once, until=self.end, told=self.write
        )

    def sanitize(self, operators: list[str]) -> bool:
        """The small shapes of every operator under every tool of compute-sanitizer."""
        program = shutil.which("compute-sanitizer")
        if program is None:
            self.records.add(Record("sanitize", "compute-sanitizer", failed="it is not on the PATH"))
            return True
        commands = []
        for tool in TOOLS:
            command = [program, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
            if tool == "memcheck":  # of what other libraries probe for, nothing is to be heard
                command += ["--report-api-errors", "no"]
            for one in operators:
                own = self.records.path.with_name(f"{self.records.path.stem}-{tool}-{one}.jsonl")
                own.unlink(missing_ok=True)
                step = [sys.executable, "-m", "tests.bench.ops.gpu_step", "equal", str(own)]
                chosen = [f"--operator={one}", "--small", f"--only={self.asked.only}"]
                commands.append(
                    Command(
                        f"{tool}, {one}", [*command, *step, *chosen],
                        lambda status, printed, own=own: _sanitized(status, printed, Records(own)), limit=SANITIZED,
                    )
                )  # fmt: skip
        return not run_commands(
            self.records, "sanitize", commands, log=self.log, at_once=self.asked.at_once, until=self.end,
            told=self.write,
        )  # fmt: skip

    def part(self, part: str, operators: list[str]) -> None:
        """Run a part unless there is no time for it; what is wrong with it stands in the records."""
        left = self.end - time.monotonic()
        if left < NEEDED[part]:
            self.skipped[part] = f"{max(0, left):.0f} s were left of --budget, and it wants {NEEDED[part]} at least"
            print(f"-- {PARTS[part]}: skipped, {self.skipped[part]}", flush=True)
            return
        begun = time.monotonic()
        print(f"-- {PARTS[part]}", flush=True)
        if part == "suite":
            whole = self.suite()
        elif part == "sanitize":
            whole = self.sanitize(operators)
        else:
            whole = self.children(part, operators)
        if not whole:
            self.skipped[part] = "--budget was used up in the midst of it; --continue goes on"
        ended = self.records.ended(part)
        bad = sum(bool(one.failed) for one in ended)
        cut = "" if whole else ", NOT COMPLETE"
        print(f"   {len(ended)} tried, {bad} failed, {time.monotonic() - begun:.0f} s{cut}", flush=True)
        self.write()


def _machine() -> list[str]:
    """Python, and what the driver's own program says of the device."""
    lines = [f"* Python {platform.python_version()}, {os.cpu_count()} processors"]
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30).stdout
            lines += [f"* {line.strip()}" for line in said.splitlines() if line.strip()]
        except (OSError, subprocess.TimeoutExpired):
            lines.append("* nvidia-smi does not answer")
    return lines


def _tested(status: int, printed: str) -> tuple[str, str]:
    lines = printed.strip().splitlines() or ["nothing was said"]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    if status == 5:
        return "no test is for it here", ""
    return lines[-1], "" if status == 0 else "; ".join([*failed[:3], lines[-1]])


def _sanitized(status: int, printed: str, records: Records) -> tuple[str, str]:
    lines = [line.strip("= ").strip() for line in printed.splitlines() if line.startswith("=========")]
    wrong = [f"{one.name}: {one.failed}" for one in records.ended() if one.failed]
    if not records.ended():
        return "", "nothing was run: " + " / ".join(printed.strip().splitlines()[-2:])
    last = lines[-1] if lines else ""
    if status == 0 and not wrong:
        return f"clean; {len(records.ended())} cases; {last}", ""
    errors = [line for line in lines if re.search(r"Invalid|Race|Error|Barrier|hazard|Leaked", line)]
    return last, "; ".join([*errors[:2], *wrong[:2], last]) or f"exit status {status}"


def operators_of(library: str, provider: str) -> list[str]:
    """The operators of a library that have kernels in a provider; asked of it in a process of its own."""
    program = (
        "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).graphopt_kernels; "
        "f.restype = ctypes.c_char_p; print(f().decode())"
    )
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    return sorted({name for name, where, _ in lines if where == provider})


def main(arguments: list[str]) -> int:
    """Run what was asked for; return how many failed, 100 at most."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops.gpu")
    parser.add_argument("--write", type=Path, default=Path("build/gpu/RESULTS.md"))
    parser.add_argument("--parts", default="start,equal,network,targets,times", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--budget", type=float, default=0.0, help="seconds; none: as long as it takes")
    parser.add_argument("--continue", dest="again", action="store_true", help="leave out what the records have")
    parser.add_argument("--bundle", type=Path, help="a folder that make gpu-bundle has made")
    parser.add_argument("--only", default="", help="operators and shapes whose names contain this")
    parser.add_argument("--small", action="store_true", help="small shapes alone")
    parser.add_argument("--provider", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--at-once", type=int, default=max(1, min(4, (os.cpu_count() or 1) // 2)))
    asked = parser.parse_args(arguments)
    wanted = list(PARTS) if asked.parts == "all" else asked.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    cuda = asked.provider == "cuda"
    problems = [why] if cuda and (why := gpu_needs.device()) else []
    if not problems:  # without a device, nothing else matters
        problems += gpu_bundle.enter(asked.bundle) if asked.bundle else []
    if not problems:
        problems += gpu_needs.ask(tests="suite" in wanted, cuda=cuda)
        library = os.environ.get("GRAPHOPT_OPS_LIBRARY", "")
        problems += [why] if (why := gpu_needs.library(library, asked.provider)) else []
    for problem in problems:
        print(f"gpu-check cannot run here: {problem}", file=sys.stderr)
    if problems:
        return 1

    page = asked.write.resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    records = Records(page.with_suffix(".jsonl"))
    if not asked.again:
        records.path.unlink(missing_ok=True)
    check = Check(asked, records, page)
    operators = operators_of(os.environ["GRAPHOPT_OPS_LIBRARY"], asked.provider)
    for part in (one for one in PARTS if one in wanted):
        check.part(part, operators)
        tried = [one for one in records.ended("start") if not one.name.startswith("about")]
        if part == "start" and all(one.failed for one in tried):
            check.skipped |= {one: "onnxruntime's provider does not run here" for one in wanted if one != "start"}
            break
    check.write()
    text = page.read_text(encoding="utf-8")
    print(f"\n{text.split('## In short')[1].split('## ')[0].strip()}\n\nThe page is {asked.write}")
    failures = [one for one in records.ended() if one.failed]
    print(f"{len(failures)} failed" + "".join(f"\n* {one.part}: {one.name}: {one.failed}" for one in failures))
    return min(len(failures), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`graphopt calibrate-target`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt calibrate-target`, and from then on `graphopt optimize` plans for this machine"

_TARGETS = ("cpu", "cuda")

_UNITS = {"lanes": "channels", "multiple": "channels"}


def command(
    target: Annotated[
        str, typer.Option(metavar="cpu|cuda", help="Whose figures to measure; its provider has to run here.")
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.json", help="Where to write them.", show_default="where optimize looks"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Measuring time of each of about fifteen small models.", min=0.01)
    ] = 0.3,
    json: options.Json = False,
) -> None:
    """Measure what operators cost on this machine, in a few seconds; the plan of `optimize` reckons with it."""
    options.one_of(target, _TARGETS, "--target")
    from graphopt import targets
    from graphopt.report import json as report_json
    from graphopt.report import table
    from graphopt.targets.measure import measure

    path = targets.file_of(target) if output is None else output
    if output is None:
        _folder(path.parent)
    options.writable(path, "-o")
    with terminal.progress() as step:
        figures = measure(target, seconds, step)
    targets.write(figures, path)
    found = dataclasses.asdict(figures)
    if json:
        typer.echo(report_json.dumps({"target": target, "file": str(path), "costs": found}))
        return
    shipped = dataclasses.asdict(targets.DEFAULTS[target])
    terminal.output().print(
        table.listing(
            ("figure", "measured", "shipped", "unit"),
            [(name, f"{found[name]:.4g}", f"{shipped[name]:.4g}", _UNITS.get(name, "ns")) for name in found],
            numbers=(1, 2),
        )
    )
    typer.echo(f"\nwrote {path}")


def _folder(folder: Path) -> None:
    """Make the folder for measured figures; what prevents it is said by the check that follows."""
    import contextlib

    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)

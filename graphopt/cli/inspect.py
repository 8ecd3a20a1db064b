"""`graphopt inspect MODEL`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt inspect pruned.onnx`; for a script: `graphopt inspect pruned.onnx --json`"


def command(
    model: options.Model,
    json: options.Json = False,
    no_assume_finite: options.NoAssumeFinite = False,
    every: Annotated[bool, typer.Option("--all", help="Show every row instead of the first ones.")] = False,
) -> None:
    """Show what is masked, dead or constant, what could be saved, and what prevents the rest."""
    from graphopt import inspection

    with terminal.progress() as step:
        step(f"reading {model.name}")
        found = inspection.inspect(model, assume_finite=not no_assume_finite)

    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps(found))
        return

    from graphopt.report import table

    table.show_inspection(found, terminal.output(), rows=None if every else table.ROWS)

"""`graphopt verify A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt verify pruned.onnx small.onnx --samples 16`"


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The original.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.", show_default=False)],
    data: options.Data = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            help="How many input sets to compare on (default: all of --data, or 4 that are drawn).",
            min=1,
            show_default=False,
            rich_help_panel=options.VERIFICATION,
        ),
    ] = None,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    seed: options.Seed = 0,
    shape: options.Shapes = None,
    json: options.Json = False,
) -> None:
    """Are the two models the same function? Prints the worst error and where; the status is 3 if they are not."""
    shapes = options.read_shapes(shape)

    from graphopt.verify import verify

    with terminal.progress() as step:
        step(f"comparing {a.name} and {b.name}")
        report = verify(a, b, data=data, samples=samples, shapes=shapes, rtol=rtol, atol=atol, seed=seed)

    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps(report))
    else:
        from graphopt.report import table

        console = terminal.output()
        console.print(table.outputs(report))
        table.show_verification(report, console)
    if not report.passed:
        raise typer.Exit(3)

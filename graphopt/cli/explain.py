"""`graphopt explain MODEL NODE|VALUE`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt explain pruned.onnx conv2d_3`; `graphopt inspect` shows the names"


def command(
    model: options.Model,
    name: Annotated[
        str, typer.Argument(metavar="NODE|VALUE", help="The name of a node or of a value.", show_default=False)
    ],
    json: options.Json = False,
) -> None:
    """Which facts hold at a node or value, which rule declined there, and why."""
    from graphopt import inspection

    with terminal.progress() as step:
        step(f"reading {model.name}")
        explanation = inspection.explain(model, name)

    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps(explanation))
        return

    console = terminal.output()
    console.print(f"{explanation.kind} {explanation.name}", style="bold")
    if explanation.source_line:
        console.print(f"  --> {explanation.source_line}", style="dim")
    for title, lines, nothing in (
        ("What is known", explanation.facts, "nothing: every position may hold anything, and is needed"),
        ("What was declined, and why", explanation.declined, "nothing"),
    ):
        console.print(f"\n{title}", style="bold")
        for line in lines or [nothing]:
            console.print(f"  {line}")

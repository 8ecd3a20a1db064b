"""`graphopt ops`."""

from __future__ import annotations

from pathlib import Path

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt ops`"


def command(json: options.Json = False) -> None:
    """List the runtime operators and whether their library is loaded."""
    names = installed()
    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps({"ops": [{"name": name} for name in names], "library": None}))
        return
    if not names:
        typer.echo(
            "no runtime operators: this version writes models of standard ONNX operators only, which need no library"
        )
        return
    from graphopt.report import table

    terminal.output().print(table.listing(("operator",), ((name,) for name in names)))


def installed() -> list[str]:
    """The operators that came with this installation: each is a folder with its definition."""
    from graphopt import runtime_ops

    home = Path(runtime_ops.__file__).parent
    return sorted(folder.name for folder in home.iterdir() if (folder / "definition.py").is_file())

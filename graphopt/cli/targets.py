"""`graphopt targets`."""

from __future__ import annotations

import dataclasses

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt targets`, then `graphopt optimize MODEL -o OUT --target portable`"

_MEANING = {
    "cpu": ("onnxruntime's CPU provider", "CPUExecutionProvider"),
    "cuda": ("onnxruntime's CUDA provider", "CUDAExecutionProvider"),
    "portable": ("any runtime: standard ONNX operators only, no choice that favours one machine", None),
}


def command(json: options.Json = False) -> None:
    """List what `--target` may be, whether onnxruntime can run it here, and the figures its plan reckons with."""
    from graphopt import runtime, targets

    available = runtime.onnxruntime.get_available_providers()
    rows = [
        {
            "name": name,
            "meaning": _MEANING[name][0],
            "runs_here": _MEANING[name][1] in (None, *available),
            "figures": "none"
            if name == "portable"
            else str(targets.file_of(name))
            if targets.file_of(name).is_file()
            else "shipped",
            "costs": dataclasses.asdict(targets.costs(name)),
        }
        for name in targets.TARGETS
    ]
    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps({"targets": rows}))
        return

    from graphopt.report import table, words

    terminal.output().print(
        table.listing(
            ("target", "runs here", "figures", "for"),
            ((str(row["name"]), words.yes(bool(row["runs_here"])), str(row["figures"]), str(row["meaning"]))
             for row in rows),
        )
    )  # fmt: skip
    typer.echo("\nThe figures of this machine: graphopt calibrate-target")

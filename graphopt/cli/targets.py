"""`graphopt targets`."""

from __future__ import annotations

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt targets`, then `graphopt optimize MODEL -o OUT --target portable`"

_MEANING = {
    "cpu": ("onnxruntime's CPU provider", "CPUExecutionProvider"),
    "cuda": ("onnxruntime's CUDA provider", "CUDAExecutionProvider"),
    "portable": ("any runtime: standard ONNX operators only, no choice that favours one machine", None),
}


def command(json: options.Json = False) -> None:
    """List what `--target` may be, and whether onnxruntime can run it on this machine."""
    from graphopt import runtime

    available = runtime.onnxruntime.get_available_providers()
    rows = [
        {"name": name, "meaning": _MEANING[name][0], "runs_here": _MEANING[name][1] in (None, *available)}
        for name in options.TARGETS
    ]
    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps({"targets": rows}))
        return

    from graphopt.report import table, words

    terminal.output().print(
        table.listing(
            ("target", "runs here", "for"),
            ((str(row["name"]), words.yes(bool(row["runs_here"])), str(row["meaning"])) for row in rows),
        )
    )

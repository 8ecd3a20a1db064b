"""`graphopt bench A [B …]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options, terminal
from graphopt.errors import ModelError

EXAMPLE = "Example: `graphopt bench pruned.onnx small.onnx --shape images=1,3,224,224`"


def command(
    models: Annotated[
        list[Path], typer.Argument(metavar="A [B …]", help="ONNX files; ratios are to the first.", show_default=False)
    ],
    provider: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to run them.")] = "cpu",
    threads: Annotated[int, typer.Option(metavar="N", help="Threads inside an operator.", min=1)] = 1,
    shape: options.Shapes = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="How long to measure each model.", min=0.0)] = 2.0,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure latency in onnxruntime: interleaved runs, medians, spread, and the ratio to the first model."""
    options.one_of(provider, options.PROVIDERS, "--provider")
    shapes = options.read_shapes(shape)

    from graphopt.bench import bench

    with terminal.progress() as step:
        step(f"measuring {len(models)} model{'s' if len(models) > 1 else ''}")
        try:
            report = bench(*models, provider=provider, threads=threads, shapes=shapes, seconds=seconds, seed=seed)
        except ModelError as refusal:
            raise _named(refusal, models, provider) from refusal

    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps(report))
        return
    from graphopt.report import table

    terminal.output().print(table.latencies(report))


def _named(refusal: ModelError, models: Sequence[Path], provider: str) -> ModelError:
    """The refusal with the file that caused it: onnxruntime does not say which of several models it refused."""
    from graphopt import runtime

    if refusal.where is None:
        for path in models:
            try:
                runtime.session(path, provider=provider)
            except ModelError as found:
                return ModelError(found.what, found.where or str(path), found.help)
    return refusal

"""`graphopt optimize MODEL -o OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import options, quantizing, terminal
from graphopt.errors import UsageError

EXAMPLE = "Example: `graphopt optimize pruned.onnx -o small.onnx --report small.html`"

TARGETS = ("cpu", "cuda", "portable")  # as graphopt.targets has them; importing that is not for --help


def command(
    model: options.Model,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", help="Where to write the result; may be MODEL itself."),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda|portable",
            help="What it shall run on; portable: standard operators, no choice that favours one machine.",
        ),
    ] = "cpu",
    plan: Annotated[
        str, typer.Option(metavar="smallest|fastest", help="Fewest parameters, or least measured latency.")
    ] = "fastest",
    passes: Annotated[
        str | None,
        typer.Option(
            "-p", "--passes", metavar="PASSES", help='Run just these, e.g. "fold-masks,narrow{align=16},coalesce".'
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Read the passes and options from a file instead.")
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="OPTIONS",
            help='Then quantize what is left, e.g. "int8" or "weights=int4,activations=none": the options of '
            "`graphopt quantize`, separated by commas.",
            show_default=False,
            rich_help_panel="Quantization",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|FILE.npz|PKG.MODULE:ITERABLE",
            help="Calibration data for --quantize, as `graphopt quantize` takes it.",
            show_default=False,
            rich_help_panel="Quantization",
        ),
    ] = None,
    operators: options.Operators = None,
    no_assume_finite: options.NoAssumeFinite = False,
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not compare the result with the original in onnxruntime.",
            rich_help_panel=options.VERIFICATION,
        ),
    ] = False,
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure",
            help="Do not time the result against MODEL, nor fall back where it is slower.",
            rich_help_panel=options.VERIFICATION,
        ),
    ] = False,
    samples: options.Samples = 4,
    rtol: options.Rtol = None,
    atol: options.Atol = None,
    seed: options.Seed = 0,
    shape: options.Shapes = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write what was done as one HTML page.", rich_help_panel=options.FILES),
    ] = None,
    json: options.JsonFile = None,
    save_external: options.SaveExternal = False,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed",
            help="Write OUT even when verification fails (the status is still 3).",
            rich_help_panel=options.VERIFICATION,
        ),
    ] = False,
) -> None:
    """Remove masks, shrink, coalesce, plan for the target, prove the result equal and measure that it is not slower."""
    options.one_of(target, TARGETS, "--target")
    options.one_of(plan, options.PLANS, "--plan")
    if passes is not None and recipe is not None:
        raise UsageError("-p and --recipe exclude each other", where="graphopt optimize", help="give one of the two")
    if data is not None and quantize is None:
        raise UsageError(
            "--data is for --quantize", where="graphopt optimize", help='say how to quantize, e.g. --quantize "int8"'
        )
    shapes = options.read_shapes(shape)
    json_file = options.results(model, output, report, json, data=data, recipe=recipe)

    from graphopt import pipeline
    from graphopt.report import html, table, table_quantized
    from graphopt.report import json as report_json

    with options.by_option(), terminal.progress() as step:
        result = pipeline.optimize(
            model,
            target=target,
            plan=plan,
            passes=passes,
            recipe=recipe,
            assume_finite=not no_assume_finite,
            verify=not no_verify,
            measure=not no_measure,
            samples=samples,
            rtol=rtol,
            atol=atol,
            seed=seed,
            shapes=shapes,
            keep_failed=keep_failed,
            operators=operators,
            quantize=_quantization(quantize, data, target),
            data=data,
            progress=step,
        )
        step(f"writing {output.name}")
        result.save(output, external=True if save_external else None)

    if report is not None:
        html.write(result.report, report)
    if json_file is not None:
        report_json.write(result.report, json_file)
    if json == options.STANDARD_OUTPUT:
        typer.echo(report_json.dumps(result.report))
    else:
        table.show(result.report, terminal.output())
        if result.report.quantize is not None:
            table_quantized.show_part(result.report, terminal.output())
        typer.echo(f"\nwrote {', '.join(str(path) for path in (output, report, json_file) if path is not None)}")

    verdict = result.report.verify
    if verdict is not None and not verdict.passed:
        print(
            f"error: the result is not the same function; {output} was written because of --keep-failed",
            file=sys.stderr,
        )
        raise typer.Exit(3)


def _quantization(text: str | None, data: str | None, target: str) -> dict[str, Any] | None:
    """The options of --quantize by name; None where nothing shall be quantized."""
    if text is None:
        return None
    from graphopt.quantization.text import options as read

    found = read(text)
    needed = quantizing.needs_data(found.get("target", target), found.get("activations"))
    if data is None and needed and not found.get("random_data"):
        raise UsageError(quantizing.NO_DATA, where="--quantize", help=quantizing.WHAT_DATA)
    return found

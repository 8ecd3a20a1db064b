"""`graphopt quantize MODEL -o OUT --data DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options, quantizing, terminal
from graphopt.errors import UsageError

EXAMPLE = (
    "Example: `graphopt quantize model.onnx -o model.int8.onnx --data calib/`; "
    "before there is data, `--dry-run` shows what would run on integers"
)

TARGETS = ("cpu", "cuda", "tensorrt", "portable")  # as graphopt.quantization has them; that is not imported for --help
METHODS = ("mse", "minmax", "percentile", "entropy")

_TYPES = "Types"
_DATA = "Data"
_RECOVERY = "Accuracy"


def command(
    model: options.Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Where to write the result; may be MODEL itself.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|FILE.npz|PKG.MODULE:ITERABLE",
            help="What the model will meet, a few hundred samples: a .npz with one array per input (samples first), a "
            "folder of such files (one batch each), or an iterable of dictionaries of arrays.",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda|tensorrt|portable",
            help="What it shall run on; decides which operators, in which types (`graphopt targets`).",
        ),
    ] = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show which operators would run on integers; needs no data, no -o."),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="int8|int4|…",
            help="Type of weights: int2 … int16, uint2 … uint16, ternary, float8e4m3fn, levelsN "
            "(default: the target's).",
            show_default=False,
            rich_help_panel=_TYPES,
        ),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="uint8|…|none",
            help="Type of activations; none: weights only, which needs no data (default: the target's).",
            show_default=False,
            rich_help_panel=_TYPES,
        ),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Use just N levels of a type, e.g. 3, 16 or 23.",
            min=2,
            max=65536,
            show_default=False,
            rich_help_panel=_TYPES,
        ),
    ] = None,
    per_channel: Annotated[
        bool,
        typer.Option(
            "--per-channel/--per-tensor",
            help="A scale for each output channel of a weight, or one for all.",
            rich_help_panel=_TYPES,
        ),
    ] = True,
    block: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Weights only: so many inputs share a scale.",
            min=1,
            rich_help_panel=_TYPES,
        ),
    ] = 32,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE|GLOB",
            help="Operators that stay in float, by name or pattern; repeat it for more.",
            show_default=False,
            rich_help_panel=_TYPES,
        ),
    ] = None,
    operators: options.Operators = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            help="Quantize what the target has kernels for even where that does not pay (for size, or to look at it).",
            rich_help_panel=_TYPES,
        ),
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="mse|minmax|percentile|entropy",
            help="How scales are found; mse: least squared error.",
            rich_help_panel=_RECOVERY,
        ),
    ] = "mse",
    percent: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="With --method percentile: this part of the numbers is not clipped, in percent (default: 99.99).",
            show_default=False,
            rich_help_panel=_RECOVERY,
        ),
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="PASSES",
            help='Passes that win accuracy back, e.g. "smooth-quant,gptq,bias-correction" (`graphopt passes`); '
            "none: none (default: widen-ranges and bias-correction, where they help).",
            show_default=False,
            rich_help_panel=_RECOVERY,
        ),
    ] = None,
    target_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Return operators to more bits until the outputs have this ratio of signal to noise, in decibels.",
            show_default=False,
            rich_help_panel=_RECOVERY,
        ),
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The same until --evaluate returns so much.",
            show_default=False,
            rich_help_panel=_RECOVERY,
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            metavar="PKG.MODULE:FUNCTION",
            help="Is called with a session of the model and returns its accuracy, larger is better.",
            show_default=False,
            rich_help_panel=_RECOVERY,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            help="Calibrate on so many samples (default: all).",
            min=1,
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = None,
    random_data: Annotated[
        bool,
        typer.Option(
            "--random-data",
            help="Calibrate on random numbers. The scales are then those of noise: for trying things out only.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(metavar="N", help="Processes that run the model.", min=1, rich_help_panel=_DATA),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local",
            help="Run it on a Ray cluster instead (needs the `ray` extra).",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what was calibrated in a folder, and go on from there after an interruption.",
            show_default=False,
            rich_help_panel=_DATA,
        ),
    ] = None,
    seed: options.Seed = 0,
    shape: options.Shapes = None,
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify",
            help="Do not compare the outputs with those of the float model.",
            rich_help_panel=options.VERIFICATION,
        ),
    ] = False,
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure",
            help="Do not time the result against MODEL, nor quantize less where it is slower.",
            rich_help_panel=options.VERIFICATION,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write what was done as one HTML page, with the histograms of the worst tensors.",
            show_default=False,
            rich_help_panel=options.FILES,
        ),
    ] = None,
    json: options.JsonFile = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw the histogram of every quantized tensor with its range: .svg, and .png with the `plots` extra.",
            show_default=False,
            rich_help_panel=options.FILES,
        ),
    ] = None,
    save_external: options.SaveExternal = False,
) -> None:
    """Run on integers what runs faster so, with scales that lose least of what your data holds.

    Puts QuantizeLinear and DequantizeLinear where the target has integer kernels, and nowhere else; says what that
    costs in accuracy and how much faster it is.
    """
    options.one_of(target, TARGETS, "--target")
    options.one_of(method, METHODS, "--method")
    if percent is not None and method != "percentile":
        raise UsageError(
            f"a part of the numbers for percentile, not {method}", where="--percent", help="add --method percentile"
        )
    shapes = options.read_shapes(shape)
    quantizing.complete(output, data, random_data, activations, target, dry_run)
    quantizing.pairs(workers, ray, target_accuracy, evaluate, data, random_data)
    json_file = options.results(model, output, report, json, data=data)
    for option, path in (("--plots", plots), ("--resume", resume)):
        if path is not None:
            options.folder(path, option)

    from graphopt.calibrate.percentile import USUAL
    from graphopt.quantization.pipeline import quantize
    from graphopt.report import html, table_quantized
    from graphopt.report import json as report_json

    with options.by_option(), terminal.progress() as step:
        result = quantize(
            model,
            data,
            target=target,
            weights=weights,
            activations=activations,
            method=method,  # type: ignore[arg-type]
            percent=USUAL if percent is None else percent,
            levels=levels,
            per_channel=per_channel,
            block=block,
            exclude=tuple(exclude or ()),
            operators=operators,
            everything=everything,
            recover=recover,
            target_sqnr=target_sqnr,
            target_accuracy=target_accuracy,
            evaluate=evaluate,
            workers=workers,
            ray=ray,
            resume=resume,
            samples=samples,
            seed=seed,
            random_data=random_data,
            shapes=shapes,
            verify=not no_verify,
            measure=not no_measure,
            plots=plots,
            dry_run=dry_run,
            progress=step,
        )
        if not dry_run and output is not None:
            step(f"writing {output.name}")
            result.save(output, external=True if save_external else None)

    found = result.report
    if report is not None:
        html.write(found, report)
    if json_file is not None:
        report_json.write(found, json_file)
    if json == options.STANDARD_OUTPUT:
        typer.echo(report_json.dumps(found))
        return
    console = terminal.output()
    if dry_run:
        assert found.quantize is not None
        table_quantized.show_placement(found.quantize, console)
    else:
        table_quantized.show(found, console)
    written = [str(path) for path in (None if dry_run else output, report, json_file, plots) if path is not None]
    if written:
        typer.echo(f"\nwrote {', '.join(written)}")
    if plots is not None and not dry_run:
        _note_on_plots()


def _note_on_plots() -> None:
    from graphopt.report import plots as drawn

    if not drawn.with_png():
        typer.echo(drawn.MISSING)

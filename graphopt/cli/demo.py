"""`graphopt demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import options, terminal

if TYPE_CHECKING:
    from graphopt.demo import Story

EXAMPLE = "Example: `graphopt demo --out story`, then open report.html in that folder"


def command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to leave the files.")] = Path("graphopt-demo"),
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """The whole story on a small net, offline: train, prune, export, optimize, quantize, verify, measure.

    Needs torch and scikit-learn: pip install "graphopt[train]".
    """
    if out.exists() and not out.is_dir():
        from graphopt.errors import GraphoptError

        raise GraphoptError(f"{out} is a file", where="--out", help="name a folder, it is made if it is missing")
    options.writable(out / "report.html" if out.is_dir() else out, "--out")

    from graphopt import demo

    with terminal.progress() as step:
        story = demo.tell(
            out,
            seed=seed,
            say=(lambda line: None) if json else (lambda line: step.note(f"✓ {line}")),
            progress=step,
        )
    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps(story))
    else:
        _show(story)


def _show(story: Story) -> None:
    from graphopt.report import table, words

    _, pruned, _, quantized = story.stages
    console = terminal.output()
    rows = [
        ("parameters", *(words.count(stage.parameters) for stage in story.stages)),
        ("multiply-adds", *(words.count(stage.macs) for stage in story.stages)),
        ("file", *(words.size(stage.bytes) for stage in story.stages)),
        ("latency", *(f"{stage.latency_ms:.3f} ms" for stage in story.stages)),
        ("accuracy", *(f"{stage.accuracy:.1%}" for stage in story.stages)),
    ]
    changes = (
        words.change(pruned.parameters, quantized.parameters),
        words.change(pruned.macs, quantized.macs),
        words.change(pruned.bytes, quantized.bytes),
        f"{story.speedup * story.quantized_speedup:.2f} times as fast",
        "the same" if quantized.accuracy == pruned.accuracy else f"{quantized.accuracy - pruned.accuracy:+.1%}",
    )
    console.print()
    console.print(
        table.listing(
            ("", "trained", "pruned", "optimized", "quantized", "pruned → quantized"),
            ([*row, change] for row, change in zip(rows, changes, strict=True)),
            numbers=(1, 2, 3, 4, 5),
        )
    )
    console.print(
        f"\nPruned by masks, a net is as slow as before, and its file holds the masks too. Without them it answers the "
        f"same on all {story.test_images} test images ({story.different_predictions} predictions differ), "
        f"{story.speedup:.2f} times as fast. In 8-bit integers it is {story.quantized_speedup:.2f} times as fast as "
        f"that; {story.quantized_differently} of {story.test_images} predictions differ.\n"
        f"That took {words.seconds(story.seconds)}. Try next:\n"
    )
    folder = Path(story.folder)
    before, after = folder / "pruned.onnx", folder / "optimized.onnx"
    for does, line in (
        ("what was masked", f"graphopt inspect {before}"),
        ("the fewest parameters", f"graphopt optimize {before} -o {folder / 'small.onnx'} --plan smallest"),
        ("the same function?", f"graphopt verify {before} {after} --data {folder / 'test_images.npz'}"),
        ("what runs on integers", f"graphopt quantize {after} --dry-run"),
        ("how fast?", f"graphopt bench {before} {after} {folder / 'quantized.onnx'} --shape image=16,1,8,8"),
        ("what was done", f"open {folder / 'report.html'} and {folder / 'quantized.html'} in a browser"),
        ("your own net", "graphopt optimize YOURS.onnx -o small.onnx --report small.html"),
        ("on integers", "graphopt quantize small.onnx -o small.int8.onnx --data YOUR_SAMPLES.npz"),
    ):
        console.print(f"  {does:<22} {line}", soft_wrap=True)

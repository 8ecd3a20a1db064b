"""What the commands that train have in common: `prune`, `quantize-train`, `binarize`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import options, terminal

if TYPE_CHECKING:
    from graphopt.report.training import TrainingReport

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE.yaml",
        help="A recipe, or the name of a family that comes with one: mlp_digits, resnet_digits, …",
        show_default=False,
    ),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="The ONNX file to write.", show_default=False)
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where checkpoints and the files on the way lie (default: beside OUT, OUT's name with .training).",
        show_default=False,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Instead of what the recipe says, e.g. train.epochs=3; repeat it for more.",
        show_default=False,
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, whatever is in the folder.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", help="Seed of the random numbers (default: the recipe's).", min=0, show_default=False
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.html",
        help="Write what was done as one HTML page.",
        show_default=False,
        rich_help_panel=options.FILES,
    ),
]

_NEEDED = {"torch": "torch", "onnxscript": "onnxscript"}


def run(
    method: str,
    recipe: str,
    output: Path,
    folder: Path | None,
    changes: list[str] | None,
    restart: bool,
    seed: int | None,
    json: bool,
    report: Path | None,
) -> None:
    """Run a method by a recipe, and print what came of it.

    Raises:
        GraphoptError: See `graphopt.train.run.Run`; what can be seen beforehand is said before anything is trained.
    """
    require(method)
    where = output.with_suffix(".training") if folder is None else folder
    options.distinct({"RECIPE": Path(recipe), "-o": output, "--report": report, "--folder": where})
    options.writable(output, "-o")
    if report is not None:
        options.writable(report, "--report")
    options.folder(where, "--folder")

    from graphopt.report import html_training
    from graphopt.report import json as report_json
    from graphopt.train import recipe as recipes
    from graphopt.train.run import Run

    read = recipes.load(recipe, changes or (), seed)
    try:
        with terminal.progress() as step:
            say = (lambda line: None) if json else (lambda line: step.note(f"✓ {line}"))
            found = Run(method, read, where, restart=restart, say=say, progress=step)(output)
    except KeyboardInterrupt:
        note = f"what is done is kept in {where}: the same command goes on from there"
        terminal.diagnostics().print(note, soft_wrap=True)
        raise
    if found is None:  # another process of torchrun prints
        return
    if report is not None:
        html_training.write(found, report)
    if json:
        typer.echo(report_json.dumps(found))
        return
    _show(found, recipe, [str(path) for path in (output, report) if path is not None])


def require(method: str) -> None:
    """Raises DependencyError that says what to install when something that trains is missing."""
    missing = [package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        from graphopt.errors import DependencyError

        raise DependencyError(
            f"{method} trains a net, and needs {' and '.join(missing)}",
            where=f"graphopt {method}",
            help='pip install "graphopt[train]"; the optimizer itself works without',
        )


def _show(found: TrainingReport, recipe: str, written: list[str]) -> None:
    from graphopt.report import table, words

    first, last = found.stages[0], found.stages[-1]
    console = terminal.output()
    rows = [
        (
            "parameters",
            *(words.count(one.parameters) for one in found.stages),
            words.change(first.parameters, last.parameters),
        ),
        ("multiply-adds", *(words.count(one.macs) for one in found.stages), words.change(first.macs, last.macs)),
        ("file", *(words.size(one.bytes) for one in found.stages), words.change(first.bytes, last.bytes)),
        (
            "latency",
            *(words.milliseconds(one.latency_ms) for one in found.stages),
            f"{found.speedup:.2f} times as fast",
        ),
        (
            found.figure,
            *(words.figure(found.figure, one.figure) for one in found.stages),
            _apart(found.figure, last.figure - first.figure),
        ),
    ]
    titles = ("", *(one.name for one in found.stages), f"{first.name} → {last.name}")
    console.print()
    console.print(table.listing(titles, rows, numbers=range(1, len(titles))))
    if found.method == "prune":
        console.print("\nIn the pruned file weights are multiplied by masks, which count as parameters too.")
    console.print(f"\nThat took {words.seconds(found.seconds)}. Try next:\n")
    for does, line in (
        ("what is in it", f"graphopt inspect {written[0]}"),
        ("how fast?", f"graphopt bench {first.path} {written[0]}"),
        ("train longer", f"graphopt {found.method} {recipe} --set train.epochs=… -o other.onnx"),
    ):
        console.print(f"  {does:<22} {line}", soft_wrap=True)
    typer.echo(f"\nwrote {', '.join(written)}")


def _apart(name: str, difference: float) -> str:
    if not difference:
        return "the same"
    return f"{100 * difference:+.2f} points" if name == "accuracy" else f"{difference:+.3g}"

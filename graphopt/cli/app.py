"""Puts the commands together."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import (
    bench,
    binarize,
    calibrate_target,
    demo,
    explain,
    export,
    inspect,
    ops,
    optimize,
    passes,
    prune,
    quantize,
    quantize_train,
    targets,
    verify,
)

_START = "Start here"
_WORK = "Work on a model"
_TRAIN = "Train a model that is small"
_CHECK = "Look and check"
_KNOW = "What is there"


def application() -> typer.Typer:
    """All commands, in the order in which a new user needs them."""
    app = typer.Typer(
        name="graphopt",
        help="Turns pruned, masked ONNX models into smaller dense models that compute the same function.",
        epilog="New here? `graphopt demo` shows the whole story; `graphopt COMMAND --help` has an example.",
        rich_markup_mode="markdown",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for name, module, panel in (
        ("demo", demo, _START),
        ("inspect", inspect, _WORK),
        ("optimize", optimize, _WORK),
        ("quantize", quantize, _WORK),
        ("export", export, _WORK),
        ("prune", prune, _TRAIN),
        ("quantize-train", quantize_train, _TRAIN),
        ("binarize", binarize, _TRAIN),
        ("verify", verify, _CHECK),
        ("bench", bench, _CHECK),
        ("explain", explain, _CHECK),
        ("passes", passes, _KNOW),
        ("ops", ops, _KNOW),
        ("targets", targets, _KNOW),
        ("calibrate-target", calibrate_target, _KNOW),
    ):
        app.command(name, rich_help_panel=panel, epilog=module.EXAMPLE)(module.command)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from graphopt import __version__

        typer.echo(f"graphopt {__version__}")
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)

"""`graphopt export PKG.MODULE:FACTORY -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import options, terminal

EXPORTERS = ("dynamo", "torchscript")

EXAMPLE = (
    "Example: `graphopt export my_net:build -o net.onnx --input x=float32[1,3,32,32] --dynamic x=0:batch` "
    "(quote the brackets where the shell wants it)"
)


def command(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="PKG.MODULE:FACTORY",
            help="A torch module, an ExportedProgram, or a function that returns one (or the module and its inputs).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="The ONNX file to write.", show_default=False)
    ],
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=float32[1,3,32,32]",
            help="Type and shape of an example input; repeat it in the order of the inputs.",
            show_default=False,
        ),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option("--dynamic", metavar="NAME=0:batch", help="An axis whose size is left open.", show_default=False),
    ] = None,
    exporter: Annotated[
        str, typer.Option(metavar="dynamo|torchscript", help="torch.export, or tracing for what it refuses.")
    ] = "dynamo",
    opset: Annotated[
        int | None, typer.Option(help="Operator set version (default: the exporter's).", min=7, show_default=False)
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not compare the model with the module.")] = False,
    seed: options.Seed = 0,
) -> None:
    """Turn a torch module into ONNX with its masks left visible, compared with the module before it is written.

    Needs torch: pip install "graphopt[export]".
    """
    options.one_of(exporter, EXPORTERS, "--exporter")
    options.writable(output, "-o")

    from graphopt import model as model_io
    from graphopt.torch_export import export_target

    chosen: Any = exporter
    with terminal.progress() as step:
        step(f"exporting {factory}")
        model = export_target(
            factory, input_ or (), dynamic or (), exporter=chosen, opset=opset, verify=not no_verify, seed=seed
        )
        step(f"writing {output.name}")
        model_io.save(model, output)
    typer.echo(f"wrote {output}\nnext: graphopt inspect {output}")

"""`graphopt ops [NAME]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import options, terminal
from graphopt.errors import UsageError, nearest

if TYPE_CHECKING:
    from graphopt.runtime_ops import Operator

EXAMPLE = "Example: `graphopt ops`, then `graphopt ops Gather`"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the definition of one.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """List the runtime operators, their native kernels, and whether the library of those is loaded."""
    from graphopt import runtime_ops

    known = runtime_ops.operators()
    if name is not None and name not in known:
        close = nearest(name, known)
        advice = f"did you mean {close}? " if close else ""
        raise UsageError(
            f"there is no runtime operator named {name!r}",
            where="graphopt ops",
            help=f"{advice}`graphopt ops` lists them",
        )
    shown = known if name is None else {name: known[name]}
    if json:
        from graphopt.report import json as report_json

        found = kernels()
        records = [_record(operator, found.get(one, {})) for one, operator in shown.items()]
        typer.echo(report_json.dumps({"ops": records, **_library()}))
    elif name is not None:
        _document(known[name], kernels().get(name, {}))
    else:
        _list(known)


def kernels() -> dict[str, dict[str, list[str]]]:
    """Native kernels: operator to provider to types of inputs, one text a kernel."""
    from graphopt import runtime_ops

    found: dict[str, dict[str, list[str]]] = {}
    for name, provider, types in runtime_ops.kernels():
        found.setdefault(name, {}).setdefault(provider, []).append(types)
    return found


def _list(known: Mapping[str, Operator]) -> None:
    from graphopt.report import table

    found = kernels()
    console = terminal.output()
    rows = [
        (name, *(_kernels(found.get(name, {}), provider) for provider in ("cpu", "cuda")), operator.summary)
        for name, operator in known.items()
    ]
    console.print(table.listing(("operator", "cpu", "cuda", "computes"), rows))
    about = _library()
    if about["library"] is None:
        typer.echo(
            "\nThe native library is NOT here: no compiler was found when graphopt was installed, or it failed.\n"
            "Models run all the same, these operators as ONNX functions, which is slower. To get it, install a C++17\n"
            "compiler and run: pip install --force-reinstall --no-deps -v graphopt (in a checkout: make ops)"
        )
    else:
        typer.echo(f"\nlibrary: {about['library']}\nprocessor: {about['cpu']}")
    typer.echo(f"onnxruntime {about['onnxruntime']}: {', '.join(about['providers'])}")


def _document(operator: Operator, found: Mapping[str, list[str]]) -> None:
    console = terminal.output()
    console.print(f"graphopt.{operator.name}", style="bold")
    typer.echo(f"\n{operator.summary}\n\nfrom opset {operator.since}; its definition, which a model carries with it:")
    typer.echo(operator.text.rstrip().replace("{opset}", str(operator.since)))
    for provider in ("cpu", "cuda"):
        typer.echo(f"\n{provider}: " + ("; ".join(found[provider]) if provider in found else "no native kernel here"))


def _library() -> dict[str, Any]:
    """Where the library is, what it uses of the processor, and what onnxruntime has."""
    from graphopt import runtime, runtime_ops

    path = runtime_ops.library()
    return {
        "library": None if path is None else str(path),
        "cpu": runtime_ops.cpu_features(),
        "onnxruntime": runtime.version(),
        "providers": runtime.onnxruntime.get_available_providers(),
    }


def _record(operator: Operator, found: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "name": operator.name,
        "computes": operator.summary,
        "inputs": list(operator.inputs),
        "attributes": operator.attributes,
        "since_opset": operator.since,
        "providers": list(operator.providers),
        "kernels": {provider: list(types) for provider, types in found.items()},
    }


def _kernels(found: Mapping[str, list[str]], provider: str) -> str:
    """How many kernels for how many combinations of types; a dash where there is none."""
    return str(len(found[provider])) if provider in found else "-"

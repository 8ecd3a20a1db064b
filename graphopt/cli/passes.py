"""`graphopt passes [NAME]`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import typer

from graphopt.cli import options, terminal
from graphopt.errors import UsageError, nearest

EXAMPLE = "Example: `graphopt passes`, then `graphopt passes narrow`"


_STAGES = (
    (("optimize",), "Passes of optimize", 'Run some of them: graphopt optimize MODEL -o OUT -p "fold-masks,narrow"'),
    (
        ("lower",),
        "Passes that insert runtime operators",
        "They run last, where they were asked for (--operators) and as the target's table says.",
    ),
    (("prepare",), "Passes that prepare a model for quantize", "They run by themselves."),
    (
        ("smooth", "repair"),
        "Passes of quantize that win accuracy back",
        "Run some of them: graphopt quantize MODEL -o OUT --data DATA --recover PASSES",
    ),
)


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the whole documentation of one.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """List the passes with their options, those of `quantize` apart, or document one."""
    from graphopt import registry

    known = registry.passes()
    if name is not None:
        if name not in known:
            close = nearest(name, known)
            advice = f"did you mean {close}? " if close else ""
            raise UsageError(
                f"there is no pass named {name!r}",
                where="graphopt passes",
                help=f"{advice}`graphopt passes` lists them",
            )
        known = {name: known[name]}

    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps({"passes": [_record(pass_name, kind) for pass_name, kind in known.items()]}))
    elif name is not None:
        _document(name, known[name])
    else:
        _list(known)


def _list(known: dict[str, Any]) -> None:
    from graphopt import registry
    from graphopt.report import table

    console = terminal.output()
    for stages, title, use in _STAGES:
        rows = [(name, _options_text(kind), _first_line(kind)) for name, kind in known.items()
                if registry.stage(kind) in stages]  # fmt: skip
        if rows:
            console.print(title, style="bold")
            console.print(table.listing(("pass", "options", "what it does"), rows))
            console.print(f"{use}\n")


def _document(name: str, kind: type[Any]) -> None:
    console = terminal.output()
    console.print(name, style="bold")
    console.print(f"\n{inspect.getdoc(kind) or 'no documentation'}")
    fields = dataclasses.fields(kind)
    console.print("\nOptions" if fields else "\nNo options", style="bold")
    for field in fields:
        console.print(f"  {field.name}: {_type_name(field)} = {_default(field)}")
    if fields:
        from graphopt import registry

        first, stage = fields[0], registry.stage(kind)
        option = {"optimize": "-p", "lower": "--operators -p", "prepare": None}.get(stage, "--recover")
        if option is not None:
            console.print(f'\nUse: {option} "{name}{{{first.name}={_default(first)}}}"')


def _record(name: str, kind: type[Any]) -> dict[str, Any]:
    from graphopt import registry

    return {
        "name": name,
        "stage": registry.stage(kind),
        "options": [
            {"name": field.name, "type": _type_name(field), "default": _default_value(field)}
            for field in dataclasses.fields(kind)
        ],
        "documentation": inspect.getdoc(kind) or "",
    }


def _options_text(kind: type[Any]) -> str:
    return ", ".join(f"{field.name}={_default(field)}" for field in dataclasses.fields(kind))


def _first_line(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _type_name(field: dataclasses.Field[Any]) -> str:
    return field.type if isinstance(field.type, str) else field.type.__name__


def _default_value(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _default(field: dataclasses.Field[Any]) -> str:
    value = _default_value(field)
    return str(value).lower() if isinstance(value, bool) else str(value)

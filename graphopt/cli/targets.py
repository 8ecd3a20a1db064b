"""`graphopt targets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import typer

from graphopt.cli import options, terminal

EXAMPLE = "Example: `graphopt targets`, then `graphopt optimize MODEL -o OUT --target portable`"

_NOWHERE = ""
"""Not a provider that graphopt starts."""

_MEANING = {
    "cpu": ("onnxruntime's CPU provider", "CPUExecutionProvider"),
    "cuda": ("onnxruntime's CUDA provider", "CUDAExecutionProvider"),
    "tensorrt": ("TensorRT, which reads QuantizeLinear and DequantizeLinear; `graphopt quantize` only", _NOWHERE),
    "portable": ("any runtime: standard ONNX operators only, no choice that favours one machine", None),
}


def command(json: options.Json = False) -> None:
    """List what `--target` may be: whether it runs here, figures of the plan, types of quantization, operators."""
    from graphopt import runtime, targets
    from graphopt.quantization.tables import TABLES
    from graphopt.targets.lowerings import LOWERINGS

    available = runtime.onnxruntime.get_available_providers()
    rows = [
        {
            "name": name,
            "meaning": _MEANING[name][0],
            "runs_here": _MEANING[name][1] in (None, *available),
            "figures": _figures(name),
            "costs": dataclasses.asdict(targets.costs(name)) if name in targets.TARGETS else None,
            "quantize": {
                "weights": list(TABLES[name].weights),
                "activations": list(TABLES[name].activations),
                "with_operators": _with_operators(name),
                "weights_only": {what: _weights_only(name, what) for what in ("bits", "blocks")},
            },
            "lowerings": {kind: dataclasses.asdict(row) for kind, row in LOWERINGS[name].items()},
        }
        for name in _MEANING
    ]
    if json:
        from graphopt.report import json as report_json

        typer.echo(report_json.dumps({"targets": rows}))
        return

    from graphopt.report import table, words

    terminal.output().print(
        table.listing(
            ("target", "runs here", "figures", "for"),
            ((str(row["name"]), words.yes(bool(row["runs_here"])), str(row["figures"]), str(row["meaning"]))
             for row in rows),
        )
    )  # fmt: skip
    typer.echo(
        "\nThe figures of this machine: graphopt calibrate-target\n\nTypes of graphopt quantize, the default first:"
    )
    terminal.output().print(
        table.listing(
            ("target", "weights", "activations", "weights only"),
            ((name, _listed(TABLES[name].weights), _activations(name), _bits(name)) for name in _MEANING),
        )
    )
    lowered = [(name, kind, row) for name in _MEANING for kind, row in LOWERINGS[name].items()]
    if lowered:
        typer.echo("\nWhat becomes a runtime operator (--operators; by default for cuda):")
        terminal.output().print(
            table.listing(
                ("target", "work", "pass", "otherwise"),
                ((name, kind, row.passes, row.reason) for name, kind, row in lowered),
            )
        )


def _figures(name: str) -> str:
    """Where the figures come from that the plan of `optimize` reckons with."""
    from graphopt import targets

    if name not in targets.DEFAULTS or name == "portable":
        return "none"
    return str(targets.file_of(name)) if targets.file_of(name).is_file() else "shipped"


def _with_operators(name: str) -> list[str]:
    """Types of activations that runtime operators read, beside those of the target itself."""
    from graphopt.quantization.tables import TABLES, WITH_OPERATORS

    more = WITH_OPERATORS.get(name)
    return [] if more is None else [one for one in more.activations if one not in TABLES[name].activations]


def _activations(name: str) -> str:
    from graphopt.quantization.tables import TABLES

    more = _with_operators(name)
    return _listed(TABLES[name].activations) + (f"; with runtime operators {_listed(more)}" if more else "")


def _listed(types: Sequence[str]) -> str:
    return ", ".join("levelsN" if one == "levels" else one for one in types)


def _bits(name: str) -> str:
    """In how many bits, and blocks of how many inputs, weights alone can be stored."""
    bits, blocks = (", ".join(map(str, _weights_only(name, what))) for what in ("bits", "blocks"))
    return f"{bits} bits, blocks of {blocks}"


def _weights_only(name: str, what: str) -> list[int]:
    from graphopt.quantization.weight_only.table import TABLE

    return sorted({number for forms in TABLE[name].values() for form in forms for number in getattr(form, what)})

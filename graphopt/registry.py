"""The passes by name, and the text that selects them: ``fold-masks,narrow{align=16},coalesce``.

Other packages add passes through the entry point group ``graphopt.passes``.
"""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module, metadata
from typing import Any, ClassVar, Protocol, get_type_hints, runtime_checkable

from graphopt.errors import UsageError, nearest

BUILT_IN = (
    "graphopt.passes.masks.fold_masks:FoldMasks",
    "graphopt.passes.tidy.unpack_sequences:UnpackSequences",
    "graphopt.passes.tidy.split_batches:SplitBatches",
    "graphopt.passes.tidy.select_early:SelectEarly",
    "graphopt.passes.tidy.fold_reshapes:FoldReshapes",
    "graphopt.passes.tidy.read_through:ReadThrough",
    "graphopt.passes.shrink.split_directions:SplitDirections",
    "graphopt.passes.shrink.fold_batch_norm:FoldBatchNorm",
    "graphopt.passes.shrink.value_biases:ValueBiases",
    "graphopt.passes.shrink.fold_dead:FoldDead",
    "graphopt.passes.shrink.demask:Demask",
    "graphopt.passes.shrink.propagate:Propagate",
    "graphopt.passes.shrink.coalesce:Coalesce",
    "graphopt.passes.shrink.narrow:Narrow",
    "graphopt.passes.shrink.split_blocks:SplitBlocks",
    "graphopt.passes.lower.lower_scatters:LowerScatters",
    "graphopt.passes.tidy.tidy:Tidy",
    "graphopt.passes.lower.permute:Permute",
    "graphopt.passes.lower.signed_activations:SignedActivations",
    "graphopt.passes.lower.lower_int8:LowerInt8",
    "graphopt.passes.lower.channels_last:ChannelsLast",
    "graphopt.passes.lower.lower_sparse:LowerSparse",
    "graphopt.passes.lower.lower_semi_structured:LowerSemiStructured",
    "graphopt.passes.lower.lower_binary:LowerBinary",
    "graphopt.passes.lower.lower_norms:LowerNorms",
    "graphopt.passes.lower.lower_low_bits:LowerLowBits",
    "graphopt.passes.lower.lower_blocks:LowerBlocks",
    "graphopt.passes.lower.lower_moves:LowerMoves",
    "graphopt.passes.quantize.upgrade_opset:UpgradeOpset",
    "graphopt.passes.quantize.norm_to_convolution:NormToConvolution",
    "graphopt.passes.quantize.global_average:GlobalAverage",
    "graphopt.passes.quantize.join_bias:JoinBias",
    "graphopt.passes.quantize.pad_channels:PadChannels",
    "graphopt.passes.quantize.equalize:Equalize",
    "graphopt.passes.quantize.smooth_quant:SmoothQuant",
    "graphopt.passes.quantize.bias_correction:BiasCorrection",
    "graphopt.passes.quantize.hqq:Hqq",
    "graphopt.passes.quantize.widen_ranges:WidenRanges",
    "graphopt.passes.quantize.gptq:Gptq",
)


@runtime_checkable
class Pass(Protocol):
    """A rewrite of a whole model: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    # A class may also have `stage: ClassVar[str]`: "optimize" (the default pipeline; what a class without it belongs
    # to), "lower" (inserts runtime operators: once, behind all others, where graphopt.targets.lowerings names it), or a
    # stage of quantization, "prepare", "smooth" or "repair" (see graphopt.quantization.state).

    def run(self, context: Any) -> bool:
        """Edit ``context.model`` (a ``graphopt.context.Context``) in place; return whether anything changed."""
        ...


def passes() -> dict[str, type[Pass]]:
    """Return every pass by name, the built-in ones in the order of the default pipeline, then those of quantization."""
    found = [_load(path) for path in BUILT_IN]
    found += [entry.load() for entry in metadata.entry_points(group="graphopt.passes")]
    return {cls.name: cls for cls in found}


def stage(item: Pass | type[Pass]) -> str:
    """Return the part of the work that a pass belongs to: ``optimize`` unless it says otherwise."""
    return getattr(item, "stage", "optimize")


def _load(path: str) -> type[Pass]:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def parse(text: str) -> list[Pass]:
    """Read a comma-separated list of passes with options in braces.

    Raises:
        UsageError: a name, an option or a value that no pass has; names the nearest known one.
    """
    known = passes()
    selected: list[Pass] = []
    for piece in pieces(text):
        match = re.fullmatch(r"\s*([\w-]+)\s*(?:\{(.*)\})?\s*", piece, re.DOTALL)
        if match is None:
            raise UsageError(f"cannot read the pass {piece.strip()!r}", help="write it as name or name{option=value}")
        name, options = match.group(1), match.group(2) or ""
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close!r}? " if close else ""
            raise UsageError(f"there is no pass named {name!r}", help=f"{hint}`graphopt passes` lists them")
        selected.append(_with_options(known[name], options))
    if not selected:
        raise UsageError("no pass is named", help="`graphopt passes` lists them")
    return selected


def make(name: str, options: dict[str, Any]) -> Pass:
    """Make one pass from a name and options that are values already (a recipe file)."""
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return parse(f"{name}{{{text}}}" if text else name)[0]


def pieces(text: str) -> list[str]:
    """Return what commas separate; those inside of braces separate nothing."""
    found, depth, current = [], 0, ""
    for char in text:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            found.append(current)
            current = ""
        else:
            current += char
    return [piece for piece in [*found, current] if piece.strip()]


def _with_options(cls: type[Pass], text: str) -> Pass:
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for piece in (piece for piece in text.split(",") if piece.strip()):
        name, sign, value = (part.strip() for part in piece.partition("="))
        if name not in fields:
            close = nearest(name, fields)
            hint = f"did you mean {close!r}? " if close else ""
            options = ", ".join(fields) or "none"
            raise UsageError(f"pass {cls.name!r} has no option {name!r}", help=f"{hint}its options: {options}")
        if name in values:
            raise UsageError(f"option {name!r} of pass {cls.name!r} is given twice", help="give it once")
        values[name] = _value(cls.name, name, value if sign else "true", hints[name])
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"pass {cls.name!r}: {error}") from error


def _value(pass_name: str, option: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError, TypeError):
        wanted = getattr(kind, "__name__", str(kind))
        message = f"option {option!r} of pass {pass_name!r} cannot be {text!r}"
        raise UsageError(message, help=f"it takes a value of type {wanted}") from None

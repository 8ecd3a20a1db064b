"""What ``--input NAME=float32[1,3,32,32]`` and ``--dynamic NAME=0:batch`` mean.  Text only: no torch, no numpy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.errors import UsageError, nearest

DTYPES = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
"""The element types an input can have; each has the same name in torch, and in numpy where that has it."""

_INPUT_HELP = "write it as NAME=DTYPE[SIZE,SIZE,...], for example x=float32[1,3,32,32]"
_DYNAMIC_HELP = "write it as NAME=AXIS:SYMBOL, for example x=0:batch or x=0:batch,2:height"
_OTHER_NAMES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int64"}


@dataclass(frozen=True)
class InputSpec:
    """One example input: its name, element type and sizes (no size at all is a scalar)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def parse_input(text: str) -> InputSpec:
    """The input that ``NAME=DTYPE[SIZE,...]`` describes.

    >>> parse_input("x=float32[1,3,32,32]")
    InputSpec(name='x', dtype='float32', shape=(1, 3, 32, 32))

    Raises:
        UsageError: The text has another form, the element type is unknown, or a size is not a number ≥ 0.
    """
    where = f"--input {text}"
    name, equals, rest = text.partition("=")
    name = name.strip()
    match = re.fullmatch(r"\s*([^\[\]\s]*)\s*\[([^\[\]]*)\]\s*", rest)
    if not equals or not name or match is None:
        raise UsageError(f"the input '{text}' cannot be read", where, _INPUT_HELP)
    dtype, sizes = match.groups()
    if dtype not in DTYPES:
        meant = _OTHER_NAMES.get(dtype) or nearest(dtype, DTYPES)
        hint = f"did you mean {meant}? " if meant else ""
        raise UsageError(f"unknown element type '{dtype}'", where, f"{hint}known: {', '.join(DTYPES)}")
    shape: list[int] = []
    for size in sizes.split(",") if sizes.strip() else []:
        if not re.fullmatch(r"\d+", size.strip(), flags=re.ASCII):
            named = size.strip().isidentifier()
            help = f"give an example size here, and its name by --dynamic {name}={len(shape)}:{size.strip()}"
            raise UsageError(f"the size '{size.strip()}' is not a number", where, help if named else _INPUT_HELP)
        shape.append(int(size))
    return InputSpec(name, dtype, tuple(shape))


def parse_inputs(texts: Iterable[str]) -> list[InputSpec]:
    """Every ``--input``, in order.

    Raises:
        UsageError: One cannot be read, or two have the same name.
    """
    specs: list[InputSpec] = []
    for text in texts:
        spec = parse_input(text)
        if any(other.name == spec.name for other in specs):
            raise UsageError(f"two inputs are named '{spec.name}'", f"--input {text}", "give each input once")
        specs.append(spec)
    return specs


def parse_dynamic(texts: Iterable[str], inputs: Iterable[InputSpec] | None = None) -> dict[str, dict[int, str]]:
    """The dynamic axes that ``NAME=AXIS:SYMBOL[,AXIS:SYMBOL...]`` describe, as ``{name: {axis: symbol}}``.

    Args:
        texts: What was given to ``--dynamic``; one input may appear more than once.
        inputs: The inputs, when they are known: names and axes are then checked, and a negative axis is counted from
            the end. Without them axes stay as they were written.

    >>> parse_dynamic(["x=0:batch,2:height", "y=0:batch"])
    {'x': {0: 'batch', 2: 'height'}, 'y': {0: 'batch'}}

    Raises:
        UsageError: A text cannot be read, an input or axis is not there, an axis is given twice, or one symbol is
            given to axes whose example sizes differ.
    """
    known = None if inputs is None else {spec.name: spec for spec in inputs}
    result: dict[str, dict[int, str]] = {}
    size_of: dict[str, int] = {}
    for text in texts:
        where = f"--dynamic {text}"
        name, equals, rest = text.partition("=")
        name = name.strip()
        if not equals or not name or not rest.strip():
            raise UsageError(f"the dynamic axis '{text}' cannot be read", where, _DYNAMIC_HELP)
        spec = None if known is None else known.get(name)
        if known is not None and spec is None:
            meant = nearest(name, known)
            hint = f"did you mean {meant}? " if meant else ""
            raise UsageError(f"there is no input '{name}'", where, f"{hint}inputs: {', '.join(known) or 'none'}")
        axes = result.setdefault(name, {})
        for part in rest.split(","):
            match = re.fullmatch(r"\s*(-?\d+)\s*:\s*(\w+)\s*", part, flags=re.ASCII)
            if match is None or not match.group(2).isidentifier():
                raise UsageError(f"the dynamic axis '{part.strip()}' cannot be read", where, _DYNAMIC_HELP)
            axis, symbol = int(match.group(1)), match.group(2)
            if spec is not None:
                axis = axis_of(axis, len(spec.shape), where, f"input '{name}' {spec.dtype}{list(spec.shape)}")
                size = size_of.setdefault(symbol, spec.shape[axis])
                if size != spec.shape[axis]:
                    raise UsageError(
                        f"'{symbol}' is {size} on one axis and {spec.shape[axis]} on axis {axis} of '{name}'",
                        where,
                        "axes that share a symbol need the same example size; or give them different symbols",
                    )
            if axis in axes:
                raise UsageError(f"axis {axis} of '{name}' is given twice", where, "give each axis one symbol")
            axes[axis] = symbol
    return result


def axis_of(axis: int, rank: int, where: str | None, what: str) -> int:
    """``axis`` counted from the front of a shape of ``rank`` axes.

    Raises:
        UsageError: There is no such axis.
    """
    if not -rank <= axis < rank:
        help = f"axes go from 0 to {rank - 1}" if rank else "a scalar has no axes"
        raise UsageError(f"{what} has no axis {axis}", where, help)
    return axis % rank

"""Options of a quantization as one line of text: ``int8``, ``weights=int4,activations=none``, ``int8,exclude=fc``."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

from graphopt.calibrate.grid import grid
from graphopt.errors import UsageError, about, nearest
from graphopt.quantization.request import Request
from graphopt.registry import pieces

PER_TENSOR = "per-tensor"


def options(text: str) -> dict[str, Any]:
    """Read a comma-separated list of options: keyword arguments of ``graphopt.quantize``, ``-`` and ``_`` alike.

    A word alone is an option that is on (``random-data``), ``per-tensor``, or the type of the weights (``int8``).
    Commas inside of braces separate nothing: ``recover={equalize,bias-correction}``. ``exclude`` may be repeated.

    Raises:
        UsageError: an option that there is not (names the nearest), a value of another type, an option given twice.
    """
    hints = get_type_hints(Request)
    found: dict[str, Any] = {}
    for piece in pieces(text):
        name, sign, value = (part.strip() for part in piece.partition("="))
        if not sign:
            name, value = _word(name, hints)
        name = name.replace("-", "_")
        if name not in hints and name != "plots":
            raise _unknown(name, hints)
        if name == "exclude":
            found[name] = (*found.get(name, ()), value)
        elif name in found:
            raise UsageError(f"{name} is given twice", where="--quantize", help="give it once")
        else:
            found[name] = _value(name, value, hints.get(name, str))
    return found


def _word(word: str, hints: dict[str, Any]) -> tuple[str, str]:
    plain = word.replace("-", "_")
    if bool in (get_args(hints.get(plain)) or (hints.get(plain),)):
        return plain, "true"
    if plain in hints:
        raise UsageError(f"{word} has no value", where="--quantize", help=f"write {word}=VALUE")
    if word == PER_TENSOR:
        return "per_channel", "false"
    try:
        with about("--quantize"):
            return "weights", grid(word).name
    except UsageError:
        if nearest(word, _names(hints)) is not None:
            raise _unknown(word, hints) from None
        raise


def _names(hints: dict[str, Any]) -> list[str]:
    return [*(option.replace("_", "-") for option in hints), PER_TENSOR]


def _unknown(name: str, hints: dict[str, Any]) -> UsageError:
    known = _names(hints)
    close = nearest(name, known)
    advice = f"did you mean {close!r}? " if close else ""
    return UsageError(
        f"quantization has no option {name!r}", where="--quantize", help=f"{advice}its options: {', '.join(known)}"
    )


def _value(name: str, text: str, hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    try:
        if bool in kinds:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if int in kinds or float in kinds:
            return int(text) if int in kinds else float(text)
    except (KeyError, ValueError):
        wanted = "true or false" if bool in kinds else "a whole number" if int in kinds else "a number"
        raise UsageError(f"{name} cannot be {text!r}", where="--quantize", help=f"it takes {wanted}") from None
    return text[1:-1] if text.startswith("{") and text.endswith("}") else text

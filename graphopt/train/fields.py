"""From the parts of a recipe, as YAML gives them, to frozen dataclasses with their types checked."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from graphopt.errors import UsageError, nearest

T = TypeVar("T")


class _Unfit(Exception):  # noqa: N818 - it never leaves this file
    """A value is not of a type; says of which."""


def read(kind: type[T], found: Any, file: str, key: str) -> T:
    """Return a dataclass from a mapping of its fields, nested ones too; fields left out keep their defaults.

    Args:
        kind: A dataclass whose fields are bool, int, float, str, ``Literal``, tuples or lists of these, dataclasses, or
            one of several (``int | None``).
        found: As read from YAML; None, which is what an empty part is, gives the defaults.
        file: Where it comes from, for messages.
        key: Path of the keys that lead to it, for messages: ``prune.training``.

    Raises:
        UsageError: An unknown key, a key that is missing, a value of another type, or one that the dataclass refuses.
            It says where, and what was meant or is possible.
    """
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise UsageError(f"'{key}' is {_shown(found)}, not a part with keys", file, f"{key}: {{{_example(kind)}}}")
    fields = {one.name: one for one in dataclasses.fields(kind) if one.init}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in found.items():
        here = f"{key}.{name}"
        if name not in fields:
            raise unknown(str(name), list(fields), file, here)
        try:
            values[name] = _as(hints[name], value, file, here)
        except _Unfit as unfit:
            raise UsageError(f"'{here}' is {_shown(value)}, not {unfit}", file, f"correct {here}") from None
    for name, field in fields.items():
        lacks = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if lacks and name not in values:
            raise UsageError(f"'{key}.{name}' is missing", file, f"it is {_named(hints[name])}")
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"'{key}': {error}", file, f"correct the part '{key}'") from error


def unknown(name: str, known: list[str], file: str, key: str) -> UsageError:
    """Return the error of a key that means nothing."""
    meant = nearest(name, known)
    hint = f"did you mean {meant}? " if meant else ""
    return UsageError(f"unknown key '{key}'", file, f"{hint}known: {', '.join(known) or 'none'}")


def _as(hint: Any, value: Any, file: str, key: str) -> Any:
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        for one in inside:
            if type(one) is type(value) and one == value:
                return one
        meant = nearest(str(value), [str(one) for one in inside])
        raise _Unfit(_named(hint) + (f" (did you mean {meant}?)" if meant else ""))
    if origin in (Union, types.UnionType):
        return _either(inside, value, file, key)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise _Unfit(_named(hint))
        each = inside[0]
        if origin is tuple and Ellipsis not in inside:
            if len(value) != len(inside):
                raise _Unfit(_named(hint))
            return tuple(_as(one, item, file, key) for one, item in zip(inside, value, strict=True))
        return origin(_as(each, item, file, f"{key}[{number}]") for number, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return read(hint, value, file, key)  # type: ignore[arg-type]
    if hint is type(None) and value is None:
        return None
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint is int and type(value) is int:
        return value
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 2e-3 for text, which it is only where text is asked for
        except (TypeError, ValueError):
            pass
    raise _Unfit(_named(hint))


def _either(kinds: tuple[Any, ...], value: Any, file: str, key: str) -> Any:
    exact = [one for one in kinds if isinstance(one, type) and type(value) is one]
    for one in (*exact, *kinds):
        try:
            return _as(one, value, file, key)
        except _Unfit:
            continue
    raise _Unfit(" or ".join(dict.fromkeys(_named(one) for one in kinds)))


def _named(hint: Any) -> str:
    """What a type is, for people."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ("one of " if len(inside) > 1 else "") + ", ".join(str(one) for one in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(one) for one in inside)
    if origin in (tuple, list):
        each = [one for one in inside if one is not Ellipsis]
        if origin is tuple and Ellipsis not in inside:
            return f"a list of {len(each)}: " + ", ".join(_named(one) for one in each)
        return f"a list, each {_named(each[0])}"
    if dataclasses.is_dataclass(hint):
        return "a part with keys"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "empty"}
    return words.get(hint, str(hint))


def _shown(value: Any) -> str:
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _example(kind: Any) -> str:
    first = dataclasses.fields(kind)[:1]
    return f"{first[0].name}: ..." if first else ""

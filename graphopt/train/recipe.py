"""A recipe: which net, on what data, trained how, and made small by which method."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from torch import nn

from graphopt.errors import GraphoptError, UsageError, nearest
from graphopt.train import family as families
from graphopt.train.data import Data
from graphopt.train.family import Family
from graphopt.train.fields import read, unknown
from graphopt.train.settings import Settings
from graphopt.user_code import user_line

if TYPE_CHECKING:
    from graphopt.train.binary import BinarizeSettings
    from graphopt.train.prune import PruneSettings
    from graphopt.train.quantize import QuantizeSettings

METHODS = ("prune", "quantize-train", "binarize")
"""The parts of a recipe that a command each asks for; a recipe may leave out what its net is not made for."""

_PARTS = ("family", "seed", "model", "data", "train", *METHODS)

T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Attributes:
        source: Its file, or where it was made.
        family: The kind of net.
        seed: Of random weights, of the order of samples, of all that is drawn.
        model: Options of ``family.new``.
        data: Options of ``family.data``.
        train: How the float net is trained.
        prune: How it is pruned; None: the recipe says nothing about that.
        quantize: How it is quantized while it is trained.
        binarize: How it is binarized.
        content: The recipe as it was read, defaults left out: what a folder remembers of it.
        changes: What was said instead of the file, ``KEY=VALUE``.
    """

    source: str
    family: Family
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Settings = field(default_factory=Settings)
    prune: PruneSettings | None = None
    quantize: QuantizeSettings | None = None
    binarize: BinarizeSettings | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()

    def check_options(self) -> None:
        """Say that an option means nothing to the family, before anything is made or written.

        Raises:
            UsageError: ``model`` or ``data`` has options that the family does not know.
        """
        self._known("model", self.family.new, self.model, {"seed"})
        self._known("data", self.family.data, self.data, set())

    def new_net(self) -> nn.Module:
        """Return the net with random weights.

        Raises:
            UsageError: ``model`` has options that the family does not know.
            GraphoptError: The family refuses them.
        """
        return self._made("model", nn.Module, self.family.new, self.model, seed=self.seed)

    def load_data(self) -> Data:
        """Return the samples.

        Raises:
            UsageError: ``data`` has options that the family does not know.
            GraphoptError: They cannot be had so.
        """
        return self._made("data", Data, self.family.data, self.data)

    def _made(self, part: str, kind: type[T], make: Callable[..., T], options: Mapping[str, Any], **more: Any) -> T:
        self._known(part, make, options, more.keys())
        try:
            found = make(**more, **options)
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(
                f"the {part} of '{self.family.name}' cannot be made: {type(error).__name__}: {error}",
                user_line(error) or self.source,
                f"correct the part '{part}' of the recipe",
            ) from error
        if not isinstance(found, kind):
            name = f"{kind.__module__.replace('torch.nn.modules.module', 'torch.nn')}.{kind.__qualname__}"
            what = f"the {part} of '{self.family.name}' is a {type(found).__name__}, not a {name}"
            raise GraphoptError(what, self.source, "correct what the family returns")
        return found

    def _known(self, part: str, make: Callable[..., Any], options: Mapping[str, Any], given: Collection[str]) -> None:
        known = inspect.signature(make).parameters
        if any(one.kind is one.VAR_KEYWORD for one in known.values()):
            return
        free = [name for name in known if name not in given]
        for name in options:
            if name not in free:
                key = f"{part}.{name}"
                said = [f"--set {one}" for one in self.changes if one.partition("=")[0].strip() == key]
                raise unknown(str(name), free, said[-1] if said else self.source, key)


def load(source: str | Path, changes: Iterable[str] = (), seed: int | None = None) -> Recipe:
    """Read a recipe from a YAML file, or that of a family that comes with graphopt, by its name.

    Args:
        source: The file, or the name.
        changes: ``train.epochs=3`` and the like, instead of what the recipe says; values are YAML.
        seed: Instead of the recipe's.

    Raises:
        UsageError: It cannot be read, or says what cannot be understood; the message says where.
    """
    path = _found(source)
    name = str(path)
    content = _yaml(path)
    changes = tuple(changes)
    for change in changes:
        _change(content, change)
    if seed is not None:
        content["seed"] = seed
    for part in content:
        if part not in _PARTS:
            raise unknown(str(part), list(_PARTS), name, str(part))
    if not isinstance(content.get("family"), str):
        known = ", ".join(families.names())
        raise UsageError("the recipe names no family", name, f"family: one of {known}, or PKG.MODULE:FAMILY")
    chosen = content.get("seed", 0)
    if type(chosen) is not int or not 0 <= chosen < 2**63:
        raise UsageError(f"'seed' is {chosen!r}, not a whole number of 0 or more that 64 bits hold", name, "seed: 0")
    for part in ("model", "data"):
        if not isinstance(content.get(part) or {}, dict):
            raise UsageError(f"'{part}' is {content[part]!r}, not a part with keys", name, f"{part}: {{...}}")
    try:
        family = families.family(content["family"])
    except UsageError as error:
        error.where = error.where or name
        raise
    methods = {_ATTRIBUTE[part]: read(_kind(part), content[part], name, part) for part in METHODS if part in content}
    return Recipe(
        source=name,
        family=family,
        seed=chosen,
        model=content.get("model") or {},
        data=content.get("data") or {},
        train=read(Settings, content.get("train"), name, "train"),
        content=content,
        changes=changes,
        **methods,
    )


_ATTRIBUTE = {"prune": "prune", "quantize-train": "quantize", "binarize": "binarize"}


def _kind(method: str) -> type:
    """The settings of a method, imported when a recipe speaks of it."""
    if method == "prune":
        from graphopt.train.prune import PruneSettings

        return PruneSettings
    if method == "quantize-train":
        from graphopt.train.quantize import QuantizeSettings

        return QuantizeSettings
    from graphopt.train.binary import BinarizeSettings

    return BinarizeSettings


def _found(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    known = families.names()
    if str(source) in known:
        from graphopt import models

        own = Path(next(iter(models.__path__)), str(source), "recipe.yaml")
        if own.is_file():
            return own
        raise UsageError(f"the family '{source}' comes without a recipe", help=f"write one: family: {source}")
    if path.is_dir():
        raise UsageError("the recipe is a folder", str(source), "name a YAML file")
    meant = nearest(str(source), known)
    hint = f"did you mean {meant}? " if meant else ""
    if ":" in str(source):
        hint = f"a family of your own is named in a recipe, family: {str(source).replace('.py:', ':')}; "
    raise UsageError("there is no such recipe", str(source), f"{hint}name a YAML file, or a family: {', '.join(known)}")


class _Twice(Exception):  # noqa: N818 - it never leaves this file
    """A key is there twice; lines are counted from 1."""

    def __init__(self, key: str, first: int, line: int) -> None:
        super().__init__(key)
        self.key, self.first, self.line = key, first, line


class _Once(yaml.SafeLoader):
    """Refuses a key that a part has twice: YAML forbids it, and the usual loader silently takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a part."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    raise _Twice(key.value, seen[name], line)
                seen[name] = line
        return node


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except _Twice as twice:
        where, first = f"{path}:{twice.line}", f"it is in line {twice.first} first"
        raise UsageError(f"the key '{twice.key}' is there twice", where, f"{first}; leave one of them out") from None
    except OSError as error:
        raise UsageError(f"the recipe cannot be read: {error.strerror}", str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("the recipe is not YAML", str(path), " ".join(str(error).split())) from error
    try:
        json.dumps(content, default=str, skipkeys=True)  # a part that contains itself would be read forever
    except ValueError as error:
        raise UsageError("a part of the recipe contains itself", str(path), "write it without an alias (*)") from error
    if not isinstance(content, dict):
        raise UsageError("the recipe has no parts", str(path), f"its parts are {', '.join(_PARTS)}")
    return content


def _change(content: dict[str, Any], change: str) -> None:
    """Write one ``KEY=VALUE`` into the recipe; parts that are missing are made."""
    keys, equals, text = change.partition("=")
    way = keys.strip().split(".")
    if not equals or not all(way):
        raise UsageError(f"cannot read {change!r}", "--set", "write a key and its value: --set train.epochs=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"the value of {keys} is not YAML", f"--set {change}", " ".join(str(error).split())) from error
    part = content
    for key in way[:-1]:
        inside = part.get(key)
        if inside is None:
            inside = part[key] = {}
        if not isinstance(inside, dict):
            raise UsageError(f"'{key}' is {inside!r}, which has no keys", f"--set {change}", f"set {key} itself")
        part = inside
    part[way[-1]] = value


def settings_of(recipe: Recipe, method: str) -> Any:
    """Return what a recipe says about a method.

    Raises:
        UsageError: Nothing.
    """
    found = getattr(recipe, _ATTRIBUTE[method])
    if found is None:
        there = [name for name in METHODS if getattr(recipe, _ATTRIBUTE[name]) is not None]
        raise UsageError(
            f"the recipe has no part '{method}'",
            recipe.source,
            f"it is made for {' and '.join(there) or 'no method'}; {method}: {{}} takes the defaults",
        )
    return found

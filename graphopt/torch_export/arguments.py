"""Example inputs: flattened and named, with their dynamic axes, and the same inputs at other sizes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import Dim
from torch.export.dynamic_shapes import _DimHint
from torch.utils import _pytree as pytree

from graphopt.errors import UsageError, nearest
from graphopt.inputspec import axis_of


@dataclass
class Leaf:
    """One tensor among the inputs: a name made from where it is, and ``{axis: name or torch.export.Dim}``."""

    name: str
    tensor: torch.Tensor
    axes: dict[int, Any] = field(default_factory=dict)


@dataclass
class Arguments:
    """What ``forward`` is called with.

    ``bound`` maps the parameters of ``forward`` to their values (pytrees); ``leaves`` are the tensors in it, in order.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[Leaf]
    shapes: dict[str, Any] | None

    def resized(self, sizes: Mapping[str, int], *, generator: torch.Generator | None = None) -> Arguments:
        """The same inputs with each dynamic axis at the size of its symbol, rows repeated or cut.

        With a generator, floats are then multiplied by noise: rows differ, zeros stay zeros, signs may change.
        """
        changed: dict[int, torch.Tensor] = {}
        for leaf in self.leaves:
            tensor = leaf.tensor
            for axis, dim in leaf.axes.items():
                size = size_of(dim, sizes)
                if size is not None and size != tensor.shape[axis]:
                    tensor = _resize(tensor, axis, size)
            if generator is not None and tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor = tensor * noise
            changed[id(leaf.tensor)] = tensor

        def swap(value: Any) -> Any:
            return changed.get(id(value), value) if isinstance(value, torch.Tensor) else value

        return Arguments(
            pytree.tree_map(swap, self.args),
            pytree.tree_map(swap, self.kwargs),
            [Leaf(leaf.name, changed[id(leaf.tensor)], leaf.axes) for leaf in self.leaves],
            self.shapes,
        )

    def by_tensors(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward`` as a function of the tensors alone, in the order of the leaves; its result as tensors alone."""
        position = {id(leaf.tensor): index for index, leaf in enumerate(self.leaves)}

        def call(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            def fill(value: Any) -> Any:
                return tensors[position[id(value)]] if isinstance(value, torch.Tensor) else value

            result = forward(*pytree.tree_map(fill, self.args), **pytree.tree_map(fill, self.kwargs))
            outputs = tuple(each for each in pytree.tree_leaves(result) if isinstance(each, torch.Tensor))
            return outputs[0] if len(outputs) == 1 else outputs

        return call

    def sizes(self) -> dict[str, int]:
        """The example size of every symbol.

        Raises:
            UsageError: Axes that share a symbol have different sizes.
        """
        sizes: dict[str, int] = {}
        for leaf in self.leaves:
            for axis, dim in leaf.axes.items():
                size = leaf.tensor.shape[axis]
                symbol, root = (
                    (symbol_of(dim.root), _root(dim, size)) if hasattr(dim, "root") else (symbol_of(dim), size)
                )
                if root is None or sizes.setdefault(symbol, root) != root:
                    raise UsageError(
                        f"axis {axis} of '{leaf.name}' is {size}, which does not fit '{symbol_of(dim)}'"
                        + (f" with {symbol}={sizes[symbol]}" if symbol in sizes else ""),
                        help="axes that share a symbol need the same example size; or give them different symbols",
                    )
        return sizes

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Smallest and largest legal size of the symbols that were declared with such."""
        found: dict[str, tuple[int, int]] = {}
        for leaf in self.leaves:
            for dim in leaf.axes.values():
                root = getattr(dim, "root", dim)
                if not isinstance(root, str):
                    # What has no bound is no int but a symbol for infinity.
                    low, high = root.min, root.max
                    found[symbol_of(root)] = (
                        low if isinstance(low, int) else 0,
                        high if isinstance(high, int) else sys.maxsize,
                    )
        return found


def symbol_of(dim: Any) -> str:
    """The name of a dynamic axis."""
    return dim if isinstance(dim, str) else dim.__name__


def size_of(dim: Any, sizes: Mapping[str, int]) -> int | None:
    """The size of a dynamic axis; a derived ``Dim`` (``2 * batch``) follows its root."""
    if hasattr(dim, "root"):
        root = sizes.get(symbol_of(dim.root))
        return None if root is None else int(dim.fn(root))
    return sizes.get(symbol_of(dim))


def _root(dim: Any, size: int) -> int | None:
    """The size of the root at which a derived ``Dim`` (increasing and linear) is ``size``."""
    return next((root for root in range(size + 1) if int(dim.fn(root)) == size), None)


def bind(
    module: torch.nn.Module,
    args: Any,
    kwargs: dict[str, Any],
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None,
    input_names: Sequence[str],
) -> Arguments:
    """Match inputs and dynamic axes with the parameters of ``forward``.

    Raises:
        UsageError: They do not fit.
    """
    args, kwargs = _apart(tuple(args) if isinstance(args, (tuple, list)) else (args,), kwargs)
    where = f"{type(module).__name__}.forward"
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"the inputs do not fit: {error}", where, f"forward is forward{signature}") from None
    # By position as far as possible: both exporters then keep the order of forward.
    args, kwargs, values = bound.args, bound.kwargs, dict(bound.arguments)
    variadic = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    leaves: list[Leaf] = []
    for parameter, value in values.items():
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, torch.Tensor):
                keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
                names = keys if parameter == variadic else [parameter, *keys]
                leaves.append(Leaf("_".join(names), leaf))
    if not leaves:
        raise UsageError("there is no example input that is a tensor", where, f"forward is forward{signature}")
    if len(input_names) > len(leaves):
        raise UsageError(f"{len(input_names)} input names for {len(leaves)} inputs", where, "give one name per tensor")

    shapes = _by_parameter(values, leaves, dynamic_shapes, input_names, where)
    by_tensor = {id(leaf.tensor): leaf for leaf in leaves}
    tree = {name: _shapes_tree(value, shapes.get(name), by_tensor, name) for name, value in values.items()}
    for leaf, name in zip(leaves, input_names, strict=False):
        leaf.name = name
    dynamic = any(leaf.axes for leaf in leaves)
    return Arguments(args, kwargs, leaves, tree if dynamic else None)


def _apart(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the inputs: ``attention(x, x, x)`` has three, and nothing that runs can write to the caller's."""

    def copy(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    return pytree.tree_map(copy, args), pytree.tree_map(copy, kwargs)


def _by_parameter(
    values: dict[str, Any],
    leaves: list[Leaf],
    given: Mapping[str, Any] | Sequence[Any] | None,
    input_names: Sequence[str],
    where: str,
) -> dict[str, Any]:
    """The dynamic shapes under the names of ``forward``."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = list(given)
        if len(given) != len(values):
            raise UsageError(
                f"{len(given)} dynamic shapes for {len(values)} inputs", where, "give one for each input, None if fixed"
            )
        return dict(zip(values, given, strict=True))
    result: dict[str, Any] = {}
    renamed = {name: leaf.name for name, leaf in zip(input_names, leaves, strict=False)}
    for name, shape in given.items():
        parameter = name if name in values else renamed.get(name, name)
        if parameter not in values:
            known = [*values, *renamed]
            meant = nearest(name, known)
            hint = f"did you mean {meant}? " if meant else ""
            raise UsageError(f"there is no input '{name}'", where, f"{hint}inputs: {', '.join(dict.fromkeys(known))}")
        result[parameter] = shape
    return result


def _shapes_tree(value: Any, shape: Any, leaves: dict[int, Leaf], name: str) -> Any:
    """``shape`` in the structure of ``value`` as torch.export wants it; fills the axes of the leaves on the way."""
    if isinstance(value, torch.Tensor):
        leaf = leaves[id(value)]
        leaf.axes = _axes(value, shape, leaf.name)
        return dict(leaf.axes)
    if isinstance(value, Mapping):
        shape = shape or {}
        return {key: _shapes_tree(each, shape.get(key), leaves, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        shape = list(shape or [None] * len(value))
        if len(shape) != len(value):
            raise UsageError(f"{len(shape)} dynamic shapes for the {len(value)} inputs of '{name}'")
        children = [
            _shapes_tree(each, s, leaves, f"{name}[{i}]") for i, (each, s) in enumerate(zip(value, shape, strict=True))
        ]
        return tuple(children) if isinstance(value, tuple) else children
    return None


def _axes(tensor: torch.Tensor, shape: Any, name: str) -> dict[int, Any]:
    """``{axis: name or Dim}`` of one tensor from a dictionary, a sequence with an entry for each axis, or None."""
    if shape is None:
        return {}
    what = f"input '{name}' {list(tensor.shape)}"
    if not isinstance(shape, Mapping):
        entries = list(shape)
        if len(entries) != tensor.dim():
            raise UsageError(f"{what} has {tensor.dim()} axes, its dynamic shape {len(entries)}")
        shape = dict(enumerate(entries))
    axes: dict[int, Any] = {}
    for axis, dim in shape.items():
        if not isinstance(axis, int):
            raise UsageError(f"{what}: the axis {axis!r} is not a number", help='write {"x": {0: "batch"}}')
        axis = axis_of(axis, tensor.dim(), None, what)
        if dim is None or isinstance(dim, int) or (isinstance(dim, _DimHint) and dim.type is Dim.STATIC.type):
            continue
        if isinstance(dim, _DimHint):
            dim = f"{name}_{axis}"
        elif not isinstance(dim, str) and not hasattr(dim, "__name__"):
            raise UsageError(f"{what}: {dim!r} is not a dynamic axis", help="a name, a torch.export.Dim or None")
        axes[axis] = dim
    return axes


def _resize(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    if tensor.shape[axis] == 0:
        shape = list(tensor.shape)
        shape[axis] = size
        return torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    rows = torch.arange(size, device=tensor.device) % tensor.shape[axis]
    return tensor.index_select(axis, rows)

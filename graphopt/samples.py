"""Inputs for a model: drawn from its symbolic shapes, or read from the user's data.

Drawn inputs are legal as far as the graph says what is legal (see ``roles``): one symbol has one size in all inputs,
ids lie inside the table they index, a mask leaves at least one position per row, a shape is a shape. Numbers only:
whether a model really runs at some sizes is for the caller to try (``Inputs.typical`` and ``Inputs.edges`` say in
which order).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt import datafiles, roles
from graphopt.errors import ModelError, UsageError, nearest
from graphopt.values import values

Feeds = dict[str, Any]
Sizes = dict[str, int]
Style = Literal["any", "positive", "cautious"]
Shapes = Mapping[str, Sequence[int | str | None]]

from_file = datafiles.from_file
from_object = datafiles.from_object


def draw(
    model: ir.Model, *, seed: int = 0, samples: int = 4, shapes: Shapes | None = None
) -> list[dict[str, np.ndarray]]:
    """Draw inputs at cycling sizes: typical ones, then every symbol 1, 0 and a prime.

    Args:
        model: The model.
        seed: The same seed draws the same inputs.
        samples: How many sets of inputs.
        shapes: Sizes to use, by input name; -1, None or a name leaves an axis symbolic.

    Returns:
        One dictionary per sample, input name to array.

    Raises:
        ModelError: An input has no known shape, or is a sequence or optional.
        UsageError: ``shapes`` names no input, or contradicts the model.
    """
    inputs = Inputs(model, shapes)
    base = next(inputs.typical())
    cycle = [base, *(variants[0] for variants in inputs.edges(base))]
    return [inputs.draw(cycle[i % len(cycle)], seed=(seed, i)) for i in range(samples)]


def feeds(data: Any, model: ir.Model, *, samples: int | None = None) -> Iterator[Feeds]:
    """Yield batches of the user's data, each checked against the inputs of the model.

    Args:
        data: A ``.npz`` file, a directory of them, ``PKG.MODULE:ITERABLE``, a dictionary, or an iterable of
            dictionaries.
        model: The model that is to be fed.
        samples: At most so many batches.

    Yields:
        Input name to array, with exactly the inputs of the model, in their types.

    Raises:
        ModelError: The data lacks an input, or an array does not fit (the nearest name is suggested).
        UsageError: ``data`` is not one of the forms.
    """
    inputs = Inputs(model)
    if isinstance(data, str | os.PathLike):
        batches = datafiles.open_data(os.fspath(data), inputs.ranks())
    elif isinstance(data, Mapping):
        batches = iter([data])
    elif isinstance(data, Iterable):
        batches = iter(data)
    else:
        raise UsageError(
            f"data of type {type(data).__name__} cannot be fed", help="give a path or an iterable of dictionaries"
        )
    count = 0
    for batch in batches:
        if samples is not None and count >= samples:
            return
        if not isinstance(batch, Mapping):
            raise UsageError(
                f"batch {count} of the data is a {type(batch).__name__}", help="each batch is a dictionary of arrays"
            )
        yield inputs.check(batch, f"batch {count} of the data")
        count += 1
    if not count:
        raise ModelError("the data holds no batch", help="at least one is needed")


class Inputs:
    """What a model wants to be fed.

    Attributes:
        symbols: The names of the sizes that are free, in order of appearance. An axis without a name shares the symbol
            ``?K`` with all nameless axes K: two inputs of one batch are the rule, independent ones the exception.
    """

    def __init__(self, model: ir.Model, shapes: Shapes | None = None):
        """Read the inputs of a model.

        Raises:
            UsageError: ``shapes`` names no input, or contradicts the model.
        """
        graph = model.graph
        self._values = [v for v in graph.inputs if v.name not in graph.initializers]
        self._roles = {str(v.name): roles.role(model, v) for v in self._values}
        self._dims: dict[str, list[_Dim] | None] = {
            str(v.name): None if v.shape is None else [_dim(d, axis) for axis, d in enumerate(v.shape)]
            for v in self._values
        }
        self._fixed: Sizes = {}
        for name, given in (shapes or {}).items():
            self._fix(name, list(given))
        self.symbols: list[str] = []
        for dims in self._dims.values():
            for dim in dims or []:
                for symbol in sorted(dim.symbols):
                    if symbol not in self._fixed and symbol not in self.symbols:
                        self.symbols.append(symbol)

    def ranks(self) -> dict[str, tuple[int | None, int | None]]:
        """Per input: its rank and its batch size, None where they are not fixed."""
        return {
            name: (None, None) if dims is None else (len(dims), dims[0].number if dims else None)
            for name, dims in self._dims.items()
        }

    def typical(self, batches: Sequence[int] = (2, 1)) -> Iterator[Sizes]:
        """Yield sizes at which a model of this kind usually runs, the most natural first.

        Distinct symbols get distinct sizes first (equal ones hide mixed-up axes); then equal ones (symbols that have to
        agree); then larger ones (strides and poolings need room); then the other batch size (1: models that were
        traced so).

        Args:
            batches: Batch sizes to try.
        """
        kinds = {symbol: self._kind(symbol) for symbol in self.symbols}
        emitted: list[Sizes] = []
        for batch in batches:
            for distinct, sequence, spatial in (
                (True, 5, 16),
                (False, 5, 16),
                (True, 8, 32),
                (False, 8, 32),
                (False, 16, 64),
                (False, 32, 128),
                (False, 64, 224),
                (False, 128, 299),
                (False, batch, batch),
            ):
                sizes = dict(self._fixed)
                order = {"batch": 0, "sequence": 0, "spatial": 0}
                for symbol in self.symbols:
                    kind = kinds[symbol]
                    rank = order[kind] if distinct else 0
                    order[kind] += 1
                    sizes[symbol] = {"batch": batch + rank, "sequence": sequence + rank, "spatial": spatial + 8 * rank}[
                        kind
                    ]
                self._relate(sizes)
                if sizes not in emitted:
                    emitted.append(sizes)
                    yield sizes

    def edges(self, base: Sizes) -> Iterator[list[Sizes]]:
        """Yield what to try besides typical sizes: 1, 0, a prime; for all symbols at once, then for one at a time.

        Args:
            base: Sizes at which the model runs.

        Yields:
            For each of the three the variants, in order of preference.
        """
        primes: Sizes = {}
        for symbol in self.symbols:
            primes[symbol] = _prime_above(max(6, base[symbol]), set(primes.values()))
        for label in ("1", "0", "a prime"):
            values = primes if label == "a prime" else dict.fromkeys(self.symbols, int(label))
            together = {**base, **values}
            if label == "a prime":
                self._relate(together)
            alone = [{**base, symbol: values[symbol]} for symbol in self.symbols]
            variants: list[Sizes] = []
            for sizes in (together, *alone):
                if sizes != base and sizes not in variants:
                    variants.append(sizes)
            if variants:
                yield variants

    def settle(
        self, run: Callable[[Feeds], Any], *, seed: int | Sequence[int] = 0, batches: Sequence[int] = (2, 1)
    ) -> tuple[Sizes, Style]:
        """Find typical sizes at which a model runs.

        Args:
            run: Runs the model; a ModelError means that it does not run on these inputs.
            seed: For the inputs.
            batches: Batch sizes to try.

        Returns:
            The sizes, and the style of drawing that was needed (see :meth:`draw`).

        Raises:
            ModelError: An input cannot be drawn, or the model runs at none of the sizes.
        """
        self.require()
        first: tuple[Sizes, ModelError] | None = None
        styles: tuple[Style, ...] = ("any", "cautious")
        for style in styles:
            for sizes in self.typical(batches):
                try:
                    run(self.draw(sizes, seed=seed, style=style))
                except ModelError as error:
                    first = first or (sizes, error)
                else:
                    return sizes, style
        assert first is not None  # at least one size is tried
        sizes, error = first
        like = " ".join(f"--shape {name}={','.join(map(str, s))}" for name, s in self.shapes(sizes).items() if s)
        raise ModelError(
            f"the model runs at none of the sizes that were tried: {error.what}",
            where=error.where,
            help=f"give sizes at which it runs, in place of these: {like}" if like else error.help,
        ) from error

    def draw(self, sizes: Sizes, *, seed: int | Sequence[int] = 0, style: Style = "any") -> Feeds:
        """Draw one set of inputs.

        Args:
            sizes: A size for every symbol.
            seed: The same seed draws the same inputs.
            style: ``positive`` draws positive floats only, ``cautious`` takes 0 for an integer whose use is not known.

        Raises:
            ModelError: An input has no known shape or type, or is a sequence or optional.
        """
        rng = np.random.default_rng(seed)
        shapes = self.shapes(sizes)
        feeds: Feeds = {}
        for value in self._values:
            name = str(value.name)
            feeds[name] = values(value, self._roles[name], tuple(shapes[name]), sizes, rng)
            if style == "cautious" and self._roles[name] == roles.Role(numeric=True) and value.dtype is not None:
                feeds[name] = feeds[name] * 0 if value.dtype.is_integer() else feeds[name]
            if style == "positive" and value.dtype is not None and value.dtype.is_floating_point():
                feeds[name] = (0.1 + np.abs(feeds[name].astype(np.float64))).astype(feeds[name].dtype)
        return feeds

    def shapes(self, sizes: Sizes) -> dict[str, list[int]]:
        """The shape of every input at these sizes.

        Raises:
            ModelError: An input cannot be drawn (see :meth:`require`), or a size is not a whole number there.
        """
        self.require()
        return {name: [dim.at(sizes, name) for dim in dims or []] for name, dims in self._dims.items()}

    def require(self) -> None:
        """Check that inputs can be drawn at all.

        Raises:
            ModelError: An input has no known shape, or is a sequence or optional.
        """
        for value in self._values:
            name = str(value.name)
            if isinstance(value.type, ir.SequenceType | ir.OptionalType):
                kind = "a sequence" if isinstance(value.type, ir.SequenceType) else "an optional"
                raise ModelError(
                    f"input {name!r} is {kind}; such inputs cannot be drawn", help="give the inputs with --data"
                )
            if self._dims[name] is None:
                raise ModelError(f"input {name!r} has no shape", help=f"give one: --shape {name}=1,3,224,224")

    def check(self, batch: Mapping[str, Any], where: str) -> Feeds:
        """Match given arrays with the inputs.

        Args:
            batch: Name to array; names that are no inputs (labels) are left out.
            where: Names the batch in messages.

        Returns:
            Exactly the inputs, converted where the conversion loses nothing but precision.

        Raises:
            ModelError: An input is missing, or its array has another rank, size or kind of number.
        """
        checked: Feeds = {}
        for value in self._values:
            name = str(value.name)
            if name not in batch:
                guess = nearest(name, [key for key in batch if key not in self._dims])
                raise ModelError(
                    f"no array for input {name!r}",
                    where=where,
                    help=f"rename {guess!r}, or add it" if guess else f"the data holds {', '.join(map(str, batch))}",
                )
            checked[name] = self._checked(value, batch[name], where)
        return checked

    def _checked(self, value: ir.Value, given: Any, where: str) -> Any:
        name, dims = str(value.name), self._dims[str(value.name)]
        if not isinstance(value.type, ir.TensorType):
            return given
        array = np.asarray(given)
        if dims is not None and array.ndim != len(dims):
            raise ModelError(
                f"input {name!r} has {len(dims)} axes, the array has {array.ndim}",
                where=where,
                help=self._wanted(value),
            )
        for axis, dim in enumerate(dims or []):
            if dim.number is not None and dim.number != array.shape[axis]:
                raise ModelError(
                    f"axis {axis} of input {name!r} is {dim.number}, the array has {array.shape[axis]}",
                    where=where,
                    help=self._wanted(value),
                )
        if value.type.dtype == ir.DataType.STRING:
            return array.astype(object)
        wanted = value.type.dtype.numpy()
        if array.dtype != wanted:
            exact = array.dtype.kind in "biu" and wanted.kind in "iu" and np.array_equal(array.astype(wanted), array)
            foreign = wanted.kind == "V" or array.dtype.kind == "V"  # bfloat16 and smaller: numpy knows no rule
            if not (exact or foreign or np.can_cast(array.dtype, wanted, "same_kind")):
                raise ModelError(
                    f"input {name!r} is {wanted}, the array is {array.dtype}", where=where, help=self._wanted(value)
                )
            array = array.astype(wanted)
        return np.asarray(array, order="C")

    @staticmethod
    def _wanted(value: ir.Value) -> str:
        return f"give {value.dtype}{'' if value.shape is None else value.shape}, as the model declares it"

    def _fix(self, name: str, given: list[int | str | None]) -> None:
        if name not in self._dims:
            guess = nearest(name, self._dims)
            raise UsageError(
                f"no input {name!r}",
                help=f"did you mean {guess!r}?" if guess else f"the inputs are {', '.join(self._dims) or 'none'}",
            )
        dims = self._dims[name]
        if dims is None:
            dims = [_Dim(None, frozenset({f"{name}.{axis}"}), f"{name}.{axis}") for axis in range(len(given))]
            self._dims[name] = dims
        if len(dims) != len(given):
            raise UsageError(f"input {name!r} has {len(dims)} axes, the given shape {len(given)}")
        for axis, (dim, size) in enumerate(zip(dims, given, strict=True)):
            if size is None or (isinstance(size, str) and not size.lstrip("+-").isdigit()) or int(size) == -1:
                continue
            size = int(size)
            if size < 0:
                raise UsageError(f"axis {axis} of input {name!r} cannot have size {size}", help="-1 leaves it open")
            known = dim.number if dim.number is not None else self._fixed.get(dim.name)
            if known is not None and known != size:
                raise UsageError(f"axis {axis} of input {name!r} is {known}, the given shape says {size}")
            if dim.number is None and dim.name in dim.symbols:
                self._fixed[dim.name] = size
            elif dim.number is None:  # an expression of other symbols: this axis is settled, they are not
                dims[axis] = _Dim(size, frozenset(), str(size))

    def _kind(self, symbol: str) -> str:
        if "batch" in symbol.lower() or symbol in ("N", "n", "B", "b", "bs"):
            return "batch"
        if any(word in symbol.lower() for word in ("seq", "len", "time", "token")):
            return "sequence"
        kinds = set()
        for value in self._values:
            dims = self._dims[str(value.name)] or []
            for axis, dim in enumerate(dims):
                if symbol in dim.symbols:
                    image = len(dims) >= 4 and value.dtype is not None and value.dtype != ir.DataType.BOOL
                    kinds.add("batch" if axis == 0 else "spatial" if axis >= 2 and image else "sequence")
        # First axis of one input and another axis of another: not what makes a batch.
        return next(kind for kind in ("spatial", "sequence", "batch") if kind in kinds)

    def _relate(self, sizes: Sizes) -> None:
        """``total_length`` is ``past_length`` + ``length`` in every decoder with a cache."""
        total = [s for s in self.symbols if "total" in s.lower()]
        past = [s for s in self.symbols if "past" in s.lower() and s not in total]
        fresh = [s for s in self.symbols if "seq" in s.lower() and s not in total + past]
        if len(total) == 1 and len(past) == 1 and len(fresh) == 1:
            sizes[total[0]] = sizes[past[0]] + sizes[fresh[0]]


class _Dim:
    """The size of an axis: a number, a symbol, or an expression of symbols."""

    def __init__(self, number: int | None, symbols: frozenset[str], name: str, expression: Any = None):
        self.number = number
        self.symbols = symbols
        self.name = name
        self._expression = expression

    def at(self, sizes: Mapping[str, int], owner: str) -> int:
        if self.number is not None:
            return self.number
        if self.name in self.symbols:
            return sizes[self.name]
        size = self._expression.evaluate(sizes)
        if not isinstance(size, int) or size < 0:
            raise ModelError(f"axis {self.name!r} of input {owner!r} has no size at {sizes}")
        return size


def _dim(dim: int | ir.SymbolicDim, axis: int) -> _Dim:
    if isinstance(dim, int):
        return _Dim(dim, frozenset(), str(dim))
    name = f"?{axis}" if dim.value is None else str(dim.value)
    try:
        symbols = frozenset(dim.free_symbols()) or frozenset({name})
    except ValueError:  # not an expression: any text is a legal name
        symbols = frozenset({name})
    return _Dim(None, symbols, name, dim)


def _prime_above(low: int, taken: set[int]) -> int:
    candidate = low + 1
    while candidate in taken or any(candidate % d == 0 for d in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate

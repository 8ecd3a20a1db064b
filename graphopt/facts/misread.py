"""Entries of a reshape's shape that are zero at run time: without ``allowzero`` they say "the same size as before".

``Reshape(x: [batch, 2, 2, time, 6], [batch, 4, time, 6])`` of no sequences of no steps is ``[0, 4, 2, 6]``: the third
entry is zero and copies the third size of ``x``. That is what the model says, whatever its author meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt import dims
from graphopt.facts.constants import is_constant
from graphopt.facts.entries import REST, Entries, Entry
from graphopt.facts.factors import Product, product_of

UNNAMED = "\0"
"""A symbol for what has no name; no name in a model is that."""


def symbols(entry: Entry) -> set[str]:
    """Return the symbols of which a size is the product; one of them is zero where it is."""
    return set(entry.symbols) if isinstance(entry, Product) else {UNNAMED} if entry is None else set()


def computed(node: ir.Node) -> bool:
    """Tell whether a node is a reshape whose computed shape may say zero without meaning it."""
    if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return False
    shape = node.inputs[1]
    return shape is not None and not is_constant(shape) and not node.attributes.get_int("allowzero", 0)


def entries_of(entries: Entries, shape: ir.Value | None, recorded: dims.Sizes) -> list[Entry]:
    """Return the entries of a computed shape; what it does not tell from the sizes that are recorded behind it."""
    found = entries.of(shape)
    if found is None or len(found) != len(recorded):
        return [product_of(size) for size in recorded]
    return [product_of(size) if entry is None else entry for entry, size in zip(found, recorded, strict=True)]


def misread(before: Sequence[dims.Size], entries: Sequence[Entry]) -> dict[int, set[str]]:
    """Return the places of entries that may copy another size, with the symbols that make them do so.

    Empty where the reshape then fails, for the number of elements would be another one.
    """
    own = [symbols(product_of(size)) - {UNNAMED} for size in before]
    found = {place: symbols(entry) - own[place] for place, entry in enumerate(entries[: len(own)])}
    alone = set().union(*(symbols(product_of(size)) for size in before), *map(symbols, entries))
    if REST not in entries and len(alone) < 2 and UNNAMED not in alone:
        return {}
    return {place: names for place, names in found.items() if names}


def copied(node: ir.Node, before: dims.Sizes, recorded: dims.Sizes, entries: Entries) -> tuple[set[int], bool]:
    """Return which sizes of a reshape's input may be copied where a size of zero was meant.

    And whether an entry of -1 may then be another size than the number that is recorded.
    """
    suspects = [place for place, size in enumerate(recorded[: len(before)]) if not isinstance(size, int)]
    if not computed(node) or all(dims.provably_equal(before[place], recorded[place]) for place in suspects):
        return set(), False
    found = entries_of(entries, node.inputs[1], recorded)
    places = misread(before, found)
    rest = any(entry == REST and isinstance(size, int) for entry, size in zip(found, recorded, strict=True))
    return set(places), bool(places) and rest

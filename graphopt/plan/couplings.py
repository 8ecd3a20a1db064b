"""What can only be removed together: positions of parameters whose removal is one decision.

Removing a position of one weight removes it from all that it is tied with: what is added to it, normalized with it,
reads it. ``plan/cells.py`` numbers the positions of all axes and ties them; here connected components are found once
(*units*), and units that touch the same parameters in the same way are put side by side (*couplings*: the filters of a
layer, the channels of a stream, the heads of an attention).

A unit may leave only if none of its cells is pinned: visible in an output, tied to an input or to something unknown.
Of the others it is said which slices *write* it: zeros there make the unit zero wherever it is read. All other slices
are dead with the unit, whatever they hold. Where zeros do not come through to a reader (behind a sigmoid or a softmax
there is a constant), the reader's own columns are among the writes.

Linear in the size of the graph and of its axes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.facts.constants import Constants
from graphopt.facts.walk import analyse
from graphopt.plan.cells import Cells, Product
from graphopt.plan.components import components
from graphopt.plan.walk import walk


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Positions of one axis of one parameter that belong to each unit: ``index`` ``[units, k]``."""

    parameter: str
    axis: int
    index: np.ndarray
    writes: bool
    """Zeros here remove the unit; otherwise it is dead with the unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """Units that touch the same parameters in the same way."""

    units: int
    members: tuple[Member, ...]
    writers: frozenset[str]
    """What computes the units: ``convolution``, ``linear``, ``table``."""
    attends: bool
    """A softmax runs along: the units are heads."""
    joined: bool
    """Computed values are added up: the units are channels of a stream."""


@dataclass(frozen=True, slots=True, eq=False)
class Width:
    """A contraction: how many positions it reads and writes for each unit, by number of the coupling.

    ``kind`` is ``convolution``, ``linear``, or ``computed`` where no operand is a weight: then ``outputs`` counts
    positions of several axes of its output, of which there are ``cells`` in all.
    """

    node: ir.Node
    kind: str
    inputs: Mapping[int, int]
    outputs: Mapping[int, int]
    cells: int


@dataclass(frozen=True, slots=True, eq=False)
class Couplings:
    """All couplings of a graph."""

    found: tuple[Coupling, ...]
    pinned: Mapping[str, str]
    """Parameter → why positions of it cannot leave; of those with one that can, nothing is said."""
    widths: tuple[Width, ...]


def couplings(model: ir.Model, parameters: Collection[str]) -> Couplings:
    """Return what can only be removed together.

    Args:
        model: with inferred shapes; sizes that are not static are never cut.
        parameters: initializers that may be zeroed.
    """
    return _Solution(walk(analyse(model, Constants()), parameters)).couplings()


class _Solution:
    """Components, zeros, and who writes them."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.roots = self._roots([(a, b) for a, b, _ in cells.copies])
        pinned = self._pinned()
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        for source, copy, travel in cells.copies:
            if pinned[self.roots[source]].any():
                cells.pin(source, "only its copies can leave")
                travel.possible[:] = False
            else:
                kept.append((source, copy))
        if len(kept) < len(cells.copies):
            self.roots = self._roots(kept)
        self.zero = self._zeros()
        self.needed = np.zeros(cells.count, bool)
        self._read()
        self.pinned = self._pinned()
        self._write()

    def _roots(self, copies: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        ties = [*self.cells.ties, *copies]
        none = np.zeros(0, np.int64)
        a, b = (np.concatenate([none, *(tie[side] for tie in ties)]) for side in (0, 1))
        return components(self.cells.count, a, b)

    def _pinned(self) -> np.ndarray:
        """Return which components (bool, by root) have a cell that is pinned."""
        found = np.zeros(self.cells.count, bool)
        for cells, _ in self.cells.pins:
            found[self.roots[cells]] = True
        return found

    def _zeros(self) -> np.ndarray:
        """Return ``[cells]`` (bool): zero once the parameters' own positions of the unit are."""
        zero = np.zeros(self.cells.count, bool)
        for _, _, cells in self.cells.owned:
            zero[cells] = True
        for travel in self.cells.travels:
            found, factor = travel.possible.copy(), np.zeros(travel.out.size, bool)
            factors = False
            for role, sources in travel.sources:
                known = (zero[np.maximum(sources, 0)] | (sources < 0)).all(axis=1)
                if role == "factor":
                    factor |= known & (sources >= 0).all(axis=1)
                    factors = True
                elif role == "term":
                    found &= known
            zero[travel.out] = found & factor if factors else found & bool(travel.sources)
        return zero

    def _read(self) -> None:
        """Say which zeros the readers rely on; pin what they would see a constant of."""
        for read in self.cells.reads:
            zero_a = self.zero[read.a]
            if read.b is None:
                self.needed[read.a[zero_a]] = True
                self.cells.pin(read.a[~zero_a], "a sum or a norm sees a constant that is not zero")
                continue
            zero_b = self.zero[read.b]
            # Zeros of what is computed first: the other side is dead then, whatever it holds.
            for mine, zero, weight, other_zero, other_weight in (
                (read.a, zero_a, read.a_weight, zero_b, read.b_weight),
                (read.b, zero_b, read.b_weight, zero_a, read.a_weight),
            ):
                relied = zero if not weight else zero & ~(other_zero & (not other_weight))
                self.needed[mine[relied]] = True
            self.cells.pin(read.a[~zero_a & ~zero_b], "a product sees constants that are not zero")

    def _write(self) -> None:
        """Walk back from the readers: what has to be zero for what they rely on to be zero."""
        for travel in reversed(self.cells.travels):
            wanted = self.needed[travel.out]
            if not wanted.any():
                continue
            for _, sources in travel.sources:
                rows = sources[wanted]
                known = (self.zero[np.maximum(rows, 0)] | (rows < 0)).all(axis=1)
                rows = rows[known]
                self.needed[rows[rows >= 0]] = True

    # -- units side by side -------------------------------------------------------------------------------------------

    def couplings(self) -> Couplings:
        cells = self.cells
        owned = cells.owned
        none = np.zeros(0, np.int64)
        every = np.concatenate([none, *(each for _, _, each in owned)])
        slot = np.repeat(np.arange(len(owned)), [each.size for _, _, each in owned])
        place = np.concatenate([none, *(np.arange(each.size) for _, _, each in owned)])
        root = self.roots[every] if every.size else none
        free = ~self.pinned[root] if every.size else np.zeros(0, bool)
        writes = self.needed[every] if every.size else np.zeros(0, bool)
        order = np.lexsort((place, ~writes, slot, root))
        order = order[free[order]]
        units = self._units(root[order], 2 * slot[order] + ~writes[order], place[order])
        flags = self._flags()
        number = np.full(cells.count, -1)
        found: list[Coupling] = []
        for slots, rows in units.items():
            if not any(slot % 2 == 0 for slot, _ in slots):
                continue  # nobody reads it
            rows.sort(key=lambda row: [places.tolist() for places in row[1]])
            members = tuple(
                Member(*owned[slot // 2][:2], np.stack([places[at] for _, places in rows]), slot % 2 == 0)
                for at, (slot, _) in enumerate(slots)
            )
            roots = np.array([root for root, _ in rows])
            number[roots] = len(found)
            writers = frozenset(kind for kind, marked in flags.writers.items() if marked[roots].any())
            found.append(
                Coupling(len(rows), members, writers, bool(flags.attends[roots].any()), bool(flags.joined[roots].any()))
            )
        return Couplings(tuple(found), self._reasons(every, slot), tuple(self._widths(number)))

    @staticmethod
    def _units(
        root: np.ndarray, slot: np.ndarray, place: np.ndarray
    ) -> dict[tuple[tuple[int, int], ...], list[tuple[int, list[np.ndarray]]]]:
        """Return (slot, how many positions), … → (root, positions in each slot) of every unit of that form."""
        found: dict[tuple[tuple[int, int], ...], list[tuple[int, list[np.ndarray]]]] = {}
        if not root.size:
            return found
        runs = np.flatnonzero(np.diff(root, prepend=root[0] - 1) | np.diff(slot, prepend=slot[0] - 1))
        ends = np.append(runs[1:], root.size)
        form: list[tuple[int, int]] = []
        places: list[np.ndarray] = []
        for at, (start, end) in enumerate(zip(runs.tolist(), ends.tolist(), strict=True)):
            form.append((int(slot[start]), end - start))
            places.append(place[start:end])
            if at + 1 == runs.size or root[runs[at + 1]] != root[start]:
                found.setdefault(tuple(form), []).append((int(root[start]), places))
                form, places = [], []
        return found

    def _flags(self) -> _Flags:
        count = self.cells.count
        flags = _Flags({}, np.zeros(count, bool), np.zeros(count, bool))
        for cells in self.cells.softmaxes:
            flags.attends[self.roots[cells]] = True
        for cells in self.cells.sums:
            flags.joined[self.roots[cells]] = True
        made = [(each.kind, each.outputs) for each in self.cells.products if each.kind != "computed"]
        for kind, cells in (*made, *(("table", cells) for cells in self.cells.tables)):
            roots = np.unique(self.roots[cells])
            flags.writers.setdefault(kind, np.zeros(count, bool))[roots] = True
        return flags

    def _reasons(self, every: np.ndarray, slot: np.ndarray) -> dict[str, str]:
        """Return the reasons of each parameter without any position that can leave, those of its axes in order."""
        if not every.size:
            return {}
        reason = np.full(self.cells.count, len(self.cells.pins))
        for place in range(len(self.cells.pins) - 1, -1, -1):
            reason[self.roots[self.cells.pins[place][0]]] = place
        owned, found = self.cells.owned, dict[str, dict[str, None]]()
        moving = {owned[place][0] for place in np.unique(slot[~self.pinned[self.roots[every]]]).tolist()}
        for name, _, cells in owned:
            first = int(reason[self.roots[cells]].min())
            if name not in moving and first < len(self.cells.pins):
                found.setdefault(name, {})[self.cells.pins[first][1]] = None
        return {name: "; ".join(reasons) for name, reasons in found.items()}

    def _widths(self, number: np.ndarray) -> list[Width]:
        return [self._width(product, number) for product in self.cells.products]

    def _width(self, product: Product, number: np.ndarray) -> Width:
        def of(cells: np.ndarray | None) -> dict[int, int]:
            if cells is None:
                return {}
            roots = self.roots[cells.ravel()]
            known, count = np.unique(number[roots], return_counts=True)
            each = {int(k): int(np.unique(roots[number[roots] == k]).size) for k in known if k >= 0}
            return {k: int(n) // each[k] for k, n in zip(known.tolist(), count.tolist(), strict=True) if k >= 0}

        return Width(product.node, product.kind, of(product.inputs), of(product.outputs), product.outputs.size)


@dataclass(slots=True)
class _Flags:
    """What is known of components, by root."""

    writers: dict[str, np.ndarray]
    attends: np.ndarray
    joined: np.ndarray


__all__ = ["Coupling", "Couplings", "Member", "Width", "couplings"]

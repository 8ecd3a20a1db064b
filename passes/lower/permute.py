"""Positions are put into an order in which scatters and gathers are ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.context import Context
from graphopt.plan.classes import Plan
from graphopt.plan.order import choose_orders, find_moves
from graphopt.rewrite.edit import Edit
from graphopt.rewrite.moves import ROLE
from graphopt.rewrite.orders import permute


@dataclass(frozen=True)
class Permute:
    """Permute the weights on both sides of an axis so that what is scattered into it, or gathered from it, is a range.

    1. A scatter whose positions come to lie side by side is a ``Pad`` alone, without the ``Gather`` behind it.
    2. A gather whose positions come to lie side by side is a ``Slice``.
    3. The branch that is scattered, and what reads the gathered positions, get the order that fits.

    *Never* an axis that a graph input or output shows, that anything but elementwise operators, pools and ungrouped
    contractions with constant weights passes on or reads, nor a constant that several operators share. Nothing is done
    unless more of the moves are ranges afterwards.

    *Needs* lowered scatters in a tidy graph; looks only at gathers and scatters that graphopt itself has made.

    ``Add(x, Gather(Pad(Conv(y, W)), map))`` -> ``Add(x', Pad(Conv(y, W')))``
    """

    name: ClassVar[str] = "permute"

    def run(self, context: Context) -> bool:
        """Run on every graph."""
        return context.everywhere(lambda: _permute(context))


def _permute(context: Context) -> bool:
    if not any(ROLE in node.metadata_props for node in context.graph):
        return False
    facts = context.facts()
    orders = choose_orders(facts, find_moves(facts, ROLE))
    if not orders.perms:
        return False
    edit = Edit(Plan(facts, context.kind), "composed", cut_weights=True)
    return context.record({"permuted": permute(orders, edit)})

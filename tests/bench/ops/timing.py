"""Times of several ways to do one thing, interleaved, so that a busy moment meets all of them.

Each round runs every way once, in an order that rotates. Three figures come of it: the median, for a quiet machine; the
fastest tenth, which other processes disturb least; and the processor's time, all threads of this process together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from graphopt import runtime


@dataclass(frozen=True)
class Timing:
    """Seconds a run.

    Attributes:
        median: Of all runs.
        fastest: The median of the fastest tenth.
        processor: The median of the processor's time; with two threads it holds waiting too.
        runs: How many.
    """

    median: float
    fastest: float
    processor: float
    runs: int

    @property
    def microseconds(self) -> float:
        """The fastest tenth, for a table."""
        return self.fastest * 1e6

    def without(self, start: Timing) -> Timing:
        """What is left when the start of a run is taken off."""
        return replace(
            self,
            median=self.median - start.median,
            fastest=self.fastest - start.fastest,
            processor=self.processor - start.processor,
        )

    def times_faster(self, other: Timing) -> float:
        """How many times as long the other one takes, by the fastest tenth."""
        return other.fastest / self.fastest


def started(nodes: int, *, threads: int = 1) -> Callable[[], None]:
    """Return what runs a chain of nodes on one number: what a run costs before it computes anything (30 to 50 µs).

    Args:
        nodes: How many.
        threads: Inside an operator.
    """
    one = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("v0", f"v{nodes}")]
    chain = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(nodes)]
    graph = helper.make_graph(chain, "nothing", one[:1], one[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bound(model, {"v0": np.ones(1, np.float32)}, threads=threads)


def interleaved(
    ways: Mapping[str, Callable[[], object]], *, seconds: float = 2.0, least: int = 15, most: int = 2000
) -> dict[str, Timing]:
    """Time every way.

    Args:
        ways: What to run, by name.
        seconds: About how long all of it may take.
        least: The fewest runs of each, whatever they take.
        most: The most.
    """
    for way in ways.values():  # packs, allocates, warms up
        way()
        way()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or (time.perf_counter() < end and rounds < most):
        for name in names:
            begun, spent = time.perf_counter(), time.process_time()
            ways[name]()
            wall[name].append(time.perf_counter() - begun)
            used[name].append(time.process_time() - spent)
        names = names[1:] + names[:1]
        rounds += 1
    return {
        name: Timing(
            median=float(np.median(wall[name])),
            fastest=float(np.median(sorted(wall[name])[: max(1, rounds // 10)])),
            processor=float(np.median(used[name])),
            runs=rounds,
        )
        for name in ways
    }


def bound(
    model: ir.Model | onnx.ModelProto | str,
    feeds: Mapping[str, Any],
    *,
    threads: int = 1,
    library: bool = True,
    provider: str = "cpu",
) -> Callable[[], None]:
    """Return what runs a model once with its inputs in place, in a session set up for speed.

    Args:
        model: The model.
        feeds: Its inputs.
        threads: Inside an operator.
        library: Whether runtime operators take their native kernels.
        provider: ``cpu`` or ``cuda``.
    """
    loaded = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    session = runtime.session(loaded, threads=threads, lean=False, operators=library, provider=provider)
    wanted = {value.name for value in session.get_inputs()}
    return runtime.Bound(
        session, {name: array for name, array in feeds.items() if name in wanted}, provider=provider
    ).run

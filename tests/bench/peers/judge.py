"""One tool on one model: does the result compute the same, and how many constants does it hold?"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from tests.bench.peers.candidate import Candidate, Run, floats
from tests.bench.peers.modules import MODULES
from tests.bench.peers.task import Feeds, Task
from tests.nets.catalogue import FULL, SMALL
from tests.nets.net import Net
from tests.strategies import check
from tests.strategies.graphs import feeds as draw

Status = Literal["exact", "wrong", "failed", "not installed", "n/a"]
SIZES = (1, 2, 5)
STATIC = 2
ABSOLUTE, RELATIVE = 3e-5, 1e-4
"""Of the largest entry of an output; of each entry."""


@dataclass(frozen=True)
class Peer:
    """A tool: where its function is, the distribution it comes in, and whether it needs torch modules."""

    name: str
    place: str
    distribution: str | None
    modules: bool = False

    def tool(self) -> Callable[[Task], list[Candidate]]:
        """Import the function."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(f"tests.bench.peers.{module}"), name)

    def version(self) -> str | None:
        """Which version is installed; None where none is."""
        try:
            return metadata.version(self.distribution) if self.distribution else "this tree"
        except metadata.PackageNotFoundError:
            return None


GRAPHOPT = Peer("graphopt", "onnx_tools:graphopt", None)
PEERS = (
    GRAPHOPT,
    Peer("openvino", "openvino_tool:openvino", "openvino"),
    Peer("onnxslim", "onnx_tools:onnxslim", "onnxslim"),
    Peer("onnxsim", "onnx_tools:onnxsim", "onnxsim"),
    Peer("onnxsim pruning", "onnx_tools:onnxsim_pruning", "onnxsim"),
    Peer("torch-pruning", "torch_tools:torch_pruning", "torch-pruning", modules=True),
    Peer("torch-simplify", "torch_tools:torch_simplify", "torch-simplify", modules=True),
)


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a model.

    Attributes:
        status: exact, wrong, failed, not installed, or n/a (a tool for torch modules, and this is none).
        floats: constants left, of the smallest exact result (of the first where none is exact).
        before: constants of the original.
        detail: what went wrong.
        path: the result as a file, where one was asked for.
    """

    status: Status
    floats: int = 0
    before: int = 0
    detail: str = ""
    path: str | None = None

    @property
    def shrinks(self) -> bool:
        """Tell whether anything is gone."""
        return self.floats < self.before


def work(peer: Peer, path: str, name: str, batches: Sequence[int], folder: str | None) -> Outcome:
    """Run a tool on a model file; ``folder``: where to leave the result for a measurement.

    Exceptions of the tool become an outcome. The last candidate that is exact is saved: for graphopt that is the plan
    "fastest".
    """
    if peer.version() is None:
        return Outcome("not installed")
    module = torch_module(name)
    if peer.modules and module is None:
        return Outcome("n/a")
    warnings.simplefilter("ignore")
    model = onnx.load(path)
    original = check.session(model)
    inputs = list(_inputs(name, model, batches))
    expected = [[np.asarray(output) for output in original.run(None, feeds)] for feeds in inputs]
    before = floats(model)
    try:
        candidates = peer.tool()(Task(model, inputs, module, timed=folder is not None))
    except ImportError as error:
        return Outcome("not installed", before=before, detail=str(error))
    except Exception as error:
        return Outcome("failed", before=before, detail=_brief(error))
    verdicts = [_verdict(candidate, inputs, expected) for candidate in candidates]
    exact = [one for one, verdict in zip(candidates, verdicts, strict=True) if verdict is None]
    if peer.name == GRAPHOPT.name:  # has no second try: both plans must be exact
        wrong = next((verdict for verdict in verdicts if verdict is not None), None)
        chosen, status = candidates[0], wrong
    else:
        chosen = min(exact, key=lambda one: one.floats) if exact else candidates[0]
        status = None if exact else verdicts[0]
    saved = None
    if folder is not None and exact:
        timed = exact[-1] if peer.name == GRAPHOPT.name else chosen
        Path(folder).mkdir(parents=True, exist_ok=True)
        saved = None if timed.save is None else str(timed.save(Path(folder)))
    if status is None:
        return Outcome("exact", chosen.floats, before, path=saved)
    return Outcome("failed" if status.startswith("does not run") else "wrong", chosen.floats, before, status, saved)


def torch_module(name: str) -> Callable[[], object] | None:
    """The torch module behind a row or net, with its masks."""
    for row in MODULES:
        if row.name == name:
            return row.module
    found = net(name)
    return None if found is None else lambda: found.module("zeros")


def net(name: str) -> Net | None:
    """The net of the catalogue that a table calls ``full:NAME`` or ``small:NAME``."""
    size, _, rest = name.partition(":")
    return {"full": FULL, "small": SMALL}.get(size, {}).get(rest)


def _inputs(name: str, model: onnx.ModelProto, batches: Sequence[int]) -> Iterator[Feeds]:
    found = net(name)
    conditions = any(value.type.tensor_type.elem_type == onnx.TensorProto.BOOL for value in model.graph.input)
    for batch in batches:
        if found is not None:
            yield found.feeds(batch, seed=batch)
            continue
        for seed in range(6 if conditions else 1):  # both branches of a condition
            yield draw(model, batch, seed)


def _verdict(candidate: Candidate, inputs: list[Feeds], expected: list[list[np.ndarray]]) -> str | None:
    """None: the same as the original in onnxruntime, or in the runtime that the tool is meant for."""
    try:
        problem = _against(candidate.run, inputs, expected)
        if problem is not None and candidate.reference is not None:
            own = [candidate.reference(feeds) for feeds in inputs]
            problem = problem if _against(candidate.run, inputs, own) is not None else None
    except Exception as error:
        return f"does not run: {_brief(error)}"
    return problem


def _against(run: Run, inputs: list[Feeds], expected: list[list[np.ndarray]]) -> str | None:
    for feeds, wanted in zip(inputs, expected, strict=True):
        given = run(feeds)
        if [one.shape for one in given] != [one.shape for one in wanted]:
            return f"shapes {[one.shape for one in given]} for {[one.shape for one in wanted]}"
        for one, other in zip(given, wanted, strict=True):
            a, b = one.astype(np.float64), other.astype(np.float64)
            scale = float(np.abs(b).max(initial=0))
            step = 20 if other.dtype == np.float16 else 1
            if not np.allclose(a, b, RELATIVE * step, ABSOLUTE * step * max(scale, 1e-2), equal_nan=True):
                return f"off by {float(np.abs(a - b).max()):.2g} of {scale:.2g}"
    return None


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:120]

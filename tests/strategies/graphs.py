"""The hypothesis strategy, and what turns a recipe into a model and into inputs for it."""

from __future__ import annotations

import bisect
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.strategies.builder import BATCH, Builder, Value
from tests.strategies.recipe import HEADER_BYTES, STEP_BYTES, Choices, InapplicableError, Recipe
from tests.strategies.steps import (  # noqa: F401  (each registers its steps)
    attention,
    attention_contrib,
    blocks,
    contractions,
    contrib,
    einsum,
    elementwise,
    movers,
    normalizations,
    others,
    pooling,
    quantized,
    recurrent,
    reductions,
    shapes,
    subgraphs,
)
from tests.strategies.steps.guards import calm
from tests.strategies.steps.registry import STEPS

OPSETS = [18, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23]
STATIC_BATCH = 2
MAX_OUTPUTS = 9


@dataclass(frozen=True)
class Graph:
    """A model, and the recipe it can be built from again."""

    recipe: Recipe
    model: onnx.ModelProto
    dynamic: bool
    zero: bool
    """Whether it runs with an empty batch."""

    def __repr__(self) -> str:
        return f"build({self.recipe!r})"

    def batches(self) -> list[int]:
        """The batch sizes to run at."""
        if not self.dynamic:
            return [STATIC_BATCH]
        return [1, 3, 0] if self.zero else [1, 3]


def _inputs(b: Builder, c: Choices) -> None:
    n = BATCH if b.dynamic else STATIC_BATCH
    channels = c.pick([4, 3, 8, 5, 2, 1, 7, 6])
    spatial = c.pick([[5, 5], [4, 4], [6], [3, 4, 3], [7, 3], [1, 1], [8]])
    b.push(b.input("x", (n, channels, *spatial)))
    if c.chance(30):
        b.push(b.input("y", (n, channels, *spatial)))
    if c.chance(30):
        b.push(b.input("tokens", (n, 3, c.pick([4, 6, 8, 5]))))
    if c.chance(35):
        b.push(b.input("counts", (n, c.pick([channels, 4])), amp=3.0, grain=0))
    if c.chance(15):
        b.push(b.input("numbers", (n, 3), "i", amp=5.0, grain=0))


def _step(b: Builder, c: Choices) -> None:
    if not b.pool:
        return
    recent = b.pool[-1 - c.below(min(3, len(b.pool)))]
    x = recent if not c.chance(30) else b.pool[-1 - c.below(len(b.pool))]
    steps = [s for s in STEPS if s.since <= b.opset and s.applies(x)]
    total = [0]
    for s in steps:
        total.append(total[-1] + s.weight)
    for _ in range(3):
        chosen = steps[bisect.bisect_right(total, c.below(total[-1])) - 1]
        nodes, initializers, pool, infos, inputs = (
            len(b.nodes),
            set(b.initializers),
            len(b.pool),
            len(b.infos),
            len(b.inputs),
        )
        shared = {k: list(v) for k, v in b.shared.items()}
        used = set(b._used)
        try:
            chosen.run(b, c, calm(b, c, x))
            return
        except InapplicableError:
            del b.nodes[nodes:], b.pool[pool:], b.infos[infos:], b.inputs[inputs:]
            for name in set(b.initializers) - initializers:
                del b.initializers[name]
            b.shared = shared
            b._used = used
    with suppress(InapplicableError):  # the value itself may be too large for one more of its size
        b.push(b.op("Identity", [x], x.shape, dtype=x.dtype, amp=x.amp, grain=x.grain))


def build(recipe: Recipe) -> Graph:
    """The model of a recipe; the same recipe gives the same model."""
    c = Choices(recipe.header, recipe.seed)
    opset, dynamic = c.pick(OPSETS), not c.chance(25)
    b = Builder(opset, dynamic, constant_nodes=c.chance(25), value_info=c.chance(30), zero=dynamic and not c.chance(20))
    _inputs(b, c)
    wanted = c.pick([1, 3, 4, 6, MAX_OUTPUTS, MAX_OUTPUTS])
    names = c.chance(20)
    for data in recipe.steps:
        _step(b, Choices(data, recipe.seed))
    for i in range(recipe.nodes):
        if len(b.nodes) >= recipe.nodes:
            break
        _step(b, Choices(bytes([0, 0, 0, i]), recipe.seed))
    made = {n for node in b.nodes for n in node.output}
    leaves = [v for v in reversed(b.pool) if v.name in made and not b.is_used(v)]
    outputs = leaves[:wanted]
    inner = [v for v in reversed(b.pool) if v.name in made and b.is_used(v)]
    if c.chance(35) and inner:  # a value that is an output and is read as well
        outputs.append(c.pick(inner))
    if not outputs:
        outputs = [b.op("Identity", [b.pool[0]], b.pool[0].shape, dtype=b.pool[0].dtype)]
    unique: dict[str, Value] = {v.name: v for v in outputs}
    model = b.model(list(unique.values()))
    if names:
        for node in model.graph.node:
            node.ClearField("name")
    return Graph(recipe, model, b.dynamic, b.zero)


@st.composite
def recipes(draw: st.DrawFn, *, nodes: int = 30) -> Recipe:
    """Recipes of at least so many nodes; each step adds one or more."""
    header = draw(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
    steps = draw(st.lists(st.binary(min_size=STEP_BYTES, max_size=STEP_BYTES), min_size=nodes // 3, max_size=nodes))
    return Recipe(draw(st.integers(0, 2**16 - 1)), header, tuple(steps), nodes)


def graphs(*, nodes: int = 30) -> st.SearchStrategy[Graph]:
    """Masked models of at least so many nodes, out of every operator of the tables in `steps`."""
    return recipes(nodes=nodes).map(build)


def feeds(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a model at a batch size: floats normal, gates 0 or 1, ids within their table, counts whole numbers."""
    rng = np.random.default_rng([seed, batch])
    result: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        shape = [d.dim_value if d.HasField("dim_value") else batch for d in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == onnx.TensorProto.BOOL:
            data = rng.random(shape) < 0.5
        elif value.name == "ids":
            data = rng.integers(0, others.WORDS, shape)
        elif kind == onnx.TensorProto.INT64:
            data = rng.integers(-5, 6, shape)
        elif value.name == "counts":
            data = rng.integers(-3, 4, shape).astype(np.float32)
        elif value.name.startswith("gate"):
            data = (rng.random(shape) < 0.5).astype(np.float32)
        else:
            data = np.clip(rng.standard_normal(shape), -3, 3).astype(np.float32)
        result[value.name] = np.asarray(data)
    return result

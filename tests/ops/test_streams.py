"""A transformer's stream whose dead positions agree everywhere narrows as a whole, through its norms to the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt import model as models
from graphopt import pipeline
from graphopt.facts.stats import stats
from graphopt.verify import Reference
from tests.ops.net import Case, Net, dead, examine
from tests.strategies import check

WIDTH, LIVE, HIDDEN, TOKENS, CLASSES = 12, 7, 5, 11, 3
DEAD = [0, 3, 4, 8, 11]
BLOCKS = 2


class Transformer:
    """Embedding, blocks of attention (one head) and feed-forward part, norm, head."""

    def __init__(
        self, kind: str, norm_first: bool, opset: int, *, silent: Sequence[int], unread: Sequence[int]
    ) -> None:
        self.kind, self.norm_first, self.silent, self.unread = kind, norm_first, silent, unread
        self.net = Net(opset)

    def norm(self, x: str) -> str:
        """LayerNorm, or RMSNorm as an operator or by hand."""
        net = self.net
        scale = dead(net.normal(WIDTH), 0, self.silent)
        if self.kind == "layer":
            return net("LayerNormalization", x, scale, dead(net.normal(WIDTH), 0, self.silent), epsilon=0.01)
        if self.kind == "rms":
            return net("RMSNormalization", x, scale, epsilon=0.01)
        mean = net("Add", net("ReduceMean", net("Mul", x, x), [-1]), 0.01)
        return net("Mul", net("Mul", x, net("Reciprocal", net("Sqrt", mean))), scale)

    def read(self, x: str, outputs: int) -> str:
        """A product that reads the stream."""
        return self.net("MatMul", x, dead(self.net.normal(WIDTH, outputs), 0, self.unread) / 3)

    def write(self, x: str, inputs: int) -> str:
        """A product and a bias that write to the stream."""
        net = self.net
        y = net("MatMul", x, dead(net.normal(inputs, WIDTH), 1, DEAD) / 3)
        return net("Add", y, dead(net.normal(WIDTH), 0, DEAD))

    def attend(self, x: str) -> str:
        """softmax(q @ k.T) @ v."""
        net = self.net
        query, key, value = (self.read(x, HIDDEN) for _ in range(3))
        weights = net("Softmax", net("MatMul", query, net("Transpose", key, perm=[0, 2, 1])), axis=-1)
        return self.write(net("MatMul", weights, value), HIDDEN)

    def feed(self, x: str) -> str:
        """The feed-forward part."""
        return self.write(self.net("Relu", self.read(x, HIDDEN)), HIDDEN)

    def model(self) -> onnx.ModelProto:
        """Tokens (N, 4) to logits (N, 4, 3)."""
        net = self.net
        ids = net(
            "Cast",
            net("Clip", net("Abs", net("Mul", net.input("x", "N", 4), 4.0)), 0.0, 10.0),
            to=onnx.TensorProto.INT64,
        )
        x = net("Gather", dead(net.normal(TOKENS, WIDTH), 1, DEAD), ids)
        x = net("Add", x, dead(net.normal(4, WIDTH), 1, DEAD))
        for _ in range(BLOCKS):
            for part in (self.attend, self.feed):
                x = net("Add", x, part(self.norm(x))) if self.norm_first else self.norm(net("Add", x, part(x)))
        return net.model(self.read(self.norm(x), CLASSES))


def parameters(width: int, kind: str) -> int:
    """Of that net, `width` positions wide."""
    norms = (2 * BLOCKS + 1) * width * (2 if kind == "layer" else 1)
    attention = 3 * width * HIDDEN + HIDDEN * width + width
    feed = width * HIDDEN + HIDDEN * width + width
    return TOKENS * width + 4 * width + norms + BLOCKS * (attention + feed) + width * CLASSES


FORMS = [("layer", 17), ("layer", 23), ("rms", 23), ("by hand", 18)]
NUMBERS = 2 * BLOCKS + 10
"""Numbers that are no weights: epsilons, bounds, what corrects a norm and its scale."""


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("kind", "opset"), FORMS)
def test_a_stream_narrows_from_embedding_to_head(kind: str, opset: int, norm_first: bool) -> None:
    """Of an RMSNorm, the scale does not matter: zeros stay zeros."""
    silent = DEAD if kind == "layer" else []
    case = Case("", lambda: Transformer(kind, norm_first, opset, silent=silent, unread=[]).model(),
                most=parameters(LIVE, kind) + NUMBERS)  # fmt: skip
    examine(case)
    second = pipeline.optimize(
        check.optimized(case.build(), "first", plan="smallest").model, plan="smallest", verify=False, measure=False
    )
    assert second.report.after == second.report.before


@pytest.mark.parametrize("opset", [17, 23])
def test_a_stream_narrows_where_its_readers_do_not_read(opset: int) -> None:
    """Before the parts: scale and shift are what they are, but nobody looks."""
    build = Transformer("layer", True, opset, silent=[], unread=DEAD).model
    examine(Case("", build, most=parameters(LIVE, "layer") + NUMBERS))


def test_a_stream_behind_a_layer_norm_is_alive() -> None:
    """After the sums: what the norms make of zeros is read."""
    build = Transformer("layer", False, 17, silent=[], unread=[]).model
    # The writers are narrow, each before a scatter, and so are the first readers.
    gone = len(DEAD) * (TOKENS + 4 + 3 * HIDDEN + 2 * BLOCKS * (HIDDEN + 1))
    examine(Case("", build, least=parameters(WIDTH, "layer") - gone))


def test_one_writer_that_disagrees() -> None:
    """Its position lives in all of the stream, and only that one."""

    def build() -> onnx.ModelProto:
        net = Transformer("rms", True, 23, silent=[], unread=[])
        first = net.write

        def write(x: str, inputs: int) -> str:
            net.write = first
            y = net.net("MatMul", x, dead(net.net.normal(inputs, WIDTH), 1, DEAD[1:]) / 3)
            return net.net("Add", y, dead(net.net.normal(WIDTH), 0, DEAD[1:]))

        net.write = write
        return net.model()

    examine(Case("", build, least=parameters(LIVE, "rms"), most=parameters(LIVE + 1, "rms") + NUMBERS + 8))
    assert stats(check.optimized(build(), "fastest", plan="fastest").model).parameters < parameters(WIDTH, "rms")


def test_the_bound() -> None:
    """The numbers above are those of the model as it is written."""
    whole = stats(models.load(Transformer("rms", True, 23, silent=[], unread=[]).model())).parameters
    assert whole - 3 == parameters(WIDTH, "rms")
    assert np.setdiff1d(np.arange(WIDTH), DEAD).size == LIVE


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("kind", "opset"), FORMS)
def test_what_onnxruntime_fuses_stays_right(kind: str, opset: int, norm_first: bool) -> None:
    """It fuses a sum and a LayerNorm whose statistics are read, too."""
    model = Transformer(kind, norm_first, opset, silent=DEAD if kind == "layer" else [], unread=[]).model()
    narrow = check.optimized(model, "optimize", plan="smallest").model
    assert Reference(model).compare(narrow).passed
    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    fused = ort.InferenceSession(models.serialize(narrow), options, providers=["CPUExecutionProvider"])
    expected, got = (np.asarray(session.run(None, feeds)[0]) for session in (check.session(model), fused))
    assert np.abs(got - expected).max() <= 3e-6 * np.abs(expected).max()

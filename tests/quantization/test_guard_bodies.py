"""What bodies read stays apart from a DQ that onnxruntime would move there: it would end the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import graphopt
from graphopt import model as models
from graphopt import runtime

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
looped (float[N,3,5,5] x, int64 count) => (float[N,4,5,5] y, float[N,5,4,5] other)
<float[4,3,3,3] w, float[4] b, bool go = {1}>
{
    c = Conv <pads: ints = [1, 1, 1, 1]> (x, w, b)
    other = Transpose <perm: ints = [0, 2, 1, 3]> (c)
    t = MOVER
    y = Loop (count, go, t) <body = body (int64 i, bool on, float[N,4,5,5] state) => (bool still, float[N,4,5,5] next) {
        still = Identity (on)
        next = READ
    }>
}
"""


def looped(mover: str, read: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(MODEL.replace("MOVER", mover).replace("READ", read))
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


BATCHES = [
    {"x": np.random.default_rng(seed).normal(size=(3, 3, 5, 5)).astype(np.float32), "count": np.array(2)}
    for seed in (0, 1)
]

LOAD = "import sys; from graphopt import runtime; runtime.session(sys.argv[1])"


@pytest.mark.parametrize(
    ("mover", "read", "guards"),
    [
        ("Transpose <perm: ints = [0, 1, 3, 2]> (c)", "Add (state, t)", 1),
        ("MaxPool <kernel_shape: ints = [1, 1]> (c)", "Mul (state, t)", 1),
        ("Transpose <perm: ints = [0, 1, 3, 2]> (c)", "Neg (state)", 0),  # the body reads no more than it is handed
        ("Neg (c)", "Add (state, t)", 0),  # nothing that a DQ is moved along
    ],
    ids=["transpose", "pool", "nothing inside", "no mover"],
)
def test_a_body_that_reads_a_moved_value(mover: str, read: str, guards: int, tmp_path: Path) -> None:
    proto, path = looped(mover, read), tmp_path / "quantized.onnx"
    quantized = graphopt.quantize(proto, BATCHES, everything=True, recover="none", verify=False, measure=False)
    models.save(quantized.model, path)
    # In a process of its own: what would go wrong takes the process with it.
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert [node.op_type for node in quantized.model.graph].count("LeakyRelu") == guards
    exact = runtime.run(runtime.session(models.load(proto)), BATCHES[0])
    for a, b in zip(exact, runtime.run(runtime.session(quantized.model), BATCHES[0]), strict=True):
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max()

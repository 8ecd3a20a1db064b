"""What onnxruntime must not be given, and what is said where there is no room for what it writes."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphopt import model as models
from graphopt import runtime
from graphopt.errors import ModelError

TRANSPOSED = {
    "rows": ("float[N, 3, 4] x", "t = Transpose <perm = [1, 0, 2]> (x) y = MatMul (t, w)", (3, 4, 5)),
    "columns": ("float[N, 3, 4] x", "t = Transpose <perm = [1, 2, 0]> (x) y = MatMul (w, t)", (3, 5, 4)),
    "reversed": ("float[4, 3, N] x", "t = Transpose (x) y = MatMul (t, w)", (3, 4, 5)),
}
HARMLESS = {
    "nothing moved": ("float[3, N, 4] x", "y = MatMul (x, w)", (3, 4, 5)),
    "behind the first axis": ("float[3, 4, N] x", "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (t, w)", (3, 4, 5)),
    "two axes": ("float[4, N] x", "t = Transpose (x) y = MatMul (t, w)", (4, 5)),
}


def net(text: str, body: str, weight: tuple[int, ...]) -> onnx.ModelProto:
    rank = ", ".join("abc"[: max(len(weight), 2)])
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> m ({text}) => (float[{rank}] y) {{ {body} }}')
    made.graph.initializer.append(numpy_helper.from_array(np.ones(weight, np.float32), "w"))
    return made


@pytest.mark.parametrize("case", TRANSPOSED)
def test_a_product_behind_a_transpose_must_not_be_empty(case: str) -> None:
    loaded = models.load(net(*TRANSPOSED[case]))
    assert runtime.fatal_on_empty(loaded) == "MatMul behind a Transpose of its first axis"


@pytest.mark.parametrize("case", HARMLESS)
def test_other_products_may_be_empty(case: str) -> None:
    proto = net(*HARMLESS[case])
    loaded = models.load(proto)
    assert runtime.fatal_on_empty(loaded) is None
    (x,) = proto.graph.input
    shape = [d.dim_value if d.HasField("dim_value") else 0 for d in x.type.tensor_type.shape.dim]
    (found,) = runtime.run(runtime.session(loaded), {"x": np.zeros(shape, np.float32)})
    assert found.size == 0


def test_onnxruntime_still_ends_the_process() -> None:
    """If this fails, the rule can go: run it with the version of onnxruntime that mended it."""
    script = (
        "import numpy as np; from tests.test_runtime import TRANSPOSED, net; from graphopt import runtime, model\n"
        "s = runtime.session(model.load(net(*TRANSPOSED['rows'])))\n"
        "runtime.run(s, {'x': np.zeros((0, 3, 4), np.float32)})"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode < 0


def test_a_full_temporary_folder_is_told() -> None:
    loaded = models.load(net("float[N, 1024] x", "y = MatMul (x, w)", (1024, 1025)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ModelError, match="cannot write the graph") as caught:
            runtime.optimized(loaded)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "TMPDIR" in str(caught.value)

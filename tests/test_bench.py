"""Interleaved measurement: the ratio between two models is steady, the inputs are the same for all."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.bench import bench
from graphopt.errors import DependencyError, ModelError, UsageError
from graphopt.model import load


def chain(layers: int, kind: str = "float") -> ir.Model:
    """Products of 128x128 matrices, one after the other."""
    body = " ".join(f"v{i + 1} = MatMul(v{i}, w)" for i in range(layers))
    text = f"g ({kind}[N,S,128] v0) => ({kind}[N,S,128] v{layers}) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')
    weight = np.eye(128, dtype=np.float32 if kind == "float" else np.float64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return load(proto)


def test_four_times_the_work_takes_longer_and_the_same_work_does_not() -> None:
    report = bench(chain(4), chain(16), chain(4), seconds=0.3, shapes={"v0": [-1, 64, -1]})
    first, longer, same = report.rows
    assert first.ratio == first.paired_ratio == 1.0
    assert longer.ratio > 2 and longer.paired_ratio > 2
    assert 0.6 < same.paired_ratio < 1.6
    assert longer.ratio == pytest.approx(longer.median_ms / first.median_ms)
    for row in report.rows:
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
    assert first.runs == longer.runs == same.runs >= 5
    assert [row.name for row in report.rows] == ["A", "B", "C"]


def test_the_report_says_under_which_conditions_and_is_plain_data() -> None:
    report = bench(chain(1), seconds=0.01, names=["mine"])
    assert (report.provider, report.threads) == ("cpu", 1)
    assert report.shapes["v0"][0] == 1, "batch 1"
    assert report.rows[0].name == "mine"
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["rows"][0]["ratio"] == 1.0
    assert bench(chain(1), seconds=0.01, shapes={"v0": [3, 7, 128]}).shapes == {"v0": [3, 7, 128]}


def test_the_garbage_collector_is_on_again_afterwards() -> None:
    assert gc.isenabled()
    bench(chain(1), seconds=0.0)
    assert gc.isenabled()
    gc.disable()
    try:
        bench(chain(1), seconds=0.0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_files_are_called_by_their_names(tmp_path) -> None:
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        onnx.save(ir.to_proto(chain(1)), path)
    assert [row.name for row in bench(*paths, seconds=0.01).rows] == ["one.onnx", "two.onnx"]
    assert len({row.name for row in bench(paths[0], paths[0], seconds=0.01).rows}) == 2


@pytest.mark.parametrize("kind", ["string", "bfloat16", "bool", "int64"])
def test_inputs_of_every_kind_are_bound(kind: str) -> None:
    text = f'<ir_version: 10, opset_import: ["": 21]> g ({kind}[N,3] x) => ({kind}[N,3] y) {{ y = Identity(x) }}'
    assert bench(onnx.parser.parse_model(text), seconds=0.01).rows[0].runs >= 5


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(UsageError, match="no model"):
        bench()
    with pytest.raises(UsageError, match="2 names for 1"):
        bench(chain(1), names=["a", "b"])
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        bench(chain(1), provider="cudda")
    with pytest.raises(UsageError, match="no provider"):
        bench(chain(1), provider="tpu")
    with pytest.raises(ModelError, match="has the inputs"):
        bench(chain(1), chain(1, "double"))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
def test_a_provider_that_is_not_there_is_refused() -> None:
    with pytest.raises(DependencyError, match="no cuda provider"):
        bench(chain(1), provider="cuda")

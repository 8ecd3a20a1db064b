"""openvino: its pruning transformation, and its runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.bench.peers.candidate import Candidate, Feeds, Run, weighed
from tests.bench.peers.task import Task

ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
_FLOATS, _INTEGERS = ("f16", "f32", "f64", "bf16"), ("i8", "u8", "i4", "u4")


def openvino(task: Task) -> list[Candidate]:
    """`apply_moc_transformations`, then `apply_pruning_transformation`, run by openvino's CPU plugin in float32."""
    original = read(task.model)
    pruned = read(task.model)
    prune(pruned)

    def save(folder: Path) -> Path:
        import openvino as ov

        path = folder / "model.xml"
        ov.save_model(pruned, path, compress_to_fp16=False)
        return path

    return [Candidate(count(pruned), runner(pruned), runner(original), save)]


def read(model: onnx.ModelProto) -> Any:
    """openvino's model of an ONNX one."""
    import openvino as ov

    return ov.Core().read_model(model.SerializeToString())


def prune(model: Any) -> None:
    """Cut dead channels, in place: what openvino's own pruning flow does."""
    from openvino._offline_transformations import (  # pyright: ignore[reportMissingImports]
        apply_moc_transformations,
        apply_pruning_transformation,
    )

    apply_moc_transformations(model, True)
    apply_pruning_transformation(model)


def count(model: Any) -> int:
    """Elements of the model's constants, bodies of conditions and loops included."""
    total = 0
    for node in model.get_ops():
        kind = node.get_element_type().get_type_name() if node.get_type_name() == "Constant" else ""
        if kind in _FLOATS or (kind in _INTEGERS and np.any(node.get_data())):
            total += weighed(node.get_output_shape(0))
        for name in ("get_then_body", "get_else_body", "get_function"):
            body = getattr(node, name, None)
            if callable(body):
                total += count(body())
    return total


def runner(model: Any) -> Run:
    """Compile once; run by input name, outputs in the model's order."""
    import openvino as ov

    request = ov.Core().compile_model(model, "CPU", ONE_THREAD).create_infer_request()
    outputs = [output.get_any_name() for output in model.outputs]

    def run(feeds: Feeds) -> list[np.ndarray]:
        known = {value.get_any_name() for value in model.inputs}
        request.infer({name: array for name, array in feeds.items() if name in known})
        return [np.array(request.get_tensor(name).data) for name in outputs]

    return run

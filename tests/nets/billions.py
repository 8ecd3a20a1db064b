"""A decoder of billions of parameters, written without ever holding it: exported without weights, filled one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from tests.nets import decoder
from tests.nets.large import MEASURE

SHAPE = decoder.Shape(32_000, 2048, 32, 8, 8192, 24)
"""1.6 billion parameters; the largest tensor is a table of 262 MB."""


def _skeleton(shape: decoder.Shape) -> ir.Model:
    """The graph of the masked decoder with its masks and without its weights, which have shapes only."""
    with torch.device("meta"):
        model = decoder.Decoder(shape).eval()
    inputs = tuple(value.to("meta") for value in decoder.draw(torch.Generator(), 2, 5, 3, shape))
    cache = tuple({0: "batch", 2: "past"} for _ in inputs[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            optimize=False,
            dynamic_shapes=({0: "batch", 1: "time"}, {0: "batch", 1: "time"}, cache),
            input_names=["ids", "positions", *decoder.names(shape, "past")],
            output_names=["logits", *decoder.names(shape, "present")],
            verbose=False,
        )
    assert program is not None
    return program.model


def _dead(shape: decoder.Shape, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Living heads and hidden units of every layer, as zeros and ones."""
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(shape.layers):
        hidden = torch.ones(shape.hidden)
        hidden[torch.randperm(shape.hidden, generator=numbers)[: shape.hidden // 2]] = 0.0
        yield (~decoder.dead_heads(shape, "each", numbers)).float().numpy(), hidden.numpy()


def write_decoder(folder: Path, shape: decoder.Shape = SHAPE, seed: int = 0) -> Path:
    """A masked decoder in ``model.onnx`` and ``model.onnx.data``.

    Half of the query heads of each group and half of the hidden units are dead: in even layers by masks on
    activations, in odd ones by zero columns.

    Args:
        folder: where the files go.
        shape: sizes.
        seed: of weights and masks.

    Returns:
        Path of the model.
    """
    model = _skeleton(shape)
    alive = list(_dead(shape, seed))
    numbers = np.random.default_rng(seed)
    draws = numbers.normal(size=1_000_003).astype(np.float32)
    data = folder / "model.onnx.data"
    with data.open("wb") as file:
        for index, (name, value) in enumerate(model.graph.initializers.items()):
            assert value.shape is not None
            sizes = tuple(int(size) for size in value.shape)
            part = name.split(".")
            heads, hidden = alive[int(part[1])] if part[0] == "layers" else (None, None)
            masked = part[0] == "layers" and int(part[1]) % 2 == 0
            if len(sizes) == 1:
                array = numbers.uniform(0.5, 1.5, sizes).astype(np.float32)
                if name == "frequencies":
                    array = (1e4 ** (-np.arange(0, shape.size, 2) / shape.size)).astype(np.float32)
                if name.endswith("mask"):
                    kept = heads if name.endswith("head_mask") else hidden
                    array = kept if masked else np.ones(sizes, np.float32)
                value.const_value = ir.Tensor(array, name=name)
                continue
            # The same numbers in another order are other weights, and cost no drawing.
            weight = np.resize(np.roll(draws, 7919 * index), sizes)
            if not name.startswith("embedding"):
                weight *= np.float32(sizes[1] ** -0.5)
            if name.endswith(("output.weight", "down.weight")) and not masked:
                assert heads is not None and hidden is not None
                weight *= np.repeat(heads, shape.size) if "output" in name else hidden
            start = file.tell()
            file.write(weight.data)
            value.const_value = ir.ExternalTensor(
                data.name,
                start,
                weight.nbytes,
                ir.DataType.FLOAT,
                shape=ir.Shape(sizes),
                name=name,
                base_dir=folder,
            )
    path = folder / "model.onnx"
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    return path


def largest_tensor(shape: decoder.Shape) -> int:
    """Bytes."""
    return 4 * shape.width * max(shape.tokens, shape.hidden, shape.heads * shape.size)


def allowed_bytes(shape: decoder.Shape) -> int:
    """Peak memory that narrowing may need: one and a half of the largest tensors and a gigabyte."""
    return 3 * largest_tensor(shape) // 2 + 10**9


def twin_parameters(shape: decoder.Shape) -> int:
    """What is left after narrowing by hand: half of the query heads and hidden units; the cache keeps its heads."""
    heads = shape.heads * shape.size // 2
    layer = 2 * heads * shape.width + 2 * shape.keys * shape.size * shape.width
    layer += 3 * shape.width * (shape.hidden // 2) + 2 * shape.width
    return shape.layers * layer + 2 * shape.tokens * shape.width + shape.width + shape.size // 2


RUN = """
import sys
import numpy as np, onnxruntime
path, out, optimize = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4
options.add_session_config_entry("session.disable_prepacking", "1")
if optimize == "no":
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
numbers = np.random.default_rng(3)
sizes = {"batch": 2, "time": 3, "past": 4}
feeds = {}
for value in session.get_inputs():
    shape = [sizes.get(size, size) for size in value.shape]
    whole = value.type == "tensor(int64)"
    feeds[value.name] = numbers.integers(0, 7, shape) if whole else numbers.normal(size=shape).astype(np.float32)
np.savez(out, *session.run(None, feeds))
"""
"""For a fresh process: the outputs of a model on a few tokens, without a second copy of its weights."""


def in_fresh_process(code: str, *arguments: Path | str) -> str:
    """What a program prints on one thread in a process of its own.

    Raises:
        RuntimeError: it fails; the message is the end of what it says.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def optimized(folder: Path, shape: decoder.Shape = SHAPE) -> dict[str, float]:
    """Writes a decoder, optimizes it, runs both, each in a process of its own.

    Returns:
        ``bytes`` of its weights, ``parameters`` left, ``peak_bytes`` and ``seconds`` of the optimization, and
        ``difference``, the largest one of an output relative to its largest number.
    """
    path, out = write_decoder(folder, shape), folder / "out.onnx"
    found = json.loads(in_fresh_process(MEASURE, path, out))
    in_fresh_process(RUN, path, folder / "before.npz", "no")
    in_fresh_process(RUN, out, folder / "after.npz", "yes")
    with np.load(folder / "before.npz") as before, np.load(folder / "after.npz") as after:
        pairs = [(before[name], after[name]) for name in before.files]
    difference = max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs)
    size = path.with_name("model.onnx.data").stat().st_size
    kept = {name: found[name] for name in ("parameters", "peak_bytes", "seconds")}
    return {"bytes": size, "difference": difference, **kept}

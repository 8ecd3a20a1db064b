"""A residual network, optimized and quantized with runtime operators, on a device against the CPU.

Between the first quantization and the mean over positions everything is integers, or rounded once and number by
number: those values have to be equal bit by bit. The mean is a sum of floats, which a device may add up in another
order; where it lies between two integers it can be rounded to the other one. So of the results, one in a thousand may
differ, by ``STEPS`` steps of their scale at most, and every image has to be of the same class.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import runtime_ops
from tests.bench.ops import gpu_run

NAMES = ("small ResNet, random weights", "ResNet-20, CIFAR-10")

STEPS = 2
DIFFERENT = 1e-3
"""Of the results, at most."""

BATCHES = (1, 5, 32)

# The same on every device, bit by bit: what moves or compares numbers, or rounds once for each of them.
_EXACT = {
    *("Transpose", "Reshape", "Flatten", "MaxPool", "Identity", "Squeeze", "Unsqueeze", "Slice", "Pad", "Concat"),
    *("Gather", "Expand", "Where", "Shape", "Range", "Constant", "ConstantOfShape", "Cast", "Tile", "Split"),
    *("DequantizeLinear", "QuantizeLinear", "Relu", "Clip", "Add", "Sub", "Mul", "Min", "Max"),
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"),
}
_OWN = {"Int8Conv", "Int8ConvAdd", "Int8Gemm", "Int8GemmAdd", "Gather", "Scatter", "ScatterAdd"}


def file_name(name: str) -> str:
    """Of a network in a bundle, without a suffix."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


@cache
def made(name: str) -> tuple[ir.Model, np.ndarray]:
    """Optimize and quantize a network; with it, images to run it on."""
    import graphopt

    if name == NAMES[0]:
        from tests.runtime_ops.test_together import images, result

        return result().model, images(64, 7)
    from tests.nets import cifar
    from tests.nets.catalogue import FULL
    from tests.nets.exporting import masked_model

    net = FULL["resnet20"]
    if cifar.present():
        shown = next(cifar.batches(256, 256))[0]
        data = [{"x": rows} for rows, _ in cifar.batches(32, 256, part="train")]
    else:
        rng = np.random.default_rng(7)
        shown, *rows = (rng.standard_normal((size, *net.shape), np.float32) for size in (256, 32, 32))
        data = [{"x": one} for one in rows]
    masked = masked_model(net, "masks")
    feed = masked.graph.inputs[0].name or "x"
    done = graphopt.optimize(
        masked,
        target="cuda",
        plan="smallest",
        quantize={"activations": "int8", "everything": True},
        data=[{feed: one["x"]} for one in data],
        measure=False,
    )
    return done.model, shown


def loaded(name: str, bundle: Path | None) -> tuple[ir.Model, np.ndarray]:
    """A network of a bundle, or made here."""
    path = None if bundle is None else bundle / "networks" / f"{file_name(name)}.onnx"
    if path is None or not path.is_file():
        return made(name)
    return ir.load(path), np.load(path.with_suffix(".npy"))


def save(name: str, bundle: Path) -> None:
    """Put a network into a bundle."""
    import graphopt

    model, shown = made(name)
    folder = bundle / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    graphopt.save(model, folder / f"{file_name(name)}.onnx")
    np.save(folder / f"{file_name(name)}.npy", shown)


def exact_values(model: ir.Model) -> list[ir.Value]:
    """Integers between nodes that no sum of floats is in front of, results of the model left out."""
    exact: set[ir.Value] = set(model.graph.initializers.values())
    inputs = set(model.graph.inputs)
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        known = all(value in exact for value in given)
        first = node.op_type == "QuantizeLinear" and given[0] in inputs and all(value in exact for value in given[1:])
        if first or (known and node.op_type in (_OWN if node.domain == runtime_ops.DOMAIN else _EXACT)):
            exact.update(node.outputs)
    ends = set(model.graph.outputs)
    whole = (ir.DataType.INT8, ir.DataType.UINT8)
    return [value for node in model.graph for value in node.outputs if value in exact - ends and value.dtype in whole]


def final_step(model: ir.Model) -> float:
    """The scale of the results: of the node that makes them floats again, or 0."""
    last = model.graph.outputs[0].producer()
    if last is None or last.op_type != "DequantizeLinear" or last.inputs[1] is None:
        return 0.0
    scale = last.inputs[1].const_value
    return 0.0 if scale is None else float(np.max(scale.numpy()))


def compare(name: str, provider: str, bundle: Path | None) -> tuple[dict[str, Any], str, str]:
    """Numbers, words, and what failed."""
    import graphopt

    model, images = loaded(name, bundle)
    called = sorted({node.op_type for node in model.graph if node.domain == runtime_ops.DOMAIN})
    step = final_step(model)
    watched = exact_values(model)
    if not called or step == 0 or not watched:
        return {}, "", f"nothing is compared: calls {called}, step {step}, {len(watched)} integer values"
    watching = graphopt.load(model)
    by_name = {value.name: value for node in watching.graph for value in node.outputs}
    watching.graph.outputs.extend(by_name[value.name] for value in watched)
    plain, all_values = (ir.to_proto(one).SerializeToString() for one in (model, watching))
    feed = model.graph.inputs[0].name or "x"

    notes = [f"calls {', '.join(called)}"]
    different = classes = results = 0
    worst = 0.0
    for rows in (*BATCHES, len(images)):
        feeds = {feed: images[:rows]}
        right, found = (gpu_run.Session(plain, feeds, one).run()[0] for one in ("cpu", provider))
        if found.shape != right.shape or not np.isfinite(found).all():
            return {}, "; ".join(notes), f"batch {rows}: {found.shape} for {right.shape}, or not finite"
        off = np.abs(found.astype(np.float64) - right)
        worst, different = max(worst, float(off.max(initial=0)) / step), different + int(np.count_nonzero(off))
        results += off.size
        classes += int(np.count_nonzero(found.argmax(axis=1) != right.argmax(axis=1)))
    feeds = {feed: images}
    values = (gpu_run.Session(all_values, feeds, one).run()[1:] for one in ("cpu", provider))
    unlike = [value.name for value, one, other in zip(watched, *values, strict=True) if not np.array_equal(one, other)]
    notes += [
        f"{len(watched) - len(unlike)} of {len(watched)} integer tensors equal",
        f"{results - different} of {results} results equal, others at most {worst:.2g} steps off",
    ]
    if classes:
        notes.append(f"{classes} images of another class")
    failed = [f"integers differ: {', '.join(map(str, unlike[:3]))}"] if unlike else []
    if classes or worst > STEPS or different > DIFFERENT * results:
        failed.append("; ".join(notes[2:]))
    numbers = {"integers": len(watched), "results": results, "different": different, "steps": worst}
    return numbers, "; ".join(notes), "; ".join(failed)

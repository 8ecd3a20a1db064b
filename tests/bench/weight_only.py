"""Weights in few bits: size, error, latency beside onnxruntime's own quantizer: ``python -m tests.bench.weight_only``.

The same weights (those of MatMul) in the same blocks, read by the same operator at the same accuracy level, so that
only the numbers differ. Rows are sorted into those without and with zero points, because the latter store more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxruntime.quantization import CalibrationDataReader, matmul_nbits_quantizer

import graphopt
from graphopt import model as models
from graphopt import runtime
from graphopt.bench import bench
from tests.bench.table import head, row
from tests.nets import characters
from tests.nets.catalogue import FULL
from tests.nets.exporting import twin_model

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """One net.

    Attributes:
        name: What tables call it.
        model: In float.
        calibration: Data for those who take some.
        held_out: Data that it is judged on.
        output: The output that counts.
        cost: What it costs the user that outputs are off, of all held-out outputs; None where nothing was learnt.
        cost_name: Its unit.
        shapes: Inputs to measure the latency at.
    """

    name: str
    model: ir.Model
    calibration: list[Feeds]
    held_out: list[Feeds]
    output: str
    cost: Callable[[list[np.ndarray]], float] | None
    cost_name: str
    shapes: list[Feeds]


def subjects(chosen: list[str], seconds: float, weights: Path | None) -> Iterator[Subject]:
    """Yield the nets, one at a time."""
    if "characters" in chosen and characters.TEXT.exists():
        yield _characters(seconds, weights)
    elif "characters" in chosen:
        print("characters: needs ../shared/data/tinyshakespeare.txt; the digits take its place\n")
        chosen = [*chosen, "digits"]
    if "digits" in chosen:
        yield _digits()
    for name in chosen:
        if name in FULL:
            net = FULL[name]
            model = twin_model(net)
            some = [net.feeds(2, seed) for seed in range(8)]
            yield Subject(name, model, some[:4], some[4:], net.outputs[0], None, "", [net.feeds(1, 0)])


def _characters(seconds: float, weights: Path | None) -> Subject:
    text = characters.Text.read()
    model = characters.exported(characters.trained(text, seconds, weights=weights))
    test = list(characters.rows(text.held_out, 16))

    def bits(outputs: list[np.ndarray]) -> float:
        total = 0.0
        for logits, given in zip(outputs, test, strict=True):
            logits = logits.astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            chance = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            total -= np.take_along_axis(chance, given[:, 1:, None], -1).mean()
        return total / len(test) / np.log(2)

    return Subject(
        "characters",
        model,
        [characters.feeds(each[:, :-1]) for each in characters.rows(text.learnt, 16)],
        [characters.feeds(each[:, :-1]) for each in test],
        "logits",
        bits,
        "bits/letter",
        [characters.feeds(test[0][:1, :length]) for length in (1, characters.TIME)],
    )


def _digits() -> Subject:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[:1200]), y[:1200]).backward()
        optimizer.step()
    layers = [net[0], net[2], net[4]]
    graph_input, value, nodes, constants = "x", "x", [], []
    for i, layer in enumerate(layers):  # MatMul and Add, which every quantizer knows
        for name, array in ((f"w{i}", layer.weight.T), (f"b{i}", layer.bias)):
            constants.append(onnx.numpy_helper.from_array(array.detach().numpy().copy(), name))
        nodes.append(onnx.helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"m{i}"))
        nodes.append(onnx.helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"], name=f"a{i}"))
        value = f"a{i}"
        if i < 2:
            nodes.append(onnx.helper.make_node("Relu", [value], [f"r{i}"], name=f"r{i}"))
            value = f"r{i}"
    graph = onnx.helper.make_graph(
        nodes,
        "digits",
        [onnx.helper.make_tensor_value_info(graph_input, 1, ["batch", 64])],
        [onnx.helper.make_tensor_value_info(value, 1, ["batch", 10])],
        constants,
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    test = images[1200:].astype(np.float32) / 16
    return Subject(
        "digits",
        models.load(proto),
        [{"x": images[:1200].astype(np.float32) / 16}],
        [{"x": test}],
        value,
        lambda outputs: float((outputs[0].argmax(1) != labels[1200:]).mean() * 100),
        "% wrong",
        [{"x": test[:1]}, {"x": test[:128]}],
    )


# --- who quantizes ----------------------------------------------------------------------------------------------------


def ours(subject: Subject, weights: str, block: int, method: str, recover: str | None, exclude: list[str]) -> ir.Model:
    """What graphopt makes of the products' weights."""
    return graphopt.quantize(
        subject.model,
        subject.calibration if recover == "gptq" else None,
        activations="none",
        weights=weights,
        block=block,
        method=method,  # type: ignore[arg-type]
        recover=recover,
        exclude=exclude,
        measure=False,
        verify=False,
    ).model


class _Reader(CalibrationDataReader):
    def __init__(self, batches: list[Feeds]) -> None:
        self.rest = iter(batches)
        self.batches = batches

    def __deepcopy__(self, memory: Any) -> _Reader:
        return _Reader(self.batches)

    def get_next(self) -> Feeds | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next batch."""
        return next(self.rest, None)


def peer(subject: Subject, way: str, symmetric: bool, block: int) -> ir.Model:
    """What onnxruntime's MatMulNBitsQuantizer makes of them."""
    peers = matmul_nbits_quantizer
    config: Any = {
        "RTN": lambda: peers.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=4),
        "k-quant": peers.KQuantWeightOnlyQuantConfig,
        "HQQ": lambda: peers.HQQWeightOnlyQuantConfig(block_size=block, bits=4),
        "GPTQ": lambda: peers.GPTQWeightOnlyQuantConfig(_Reader(subject.calibration), block_size=128),
        "GPTQ mse": lambda: peers.GPTQWeightOnlyQuantConfig(_Reader(subject.calibration), block_size=128, mse=True),
        "GPTQ actorder": lambda: peers.GPTQWeightOnlyQuantConfig(_Reader(subject.calibration), actorder=True),
    }[way]()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        path = Path(folder, "float.onnx")
        models.save(subject.model, path)
        quantizer = peers.MatMulNBitsQuantizer(
            onnx.load(path), block_size=block, is_symmetric=symmetric, accuracy_level=4, algo_config=config
        )
        quantizer.process()
        proto = quantizer.model if isinstance(quantizer.model, onnx.ModelProto) else quantizer.model.model
    if not any(entry.domain == "com.microsoft" for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))  # some of its ways forget that
    for node in proto.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", 4)])
    return models.load(proto)


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What a model is worth."""

    bytes_per_weight: float
    products: int
    sqnr: float
    cost: float | None


def outputs(model: ir.Model, subject: Subject) -> list[np.ndarray]:
    """The output that counts, on everything that was held out."""
    session = runtime.session(model)
    index = [value.name for value in session.get_outputs()].index(subject.output)
    return [runtime.run(session, feeds)[index] for feeds in subject.held_out]


def judged(model: ir.Model, subject: Subject, wanted: list[np.ndarray]) -> Judgement:
    """Compare with the float model's outputs."""
    products = [node for node in model.graph.all_nodes() if node.op_type == "MatMulNBits"]
    stored = {value for node in products for value in node.inputs[1:5] if value is not None}
    count = sum(node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0) for node in products)
    size = sum(value.const_value.nbytes for value in stored if value.const_value is not None)
    found = outputs(model, subject)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(found, wanted, strict=True))
    power = sum(float((b.astype(np.float64) ** 2).sum()) for b in wanted)
    cost = None if subject.cost is None else subject.cost(found)
    return Judgement(size / max(count, 1), len(products), 10 * np.log10(power / noise), cost)


def errors(subject: Subject, block: int, few: bool) -> dict[str, ir.Model]:
    """Print the table of errors; return the models whose latency is worth measuring."""
    wanted = outputs(subject.model, subject)
    exclude = [str(node.name) for node in subject.model.graph if node.op_type in ("Gather", "Gemm", "Conv")]
    cost = "" if subject.cost is None else f"{subject.cost_name} (float: {subject.cost(wanted):.4f})"
    print(f"### {subject.name}, blocks of {block}\n")
    print(head(["type", "who", "scales", "products", "bytes/weight", "output SQNR dB", cost or "-"]))
    kept: dict[str, ir.Model] = {}

    def say(kind: str, who: str, how: str, make: Callable[[], ir.Model]) -> None:
        try:
            model = make()
            found = judged(model, subject, wanted)
        except Exception as error:  # a peer that fails is a row, too
            print(row([kind, who, how, "-", "-", type(error).__name__, str(error).splitlines()[0][:60]]), flush=True)
            return
        kept[f"{who} {kind} {how}"] = model
        shown = "" if found.cost is None else f"{found.cost:.4f}"
        values = [kind, who, how, found.products, f"{found.bytes_per_weight:.3f}", f"{found.sqnr:.2f}", shown]
        print(row(values), flush=True)

    ways: list[tuple[str, str | None]] = [("minmax", None), ("mse", None), ("mse", "hqq"), ("mse", "gptq")]
    for kind in ("int8", "uint8") if not few else ("int8",):
        say(kind, "graphopt", "mse", lambda kind=kind: ours(subject, kind, block, "mse", None, exclude))
    for symmetric, kind in ((True, "int4"), (False, "uint4")):
        for method, recover in ways:
            label = recover or method
            say(kind, "graphopt", label, lambda m=method, r=recover, k=kind: ours(subject, k, block, m, r, exclude))
        if symmetric and block == 32:
            say("int4", "graphopt", "mse, blocks of 16", lambda: ours(subject, "int4", 16, "mse", None, exclude))
        names = ["RTN", "GPTQ", "GPTQ mse"] + ([] if symmetric else ["GPTQ actorder", "k-quant", "HQQ"])
        for way in names:
            say(kind, "onnxruntime", way, lambda w=way, s=symmetric: peer(subject, w, s, block))
    print()
    return kept


def latency(subject: Subject, kept: dict[str, ir.Model], seconds: float) -> None:
    """Print latency ratios of float, 8 and 4 bits."""
    chosen = {"float": subject.model, **{name: kept[name] for name in LATENCY if name in kept}}
    for kind in ("int8", "int4", "uint4"):
        name = f"graphopt {kind} mse"
        if name in kept:
            copied = models.clone(kept[name])
            for node in copied.graph:
                if node.op_type == "MatMulNBits":
                    node.attributes.pop("accuracy_level", None)
            chosen[f"{name}, exact"] = copied
    print(head(["latency, ms (over float)", *chosen]))
    for feeds in subject.shapes:
        shapes = {name: list(array.shape) for name, array in feeds.items()}
        first = next(iter(shapes.values()))
        for threads in (1, 2):
            report = bench(*chosen.values(), names=list(chosen), threads=threads, shapes=shapes, seconds=seconds)
            cells = [f"{each.median_ms:.3f} ({each.ratio:.2f})" for each in report.rows]
            print(row([f"{first}, {threads} thread{'s' * (threads > 1)}", *cells]), flush=True)
    print()


LATENCY = ("graphopt int8 mse", "graphopt int4 mse", "graphopt uint4 mse")


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.weight_only", description=__doc__)
    parser.add_argument("nets", nargs="*", default=["characters", "digits", "vit"], help="also: bert, decoder-each …")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--train", type=float, default=150, help="seconds of training of the decoder of characters")
    parser.add_argument("--weights", type=Path, help="a file to keep its weights in")
    parser.add_argument("--seconds", type=float, default=2, help="measuring time per model; 0: no latency")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for subject in subjects(chosen.nets, chosen.train, chosen.weights):
        for number, block in enumerate(chosen.blocks):
            kept = errors(subject, block, bool(number))
            if chosen.seconds and not number:
                latency(subject, kept, chosen.seconds)


if __name__ == "__main__":
    main()

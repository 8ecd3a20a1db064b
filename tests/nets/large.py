"""Large models, made by the number: long chains of small convolutions, and gigabytes of weights in a file beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

CHANNELS = 6


def chain(blocks: int, *, masked: bool, seed: int = 0) -> ir.Model:
    """Conv-Relu blocks in a row, batch dynamic: input ``x`` of (batch, 6, 8, 8).

    Args:
        blocks: number of blocks, two nodes each.
        masked: multiply every weight by a mask of its own that kills half of the filters.
        seed: of weights and masks.
    """
    numbers = np.random.default_rng(seed)
    alive = np.ones(CHANNELS, bool)
    image = [ir.SymbolicDim("batch"), CHANNELS, 8, 8]
    start = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(image))
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []

    def known(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        constants.append(value)
        return value

    def add(operator: str, inputs: list[ir.Value], name: str, **attributes: list[int]) -> ir.Value:
        made = [ir.AttrInt64s(key, numbers_) for key, numbers_ in attributes.items()]
        node = ir.Node("", operator, inputs, made, name=name)
        node.outputs[0].name = f"{name}.out"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        nodes.append(node)
        return node.outputs[0]

    value = start
    for block in range(blocks):
        # Averages of what is alive plus a little of everything: the signal neither fades nor explodes with depth.
        weights = numbers.normal(0, 0.01, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        shares = numbers.uniform(0.1, 1, (CHANNELS, CHANNELS)) * alive
        weights[:, :, 1, 1] += shares / shares.sum(1, keepdims=True)
        weight = known(f"weight{block}", weights)
        if masked:
            alive = np.ones(CHANNELS, bool)
            alive[numbers.permutation(CHANNELS)[: CHANNELS // 2]] = False
            mask = alive.astype(np.float32).reshape(-1, 1, 1, 1)
            weight = add("Mul", [weight, known(f"mask{block}", mask)], f"mul{block}")
        bias = known(f"bias{block}", numbers.normal(0, 0.02, CHANNELS).astype(np.float32))
        value = add("Conv", [value, weight, bias], f"conv{block}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        value = add("Relu", [value], f"relu{block}")
    value.shape = ir.Shape(image)
    graph = ir.Graph([start], [value], nodes=nodes, initializers=constants, opset_imports={"": 20}, name="chain")
    return ir.Model(graph, ir_version=10)


def write_matrices(folder: Path, layers: int, width: int, seed: int = 0) -> Path:
    """A chain of masked MatMul-Add-Relu layers with external weights, written one layer at a time.

    Every second layer has its zeros in the weights, the others a mask of (1, width) that is multiplied on. Half of
    the columns are dead, other ones in every layer.

    Args:
        folder: where ``model.onnx`` and ``model.onnx.data`` go.
        layers: number of layers, each of ``4 * width**2`` bytes.
        width: rows and columns.
        seed: of weights and masks.

    Returns:
        Path of the model.
    """
    numbers = np.random.default_rng(seed)
    weight = numbers.normal(0, (4.0 / width) ** 0.5, (width, width)).astype(np.float32)
    nodes, initializers, now = [], [], "x"
    data = folder / "model.onnx.data"
    with data.open("wb") as file:
        for layer in range(layers):
            mask = np.ones((1, width), np.float32)
            mask[0, numbers.permutation(width)[: width // 2]] = 0
            tensor = TensorProto(name=f"weight{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
            tensor.data_location = TensorProto.EXTERNAL
            entries = (("location", data.name), ("offset", str(file.tell())), ("length", str(weight.nbytes)))
            for key, entry in entries:
                tensor.external_data.add(key=key, value=entry)
            # The same numbers in another order are other weights, and cost no drawing.
            rolled = np.roll(weight, 7 * layer, axis=1)
            if layer % 2 == 0:
                rolled *= mask
            file.write(rolled.data)
            initializers.append(tensor)
            source = tensor.name
            if layer % 2:
                initializers.append(onnx.numpy_helper.from_array(mask, f"mask{layer}"))
                nodes.append(helper.make_node("Mul", [source, f"mask{layer}"], [f"masked{layer}"], name=f"mul{layer}"))
                source = f"masked{layer}"
            bias = numbers.normal(0, 0.1, width).astype(np.float32)
            initializers.append(onnx.numpy_helper.from_array(bias, f"bias{layer}"))
            nodes.append(helper.make_node("MatMul", [now, source], [f"product{layer}"], name=f"matmul{layer}"))
            nodes.append(
                helper.make_node("Add", [f"product{layer}", f"bias{layer}"], [f"sum{layer}"], name=f"add{layer}")
            )
            now = "y" if layer == layers - 1 else f"hidden{layer}"
            nodes.append(helper.make_node("Relu", [f"sum{layer}"], [now], name=f"relu{layer}"))
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "matrices", sides[:1], sides[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


MEASURE = """
import json, resource, sys, time
path, out = sys.argv[1:]
import graphopt
from graphopt.facts.stats import stats
start = time.perf_counter()
result = graphopt.optimize(path, plan="smallest", verify=False)
result.save(out, external=True)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
after = stats(result.model)
print(json.dumps({"peak_bytes": 1024 * peak, "seconds": seconds, "parameters": after.parameters, "ops": after.ops}))
"""
"""For a fresh process: optimizes one file into another and prints the peak of resident memory, mapped pages too."""

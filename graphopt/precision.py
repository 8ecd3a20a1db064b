"""How exact a model can be: the tolerance of each floating-point type, and the narrowest type behind each output."""

from __future__ import annotations

import onnx_ir as ir

TOLERANCES: dict[ir.DataType, float] = {
    ir.DataType.DOUBLE: 5e-14,
    ir.DataType.FLOAT: 1e-5,
    ir.DataType.FLOAT16: 5e-3,
    ir.DataType.BFLOAT16: 4e-2,
}
"""Default ``rtol``, and ``atol`` relative to the largest magnitude of the output, by narrowest float type.

Measured: convolution, batch-norm and ReLU with random weights, 16 and 64 channels, batch-norm folded into the weights
against not folded, and channels permuted. Largest difference relative to the largest magnitude of the output, float32:
8 layers 1.1e-6, 20 layers 2.0e-6, 56 layers with residuals 1.7e-6, 56 layers behind a classifier head 1.5e-6. So 1e-5
leaves a factor of five, and a weight that is off by 1e-3 still exceeds it a hundred times. float16: 1.8e-3, 3.0e-3,
1.9e-3, 3.6e-3; bfloat16 has eight times the unit of float16. float64, 56 products of 64 numbers each: 9e-15.

A plain chain of 56 layers, without residuals, reached 2.5e-5 (float16: 3.3e-2). In 18 nets of 56 layers the noise was
0.6 to 1.7 times what a last-bit change of the input did to the original: the factor of four covers that.
"""


def narrowest(model: ir.Model) -> dict[str, ir.DataType]:
    """Per graph output the narrowest floating-point type that any value on the way to it has.

    A float32 output that was computed in float16 and cast in the end is as exact as float16. One forward walk.
    """
    order = list(TOLERANCES)  # from wide to narrow

    def own(dtype: ir.DataType | None) -> int:
        return order.index(dtype) if dtype is not None and dtype in TOLERANCES else 0

    def inside(node: ir.Node) -> int:
        found = max((own(value.dtype) for value in (*node.inputs, *node.outputs) if value is not None), default=0)
        if node.op_type == "Cast":
            found = max(found, own(ir.DataType(node.attributes.get_int("to", 0))))
        return found

    functions = {key: max((inside(n) for n in f.all_nodes()), default=0) for key, f in model.functions.items()}
    level: dict[ir.Value, int] = {}
    for node in model.graph:
        found = max((level.get(v, own(v.dtype)) for v in node.inputs if v is not None), default=0)
        found = max(found, inside(node), functions.get(node.op_identifier(), 0))
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
                body = attribute.as_graph()
                for inner in body.all_nodes():
                    found = max(found, inside(inner), functions.get(inner.op_identifier(), 0))
                    found = max([found, *(level.get(v, own(v.dtype)) for v in inner.inputs if v is not None)])
        for output in node.outputs:
            level[output] = max(found, own(output.dtype))
    found_types = {}
    for output in model.graph.outputs:
        found = max(level.get(output, 0), own(output.dtype))
        found_types[str(output.name)] = order[found] if found or output.dtype in TOLERANCES else ir.DataType.FLOAT
    return found_types


def quantizes(model: ir.Model) -> bool:
    """Tell whether a model rounds to steps anywhere: what is added up differently may take another step there."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return any(node.op_type == "QuantizeLinear" for graph in graphs for node in graph.all_nodes())

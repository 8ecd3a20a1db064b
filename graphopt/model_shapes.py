"""Shape inference in place, by onnx's own C++ inference.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import onnx
import onnx.shape_inference
import onnx_ir as ir

from graphopt import model_proto
from graphopt.errors import ModelError

KEEP_BYTES = 1 << 16
"""Constants up to this size are shown to the inference: shapes, axes, indices. Larger ones lend it only their shape."""


def infer_shapes(model: ir.Model) -> None:
    """Fill in the types and shapes of the values of `model`, in place, subgraphs included.

    A static size that is known already stays; an unknown or symbolic one becomes static where that is proved. Values
    that nothing is known about stay without. The weights are not looked at, so any size of model will do. Linear.

    Raises:
        ModelError: Shapes or types contradict each other; says at which node.
    """
    proto = _light(model)
    inferred = onnx.ModelProto.FromString(_infer(proto.SerializeToString(), "the model"))
    _merge(model.graph, inferred.graph)


def check_shapes(model: ir.Model) -> None:
    """Refuse a model whose declared and inferred shapes contradict each other.

    Raises:
        ModelError: Says at which node.
    """
    _infer(_light(model).SerializeToString(), "the model")


def check_proto_shapes(proto: onnx.ModelProto, where: str) -> None:
    """Like `check_shapes`, before the protobuf model becomes an `ir.Model`: saves writing it again.

    Raises:
        ModelError: Says at which node.
    """
    _infer(_light_proto(proto).SerializeToString(), where)


def _light(model: ir.Model) -> onnx.ModelProto:
    with model_proto.replaced(model_proto.without_weights(model, KEEP_BYTES)):
        return model_proto.to_proto(model)


def _light_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
    if proto.ByteSize() < _SMALL:
        return proto
    light = onnx.ModelProto()
    for field, content in proto.ListFields():
        if field.name != "graph":
            _copy_field(light, field.name, content)
    _copy_graph(proto.graph, light.graph)
    return light


_SMALL = 1 << 26


def _copy_field(target: Any, name: str, content: Any) -> None:
    if hasattr(content, "ListFields"):
        getattr(target, name).CopyFrom(content)
    elif hasattr(content, "extend"):
        getattr(target, name).extend(content)
    else:
        setattr(target, name, content)


def _copy_graph(graph: onnx.GraphProto, light: onnx.GraphProto) -> None:
    """`graph` without the data of its large tensors."""
    for field, content in graph.ListFields():
        if field.name == "initializer":
            for tensor in graph.initializer:
                _copy_tensor(tensor, light.initializer.add())
        elif field.name == "node":
            for node in graph.node:
                _copy_node(node, light.node.add())
        else:
            _copy_field(light, field.name, content)


def _copy_node(node: onnx.NodeProto, light: onnx.NodeProto) -> None:
    if node.ByteSize() <= KEEP_BYTES:
        light.CopyFrom(node)
        return
    for field, content in node.ListFields():
        if field.name != "attribute":
            _copy_field(light, field.name, content)
    for attribute in node.attribute:
        copied = light.attribute.add()
        for field, content in attribute.ListFields():
            if field.name == "t":
                _copy_tensor(attribute.t, copied.t)
            elif field.name == "g":
                _copy_graph(attribute.g, copied.g)
            else:
                _copy_field(copied, field.name, content)


def _copy_tensor(tensor: onnx.TensorProto, light: onnx.TensorProto) -> None:
    if tensor.ByteSize() <= KEEP_BYTES:
        light.CopyFrom(tensor)
        return
    light.name = tensor.name
    light.data_type = tensor.data_type
    light.dims.extend(tensor.dims)
    light.data_location = onnx.TensorProto.EXTERNAL
    light.external_data.add(key="location", value="-")


_NODE = re.compile(r"\(op_type:\s*([^,)]*)(?:,\s*node name:\s*([^)]*))?\)")


def _infer(model: bytes, where: str) -> bytes:
    """The model with shapes, as onnx's C++ inference finds them.

    Raises:
        ModelError: It finds a contradiction.
    """
    from onnx.onnx_cpp2py_export import shape_inference as cpp

    try:
        return cpp.infer_shapes(model, True, True, True)
    except Exception as error:
        text = " ".join(str(error).split())
        found = _NODE.search(text)
        place = where
        if found:
            place = f"node {found[2].strip()!r} ({found[1]}) of {where}" if found[2] else f"a node {found[1]} of {where}"
        raise ModelError(
            f"shapes or types contradict each other: {text[:600]}",
            place,
            "correct the declared shapes (value_info), or remove them",
        ) from error


def _merge(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    known: Mapping[str, onnx.TypeProto] = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    for node, node_proto in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            if value.name and value.name in known:
                _refine(value, known[value.name])
        if not any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            continue
        for attribute_proto in node_proto.attribute:
            attribute = node.attributes[attribute_proto.name]
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                _merge(attribute.as_graph(), attribute_proto.g)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for inner, inner_proto in zip(attribute.as_graphs(), attribute_proto.graphs, strict=True):
                    _merge(inner, inner_proto)


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _refine(value: ir.Value, kind: onnx.TypeProto) -> None:
    if value.type is None:
        found = ir.serde.deserialize_type_proto_for_type(kind)
        if found is None:
            return
        value.type = found
    if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.HasField("shape"):
        return
    sizes = kind.tensor_type.shape.dim
    if value.shape is None:
        value.shape = ir.Shape([_size(size) for size in sizes])
        return
    before = value.shape.dims
    after: list[Any] = [
        size.dim_value if not isinstance(old, int) and size.HasField("dim_value") else old
        for old, size in zip(before, sizes, strict=True)
    ]
    if any(isinstance(new, int) and not isinstance(old, int) for old, new in zip(before, after, strict=True)):
        value.shape = ir.Shape(after)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None

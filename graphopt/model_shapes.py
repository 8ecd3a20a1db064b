"""Shape inference in place, by onnx's own C++ inference.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx.onnx_cpp2py_export import shape_inference as cpp

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
    inferred = onnx.ModelProto.FromString(_infer(_light(model).SerializeToString(), "the model"))
    with model_proto.no_collection():
        _merge(model.graph, inferred.graph)


def check_proto_shapes(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model whose declared and inferred shapes contradict each other. `proto` stays as it is.

    On protobuf, before it becomes an `ir.Model`: that saves writing it again.

    Raises:
        ModelError: Says at which node.
    """
    # Up to some size, copying all of it is faster than choosing.
    light = proto if proto.ByteSize() < _SMALL else _light_proto(proto)
    _infer(light.SerializeToString(), where)


def _light(model: ir.Model) -> onnx.ModelProto:
    with model_proto.replaced(model_proto.without_weights(model, KEEP_BYTES)):
        return model_proto.to_proto(model)


def _light_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
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


BARRIERS = frozenset({"Attention", "STFT"})
"""Operators whose C++ inference (onnx 1.23) returns wrong static sizes: 0 for a symbolic head size, the two-sided
length of a one-sided transform. They are hidden from it; what the model itself declares about
their outputs still counts."""

FALSE_ALARMS = (
    # The inference of a standard operator that is defined by a function fails inside of that definition.
    re.compile(r"\(op_type:MeanVarianceNormalization.*One and only one of the attributes 'value'"),
    # The input comes from an operator that the inference does not know.
    re.compile(r"expected to have type but instead is null"),
    re.compile(r"Input \d+ .*(type is null|not have type)"),
    # A symbolic number of sizes is taken for none; a symbolic size for 0; an outer constant for no tensor.
    re.compile(r"\(op_type:Resize.*Number of elements of input '(sizes|scales)' \(0\)"),
    re.compile(r"\(op_type:StringNormalizer.*Input shape must have either \[C\] or \[1,C\]"),
    re.compile(r"\(op_type:Scan.*was not a tensor"),
)
"""Complaints of the C++ inference about models that are correct (found by running it on every backend test of onnx)."""

_NODE = re.compile(r"\(op_type:\s*([^,)]*)(?:,\s*node name:\s*([^)]*))?\)")


def _infer(data: bytes, where: str) -> bytes:
    """The serialized model with shapes, as onnx's C++ inference finds them.

    Raises:
        ModelError: It finds a contradiction.
    """
    if any(name.encode() in data for name in BARRIERS):
        proto = onnx.ModelProto.FromString(data)
        _hide(proto.graph.node)
        for function in proto.functions:
            _hide(function.node)
            _import_hidden(function.opset_import)
        _import_hidden(proto.opset_import)
        data = proto.SerializeToString()
    try:
        return cpp.infer_shapes(data, True, True, True)
    except Exception as error:
        text = " ".join(str(error).split())
        if any(pattern.search(text) for pattern in FALSE_ALARMS):
            return _lenient(data)
        found = _NODE.search(text)
        place = where
        if found:
            name = f"node {found[2].strip()!r} ({found[1]})" if found[2] else f"an unnamed node ({found[1]})"
            place = f"{name} of {where}"
        raise ModelError(
            f"shapes or types contradict each other: {text[:600]}",
            place,
            "correct the declared shapes (value_info), or remove them",
        ) from error


def _lenient(data: bytes) -> bytes:
    """The inference that skips the nodes which it cannot make sense of."""
    try:
        return cpp.infer_shapes(data, False, False, True)
    except Exception:  # nothing is known then, which is a correct answer
        return data


HIDDEN = "graphopt.hidden"


def _import_hidden(imports: Any) -> None:
    imports.add(domain=HIDDEN, version=1)


def _hide(nodes: Any) -> None:
    for node in nodes:
        if node.op_type in BARRIERS and not node.domain:
            node.domain = HIDDEN
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _hide(attribute.g.node)


def _merge(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    known: Mapping[str, onnx.TypeProto] = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    for node, node_proto in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            if value.name and value.name in known:
                _refine(value, known[value.name])
        if not any(attribute.type in _GRAPHS for attribute in node.attributes.data.values()):
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

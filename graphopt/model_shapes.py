"""Shape inference in place.

Two inferences work together, because each knows what the other does not, and each is wrong somewhere (found by running
both on every node test of onnx and comparing with the real outputs, with sizes static and symbolic):

* onnx's C++ inference is the judge. It is fast and, but for `BARRIERS`, right. It loses sizes that are computed:
  ``Reshape(x, Concat(Shape(x)[:1], [-1]))`` is how torch writes "flatten".
* The package onnx-shape-inference computes with sizes. It is wrong for Unique, for Split, Slice, Squeeze and Resize
  whose parameters are not constant or whose sizes are symbolic, and guesses in loops. So it sees only the operators of
  `COMPUTED`, and of its answers only static sizes are taken, only where the C++ inference has none.

What neither of them is told about, the operators of onnxruntime, is `graphopt.model_shapes_contrib`'s.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx.onnx_cpp2py_export import shape_inference as cpp
from onnx_shape_inference import infer_symbolic_shapes

from graphopt import model_proto, model_shapes_contrib
from graphopt.errors import ModelError
from graphopt.model_shapes_loops import settle_loops

KEEP_BYTES = 1 << 16
"""Constants up to this size are shown to the inference: shapes, axes, indices. Larger ones lend it only their shape."""


def infer_shapes(model: ir.Model) -> None:
    """Fill in the types and shapes of the values of `model`, in place, subgraphs included.

    A static size that is known already stays; an unknown or symbolic one becomes static where that is proved. Values
    that nothing is known about stay without. The weights are not looked at, so any size of model will do. Linear.

    Raises:
        ModelError: Shapes or types contradict each other; says at which node.
    """
    settled: list[tuple[ir.Value, ir.Shape | None]] = []
    for _ in range(_ROUNDS):
        try:
            inferred = _inferred(_light(model))
        except ModelError:
            if not settled:
                raise
            for value, shape in settled:  # the judge does not agree with what was computed
                value.shape = shape
            return
        with model_proto.no_collection():
            _merge(model.graph, inferred.graph)
            settled = _compute_sizes(model) + settle_loops(model)
        if not settled:
            return


_ROUNDS = 3
"""A computed size settles others, and those settle computed ones: both in turn until nothing is new, or this often."""


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
    # onnxruntime's kernel takes a list of one number, and onnx's own definition of AffineGrid hands it such.
    re.compile(r"\(op_type:Range.*should be scalars \(Tensor with only one element"),
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
    except Exception:
        pass  # once more without following the contents of shape tensors, which fails on some correct models
    try:
        return cpp.infer_shapes(data, True, True, False)
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


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The inference, with stand-ins for the operators that onnx does not know. May edit `proto`.

    Raises:
        ModelError: There is a contradiction, not counting the stand-ins.
    """
    plain = proto.SerializeToString()
    if not model_shapes_contrib.show(proto):
        return _sighted(plain)
    shown = proto.SerializeToString()
    try:
        return _sighted(shown)
    except ModelError:  # a stand-in is no judge of a model; one that does not fit tells nothing
        _sighted(plain)
        return _sighted(shown, _lenient)


def _sighted(data: bytes, infer: Callable[[bytes], bytes] = lambda data: _infer(data, "the model")) -> onnx.ModelProto:
    """The inference without the answers it gives about ``Expand`` of a value of which it does not know the rank.

    It takes the shape operand for the result, which is wrong wherever the value is larger.
    """
    inferred = onnx.ModelProto.FromString(infer(data))
    blind = _blind(inferred.graph)
    while blind:
        proto = onnx.ModelProto.FromString(data)
        for position in blind:
            proto.graph.node[position].domain = HIDDEN
        _import_hidden(proto.opset_import)
        data = proto.SerializeToString()
        inferred = onnx.ModelProto.FromString(infer(data))
        blind = _blind(inferred.graph)
    return inferred


def _blind(graph: onnx.GraphProto) -> list[int]:
    expands = [place for place, node in enumerate(graph.node) if node.op_type == "Expand" and not node.domain]
    if not expands:
        return []
    known = {tensor.name for tensor in graph.initializer}
    known.update(
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    )
    return [place for place in expands if graph.node[place].input[0] not in known]


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
    if len(before) != len(sizes):
        return  # only the lenient inference lets this pass; then the declared rank stays
    after: list[Any] = [
        size.dim_value if not isinstance(old, int) and size.HasField("dim_value") else old
        for old, size in zip(before, sizes, strict=True)
    ]
    if any(isinstance(new, int) and not isinstance(old, int) for old, new in zip(before, after, strict=True)):
        value.shape = ir.Shape(after)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value
    name = dim.dim_param
    # The C++ inference makes these up; as symbols they would say that sizes are equal which need not be.
    return None if not name or _INVENTED.fullmatch(name) else name


_INVENTED = re.compile(r"unk__\d+")

_SIZES = (
    "Shape Size Constant ConstantOfShape Gather Concat Cast Identity Add Sub Mul Div Where Equal Range Reshape Expand"
)
_MOVES = "Flatten Transpose Slice Squeeze Unsqueeze Tile"
_PASSES = "MatMul Gemm Conv Relu LeakyRelu Sigmoid Tanh Erf Sqrt Softmax BatchNormalization LayerNormalization"
COMPUTED = frozenset(f"{_SIZES} {_MOVES} {_PASSES}".split())
"""Operators of the standard domain that onnx-shape-inference may look at."""


def _compute_sizes(model: ir.Model) -> list[tuple[ir.Value, ir.Shape | None]]:
    """Settle unknown sizes of the main graph by computing with symbols; the changed values and their shapes before."""
    makes_sizes = any(node.op_type in ("Shape", "Size", "Range", "Reshape") for node in model.graph)
    if not makes_sizes or not any(_is_open(value) for node in model.graph for value in node.outputs):
        return []
    # On a copy: it renames sizes of inputs, and what it must not see is hidden there.
    copied = model.clone()
    copied.functions.clear()
    for node in copied.graph:
        if node.domain or node.op_type not in COMPUTED or not _is_safe(node):
            node.domain = HIDDEN
            for name in [name for name, attribute in node.attributes.data.items() if attribute.type in _GRAPHS]:
                node.attributes.pop(name)
    copied.opset_imports[HIDDEN] = 1
    try:
        infer_symbolic_shapes(copied, warn_on_missing=False, adopt_declared_symbols=False)
    except Exception:  # contradictions are the judge's to find; here it only means that nothing is learnt
        return []
    settled: list[tuple[ir.Value, ir.Shape | None]] = []
    for node, node_copy in zip(model.graph, copied.graph, strict=True):
        for value, found in zip(node.outputs, node_copy.outputs, strict=True):
            if found.shape is None or not _is_open(value):
                continue
            if value.shape is None:
                if value.type is None:
                    continue
                settled.append((value, None))
                value.shape = ir.Shape([_static(size) for size in found.shape.dims])
            elif len(value.shape) == len(found.shape):
                sizes = [
                    new if not isinstance(old, int) and new is not None else old
                    for old, new in zip(value.shape.dims, map(_static, found.shape.dims), strict=True)
                ]
                if any(new is not old for new, old in zip(sizes, value.shape.dims, strict=True)):
                    settled.append((value, value.shape))
                    value.shape = ir.Shape(sizes)
    return settled


def _static(size: Any) -> int | None:
    """The number that a size is. A computed number can come as a symbol: the text ``"1024"``."""
    if isinstance(size, int):
        return size
    return int(size.value) if isinstance(size.value, str) and size.value.isdecimal() else None


def _is_open(value: ir.Value) -> bool:
    """Whether the shape, or one of the sizes, is neither a number nor a name."""
    if value.shape is None:
        return True
    return any(not isinstance(size, int) and size.value is None for size in value.shape.dims)


def _is_safe(node: ir.Node) -> bool:
    """Whether onnx-shape-inference is right about this one: parameters constant, and the sizes that they cut static."""
    if node.op_type not in ("Slice", "Squeeze", "Unsqueeze"):
        return True
    if node.op_type in ("Squeeze", "Unsqueeze") and "axes" in node.attributes:
        return True  # before opset 13
    place = 3 if node.op_type == "Slice" else 1
    given = node.inputs[place] if len(node.inputs) > place else None
    axes = ir.convenience.get_const_tensor(given) if given is not None else None
    if axes is None:
        return False
    if node.op_type != "Slice":
        return True
    data = node.inputs[0]
    if data is None or data.shape is None:
        return False
    rank = len(data.shape)
    return all(-rank <= axis < rank and isinstance(data.shape[axis], int) for axis in map(int, axes.numpy().flat))

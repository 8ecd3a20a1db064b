"""Protobuf in and out: bytes become onnx_ir's objects, and nothing that onnx_ir cannot carry is lost in silence.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import numpy_helper

from graphopt.errors import GraphoptError, ModelError

PROTOBUF_LIMIT = (1 << 31) - 1
"""A protobuf message cannot be larger, in bytes."""

DENSE_LIMIT = 1 << 28
"""Elements of the largest sparse constant that is made dense."""

NOT_ONNX = "export the model again, or fetch the file again; graphopt reads the binary ONNX format"

_Result = TypeVar("_Result")


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Build many objects without the garbage collector looking through them again and again (twice as fast)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """The model in `data`.

    Raises:
        ModelError: It is not a complete ONNX model.
    """
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError("this is not an ONNX model, or it is truncated", where, NOT_ONNX) from error
    return accepted(proto, where)


def accepted(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """`proto` itself, if it is a model of a version that is known.

    Raises:
        ModelError: It is not.
    """
    if not proto.HasField("graph"):
        raise ModelError("this is not an ONNX model: it has no graph", where, NOT_ONNX)
    if proto.ir_version < 3:
        raise ModelError(
            f"the model's IR version is {proto.ir_version or 'missing'}", where, "export it again; 3 is the oldest read"
        )
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"the model's IR version is {proto.ir_version}; the installed onnx {onnx.__version__} knows versions up to"
            f" {onnx.IR_VERSION}",
            where,
            "install a newer onnx",
        )
    if not proto.opset_import:
        raise ModelError(
            "the model imports no operator set", where, "the file may be truncated; otherwise export the model again"
        )
    return proto


def to_ir(proto: onnx.ModelProto, where: str) -> ir.Model:
    """`proto` as a model of onnx_ir. May edit `proto`, and shares its tensors.

    Sparse constants become dense. Training information is not part of the function and is left out, with a warning.

    Raises:
        ModelError: The model holds something that cannot be carried, or is malformed.
    """
    _prepare_graph(proto.graph, where)
    keys: set[tuple[str, str, str]] = set()
    for function in proto.functions:
        place = f"function {function.domain}::{function.name} of {where}"
        key = (function.domain, function.name, function.overload)
        if key in keys:
            raise ModelError("a function is defined twice", place)
        keys.add(key)
        _prepare_nodes(function.node, place)
    if proto.training_info:
        logging.getLogger(__name__).warning("%s: training_info is not kept", where)
    with no_collection(), _quiet():
        return wrapped("the model cannot be read", where, lambda: ir.serde.deserialize_model(proto))


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """`model` as protobuf; external tensors of onnx_ir stay references.

    Raises:
        ModelError: onnx_ir cannot write it.
    """
    with no_collection(), _quiet():
        return wrapped("the model cannot be written", None, lambda: ir.serde.serialize_model(model))


def to_bytes(proto: Message, where: str | None = None) -> bytes:
    """`proto` as bytes.

    Raises:
        ModelError: Over two gigabytes.
    """
    try:
        return proto.SerializeToString()
    except (EncodeError, ValueError, RuntimeError, MemoryError) as error:
        raise too_large(proto.ByteSize(), where) from error


def too_large(size: int, where: str | None = None) -> ModelError:
    """The error for a model that needs external data."""
    return ModelError(
        f"the model takes {size / 1e9:.2f} GB, and one protobuf message holds at most 2.15 GB",
        where,
        "save it with external data (external=True, --save-external)",
    )


def wrapped(what: str, where: str | None, action: Callable[[], _Result]) -> _Result:
    """The result of `action`; whatever goes wrong in it becomes a `ModelError` that names the root cause."""
    try:
        return action()
    except GraphoptError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = " ".join(str(cause).split()) or type(cause).__name__
        raise ModelError(f"{what}: {text[:500]}", where) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnx_ir's warnings about malformed models: `check` reports those, once and as errors."""
    logger = logging.getLogger("onnx_ir.serde")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _prepare_graph(graph: onnx.GraphProto, where: str) -> None:
    """Refuse or rewrite, in place, what onnx_ir would drop without a word."""
    sparse = [_dense(tensor, where) for tensor in graph.sparse_initializer]
    if sparse:
        del graph.sparse_initializer[:]
        graph.initializer.extend(sparse)
    _refuse_twice((tensor.name for tensor in graph.initializer), "initializer", where)
    for tensor in graph.initializer:
        _require_elements(tensor, f"initializer {tensor.name!r} of {where}")
    _refuse_twice((value.name for value in graph.input), "graph input", where)
    _refuse_twice((value.name for value in graph.output), "graph output", where)
    for value in (*graph.input, *graph.output):
        if _holds_map(value.type):
            raise ModelError(
                f"{value.name!r} is of a map type, which graphopt does not carry",
                where,
                "export without it (skl2onnx: the option zipmap=False)",
            )
    _prepare_nodes(graph.node, where)


def _prepare_nodes(nodes: Any, where: str) -> None:
    for node in nodes:
        for attribute in node.attribute:
            kind = attribute.type
            if kind == onnx.AttributeProto.GRAPH:
                _prepare_graph(attribute.g, f"subgraph of node {node.name!r} ({node.op_type}) of {where}")
            elif kind == onnx.AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    _prepare_graph(graph, f"subgraph of node {node.name!r} ({node.op_type}) of {where}")
            elif kind == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant" and not node.domain:
                dense = _dense(attribute.sparse_tensor, where)
                attribute.Clear()
                attribute.name = "value"
                attribute.type = onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(dense)
            elif kind in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS):
                for tensor in (attribute.t, *attribute.tensors):
                    _require_elements(tensor, f"attribute {attribute.name!r} of node {node.name!r} of {where}")


def _require_elements(tensor: onnx.TensorProto, place: str) -> None:
    """Refuse a tensor that does not hold as many elements as its shape says; what lies in a file is checked there.

    Raises:
        ModelError: It holds more or fewer, in a field of another type, or a size is negative.
    """
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"a tensor of shape {list(tensor.dims)} cannot be", place, _WRITER)
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type not in _FIELDS:
        return
    size = math.prod(tensor.dims)
    field, bits, unit = _FIELDS[tensor.data_type]
    if tensor.HasField("raw_data"):
        held, needed, what = len(tensor.raw_data), (size * bits + 7) // 8, "bytes"
    else:
        held, needed, what = len(getattr(tensor, field)), math.ceil(size * unit), f"numbers in {field}"
    if held != needed:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise ModelError(
            f"a tensor {kind} of shape {list(tensor.dims)} takes {needed} {what}, and has {held}", place, _WRITER
        )


_WRITER = "the file is damaged, or what wrote it is wrong; export the model again"


def _fields() -> dict[int, tuple[str, int, float]]:
    """By element type: the field of its numbers, bits of one element in ``raw_data``, entries of the field for one."""
    found = {}
    for kind in ir.DataType:
        if kind in (ir.DataType.UNDEFINED, ir.DataType.STRING) or kind.bitwidth == 6:  # how six lie is not agreed upon
            continue
        field = onnx.helper.tensor_dtype_to_field(int(kind))
        packed = kind.bitwidth / 8 if kind.bitwidth < 8 else 1
        found[int(kind)] = (field, kind.bitwidth, 2 if kind.name.startswith("COMPLEX") else packed)
    return found


_FIELDS = _fields()


def locations(proto: onnx.ModelProto) -> list[str]:
    """The external data files that a model names, sorted."""
    found: set[str] = set()

    def look(message: Message) -> None:
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL:
                found.update(entry.value for entry in message.external_data if entry.key == "location")
            return
        for field, content in message.ListFields():
            if field.message_type is None or field.message_type.full_name in _WITHOUT_TENSORS:
                continue
            for part in content if isinstance(content, Sequence) else [content]:
                look(part)

    look(proto)
    return sorted(found)


_WITHOUT_TENSORS = frozenset({"onnx.ValueInfoProto", "onnx.StringStringEntryProto", "onnx.OperatorSetIdProto"})


def _refuse_twice(names: Iterator[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"a {what} has no name" if what[0] == "g" else f"an {what} has no name", where)
        if name in seen:
            raise ModelError(
                f"the {what} {name!r} is given twice", where, "every value of a graph needs a name of its own"
            )
        seen.add(name)


def _holds_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _holds_map(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _holds_map(kind.optional_type.elem_type)
    return which == "map_type"


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    """The same constant with its zeros written out: ``dense[indices] = values``."""
    name = sparse.values.name
    place = f"sparse initializer {name!r} of {where}"
    shape = tuple(sparse.dims)
    size = 1
    for extent in shape:
        size *= extent
    if size > DENSE_LIMIT:
        raise ModelError(
            f"a sparse constant of {size} elements is too large to be made dense", place, "store it as a dense tensor"
        )

    def build() -> onnx.TensorProto:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices)
        dense = np.zeros(size, dtype=values.dtype)
        flat: Any = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        if len(flat) and (flat.min() < 0 or flat.max() >= size):
            raise IndexError("an index is outside of the shape")
        dense[flat] = values
        tensor = numpy_helper.from_array(dense.reshape(shape), name)
        tensor.data_type = sparse.values.data_type
        tensor.doc_string = sparse.values.doc_string
        return tensor

    return wrapped("a sparse constant is malformed", place, build)


def without_weights(model: ir.Model, keep_bytes: int) -> Mapping[Any, Any]:
    """Stand-ins for the tensors of `model` above `keep_bytes`: type and shape, no data. For `replaced`."""
    stand_ins: dict[Any, Any] = {}
    for place, tensor in tensors(model):
        if tensor_bytes(tensor) > keep_bytes and tensor.dtype != ir.DataType.STRING:
            stand_ins[place] = stand_in(tensor, "-", 0)
    return stand_ins


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """About how many bytes of protobuf a tensor takes."""
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        return tensor.raw.ByteSize()  # much faster than the product of its shape
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(text) + 8 for text in tensor.numpy().flat)
    return tensor.nbytes


def stand_in(tensor: ir.TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    """A reference to where the bytes of `tensor` are, or will be."""
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


Place = ir.Value | tuple[ir.Node, str]
"""Where a model holds a tensor: an initializer, or an attribute of a node."""


def tensors(model: ir.Model) -> Iterator[tuple[Place, ir.TensorProtocol]]:
    """Every tensor of a model, functions and subgraphs included, and where it is held."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    while graphs:
        graph = graphs.pop(0)
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
        for node in graph:
            for name, attribute in node.attributes.data.items():  # UserDict's own dictionary: four times faster
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield (node, name), attribute.as_tensor()
                elif attribute.type == ir.AttributeType.GRAPH:
                    graphs.append(attribute.as_graph())
                elif attribute.type == ir.AttributeType.GRAPHS:
                    graphs.extend(attribute.as_graphs())


def place_tensor(place: Place, tensor: ir.TensorProtocol) -> Callable[[], None]:
    """Hold `tensor` at `place`; the result puts back what was there."""
    if isinstance(place, ir.Value):
        value, before = place, place.const_value
        value.const_value = tensor

        def undo_value() -> None:
            value.const_value = before

        return undo_value
    node, name = place
    attribute = node.attributes[name]
    node.attributes[name] = ir.Attr(name, ir.AttributeType.TENSOR, tensor, doc_string=attribute.doc_string)

    def undo_attribute() -> None:
        node.attributes[name] = attribute

    return undo_attribute


@contextlib.contextmanager
def replaced(changes: Mapping[Place, ir.TensorProtocol]) -> Iterator[None]:
    """The model with other tensors, for as long as the block lasts."""
    undo: list[Callable[[], None]] = []
    try:
        for place, tensor in changes.items():
            undo.append(place_tensor(place, tensor))
        yield
    finally:
        for step in undo:
            step()

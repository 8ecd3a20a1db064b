"""Load, save, copy and check models.

The modules ``graphopt/model*.py`` are the only ones that see protobuf; everything else works on ``onnx_ir`` objects.
Use the family through this module.

* ``model_proto``: bytes to objects and back.
* ``model_files``: external data, mapped; files replaced wholly or not at all.
* ``model_check``: is a model well-formed?
* ``model_shapes``: shape inference.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from graphopt import model_files, model_proto
from graphopt.errors import ModelError, UsageError
from graphopt.model_check import UnsortedError, check, source_line
from graphopt.model_shapes import check_proto_shapes, infer_shapes

__all__ = [
    "check",
    "clone",
    "digest",
    "file_info",
    "infer_shapes",
    "load",
    "save",
    "serialize",
    "source_line",
]

EXTERNAL_ABOVE = 1_900_000_000
"""Bytes of tensors above which `save` uses external data by itself: protobuf ends at 2,147,483,647."""

EXTERNAL_TENSOR = 1024
"""Bytes from which a tensor goes to the data file, where there is one; smaller ones cost less inside the model."""


def load(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model, *, clone: bool = True) -> ir.Model:
    """A well-formed model, whatever it came as.

    External data is mapped, not read: a model of many gigabytes costs no memory until its weights are touched
    (`graphopt.model_files` says which files a model may name). Nodes that stand before their inputs are sorted; sparse
    constants become dense. Operators and domains that graphopt does not know are kept as they are.

    Args:
        source: A path, a protobuf model or a model of onnx_ir. It is never changed.
        clone: False to get an `ir.Model` itself, checked, instead of a copy of it (for callers that give it away).

    Raises:
        ModelError: Not a file, not ONNX, truncated, external data missing, too short or outside of the model's
            folder, no outputs, a cycle, names given twice, undefined inputs, an unknown operator set, shapes that
            contradict each other, map types.
    """
    try:
        return _load(source, clone)
    except ModelError as error:
        if error.help is None:
            error.help = MALFORMED
        raise


MALFORMED = "repair what writes this model, or export it again; onnx.checker.check_model tells whether more is wrong"
"""What helps against a model that contradicts itself."""


def _load(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model, clone: bool) -> ir.Model:
    if isinstance(source, ir.Model):
        return _from_ir(source, clone)
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        # Through the parser's checks, like a file.
        model = _from_proto(model_proto.accepted(proto, "the given ModelProto"), "the given ModelProto")
        for place, tensor in model_proto.tensors(model):
            if isinstance(tensor, ir.ExternalTensor):
                raise ModelError(
                    f"the tensor {tensor.name!r} lies in the file {os.fspath(tensor.location)!r}, but a ModelProto does"
                    " not know its folder",
                    _place(place),
                    "load the model by its path, or call onnx.load_external_data_for_model first",
                )
        return model
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source))
    raise UsageError(
        f"cannot load a model from {type(source).__name__}", None, "give a path, an onnx.ModelProto or an onnx_ir.Model"
    )


def _from_path(path: Path) -> ir.Model:
    where = str(path)
    _require_file(path)
    try:
        proto = _read(path)
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror or error}", where) from error
    model = _from_proto(proto, where)
    folder = model_files.DataFolder(path)
    for place, tensor in list(model_proto.tensors(model)):
        if isinstance(tensor, ir.ExternalTensor):
            model_proto.place_tensor(place, folder.tensor(tensor, f"{_place(place)} of {where}"))
    return model


def _read(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size > model_proto.PROTOBUF_LIMIT:
        raise ModelError(
            f"the file has {size} bytes; an ONNX file cannot be larger than 2 GB without external data",
            str(path),
            model_proto.NOT_ONNX,
        )
    return model_proto.parse(path.read_bytes(), str(path))


def _from_proto(proto: onnx.ModelProto, where: str) -> ir.Model:
    model = model_proto.to_ir(proto, where)
    with _at(where):
        try:
            check(model)
        except UnsortedError as unsorted:
            _sort(model, unsorted)
            check(model)
            proto = model_proto.to_proto(model)
    # Of an `ir.Model` that is handed over, the shapes are judged by `infer_shapes`.
    check_proto_shapes(proto, where)
    return model


def _sort(model: ir.Model, unsorted: UnsortedError) -> None:
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.sort()
    except ValueError:
        raise ModelError("the graph has a cycle", unsorted.where, "an ONNX graph must not have one") from None


def _require_file(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        help = "it is a symbolic link to nowhere" if path.is_symlink() else "check the path"
        raise ModelError("there is no such file", str(path), help) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the model: {error}", str(path)) from error
    if stat.S_ISDIR(status.st_mode):
        raise ModelError("this is a folder, not a model", str(path), "give the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError("this is not a regular file", str(path), "give the .onnx file")
    if status.st_size == 0:
        raise ModelError("the file is empty", str(path), "export the model again, or fetch the file again")


def _from_ir(source: ir.Model, copied: bool) -> ir.Model:
    try:
        check(source)
    except UnsortedError:
        if not copied:
            raise
        # onnx_ir copies only what is sorted, and the caller's model must stay as it is: through protobuf.
        return _from_proto(onnx.ModelProto.FromString(serialize(source)), "the model")
    if not copied:
        return source
    model = clone(source)
    for place, tensor in list(model_proto.tensors(model)):
        if isinstance(tensor, ir.ExternalTensor):
            model_proto.place_tensor(place, _adopted(tensor, _place(place)))
    return model


def _adopted(tensor: ir.ExternalTensor, where: str) -> ir.TensorProtocol:
    """An external tensor of the caller's own model: he chose its folder, so only what is in the file is checked."""
    try:
        file = model_files.DataFile(os.path.realpath(tensor.path))
    except OSError as error:
        raise ModelError(f"cannot read the external data file {tensor.path!r}: {error.strerror}", where) from error
    return model_files.mapped(file, tensor, where)


@contextlib.contextmanager
def _at(where: str) -> Any:
    """Errors inside say also which model they are about."""
    try:
        yield
    except ModelError as error:
        raise type(error)(error.what, f"{error.where} of {where}" if error.where else where, error.help) from error


def _place(place: model_proto.Place) -> str:
    if isinstance(place, ir.Value):
        return f"initializer {place.name!r}"
    return f"attribute {place[1]!r} of node {place[0].name!r}"


def clone(model: ir.Model) -> ir.Model:
    """A copy that can be edited without the original noticing; only the tensors are shared.

    Subgraphs, functions, names, types, metadata, doc strings and quantization annotations come along. Linear.

    Raises:
        ModelError: The model is not well-formed (nodes before their inputs).
    """
    with model_proto.no_collection():
        copied = model_proto.wrapped("the model cannot be copied", None, model.clone)
        # onnx_ir shares the type objects, and `value.dtype = ...` edits them in place.
        for graph in copied.graphs():
            values = [*graph.inputs, *graph.initializers.values()]
            for node in graph:
                values.extend(node.outputs)
            for value in values:
                if value.type is not None:
                    value.type = copy.copy(value.type)
    return copied


def serialize(model: ir.Model) -> bytes:
    """The model as one protobuf message, all of its tensors inside.

    Raises:
        ModelError: Over 2 GB, or not writable.
    """
    changes: dict[Any, ir.TensorProtocol] = {}
    size = 0
    for place, tensor in model_proto.tensors(model):
        size += model_proto.tensor_bytes(tensor)
        if isinstance(tensor, ir.ExternalTensor):
            changes[place] = _adopted(tensor, _place(place))
    if size > model_proto.PROTOBUF_LIMIT:
        raise model_proto.too_large(size)
    with model_proto.replaced(changes):
        proto = model_proto.to_proto(model)
    return model_proto.to_bytes(proto)


def digest(model: ir.Model) -> str:
    """SHA-256 of all that a model says and of its weights, which are read one at a time.

    Raises:
        ModelError: The model cannot be written, or its external data not be read.
    """
    weights = model_proto.without_weights(model, EXTERNAL_TENSOR)
    tensors = [(place, tensor) for place, tensor in model_proto.tensors(model) if place in weights]
    found = hashlib.sha256()
    with model_proto.replaced(weights):
        found.update(model_proto.to_bytes(model_proto.to_proto(model)))
    for place, tensor in tensors:
        adopted = _adopted(tensor, _place(place)) if isinstance(tensor, ir.ExternalTensor) else tensor
        found.update(adopted.tobytes())
    return found.hexdigest()


def save(model: ir.Model, path: str | os.PathLike[str], *, external: bool | None = None) -> None:
    """Write a model: complete or not at all. An older file is replaced only when the new one is on disk.

    With external data, tensors of 1 KiB and more go one by one, 64-byte aligned, to ``<path>.data`` beside the model:
    the memory needed does not depend on the size of the model. Saving over the file that the model was loaded from is
    fine. (An `ir.ExternalTensor` of a replaced data file, which only a model of the caller's own making can hold, is
    exchanged for a mapped tensor in this model and invalidated elsewhere.) When `path` is a symbolic link, the link is
    replaced, not the file that it leads to.

    Args:
        model: The model; the same after the call as before.
        path: The file to write.
        external: Whether to use external data; None to do so above 1.9 GB of tensors.

    Raises:
        ModelError: The place cannot be written, the disk is full, or `external` is False and the model is over 2 GB.
    """
    target = Path(path)
    _require_writable(target)
    total = sum(model_proto.tensor_bytes(tensor) for _, tensor in model_proto.tensors(model))
    stale: list[tuple[Any, ir.ExternalTensor, ir.TensorProtocol]] = []
    if external is None:
        external = total > EXTERNAL_ABOVE
    try:
        with model_files.Replacement() as files:
            if external:
                stale = _write_external(model, target, files)
            else:
                data = serialize(model)
                with files.open(target) as file:
                    file.write(data)
            files.commit()
        for place, old, mapped in stale:
            model_proto.place_tensor(place, mapped)
            old.invalidate()
    except OSError as error:
        raise ModelError(
            f"cannot write the model: {error.strerror or f'no room for all of an array ({error})'}",
            str(target),
            "nothing was changed; make room or choose another place",
        ) from error


def _write_external(
    model: ir.Model, target: Path, files: model_files.Replacement
) -> list[tuple[Any, ir.ExternalTensor, ir.TensorProtocol]]:
    """Write both files; which tensors of onnx_ir read from the data file that is going to be replaced."""
    data_target = target.with_name(target.name + ".data")
    places: dict[int, list[model_proto.Place]] = {}
    outside: list[ir.TensorProtocol] = []
    inside: dict[Any, ir.TensorProtocol] = {}
    stale: list[tuple[Any, ir.ExternalTensor, ir.TensorProtocol]] = []
    for place, tensor in model_proto.tensors(model):
        adopted = tensor
        if isinstance(tensor, ir.ExternalTensor):
            adopted = _adopted(tensor, _place(place))
            if os.path.realpath(tensor.path) == os.path.realpath(data_target):
                stale.append((place, tensor, adopted))
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < EXTERNAL_TENSOR:
            if adopted is not tensor:
                inside[place] = adopted
            continue
        # A tensor that is held in several places is written once.
        if id(tensor) not in places:
            outside.append(adopted)
        places.setdefault(id(tensor), []).append(place)
    offsets = model_files.layout(outside)
    changes = dict(inside)
    for tensor, offset, holders in zip(outside, offsets, places.values(), strict=True):
        for place in holders:
            changes[place] = model_proto.stand_in(tensor, data_target.name, offset)
    with model_proto.replaced(changes):
        data = model_proto.to_bytes(model_proto.to_proto(model), str(target))
    if outside:
        with files.open(data_target) as file:
            model_files.write_tensors(file, outside, offsets)
    with files.open(target) as file:
        file.write(data)
    return stale


def _require_writable(target: Path) -> None:
    where = str(target)
    try:
        os.lstat(target)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise ModelError(f"there is no folder {str(target.parent)!r} to write to", where, "that is a file") from None
    except (
        OSError,
        ValueError,
    ) as error:  # a name that is too long, a null character, a folder that may not be entered
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot write the model: {reason}", where, "choose another place") from error
    if target.is_dir():
        raise ModelError("cannot write a model over a folder", where, "give a file name, such as model.onnx")
    if target.exists() and not target.is_file():
        raise ModelError("cannot write a model here: this is not a regular file", where, "name a file of its own")
    if not target.parent.is_dir():
        raise ModelError(f"there is no folder {str(target.parent)!r} to write to", where, "create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ModelError(f"the folder {str(target.parent)!r} cannot be written", where, "choose another place")


def file_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the report says about a model file: ``path``, ``bytes`` (with its external data), ``sha256``.

    The checksum is of the model file followed by its external data files, in the order of their names; for a model
    without external data, that is what ``sha256sum`` prints. Files are read in pieces.

    Raises:
        ModelError: The file cannot be read, or names data that may not be read.
    """
    target = Path(path)
    _require_file(target)
    digest = hashlib.sha256()
    size = 0
    for file_path in [target, *_data_files(target)]:
        with open(file_path, "rb") as file:
            while chunk := file.read(model_files.CHUNK):
                digest.update(chunk)
                size += len(chunk)
    return {"path": str(target), "bytes": size, "sha256": digest.hexdigest()}


def _data_files(path: Path) -> list[str]:
    return model_files.DataFolder(path).files(model_proto.locations(_read(path)))

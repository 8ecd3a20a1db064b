"""Files on disk: external data that is mapped, never read whole; replacement that happens wholly or not at all.

Part of the family ``graphopt/model*.py``; use it through `graphopt.model`.

What may be opened. The ``location`` of an external tensor comes from the model file, so it is not trusted:

* it is relative, and none of its parts is ``..``;
* after all symbolic links are followed, the file lies in the model's folder or below;
* except in a cache of symbolic links, as the Hugging Face hub keeps one (``snapshots/<rev>/model.onnx ->
  ../../blobs/<hash>``): where the model file *itself* is such a link, a data file beside it may lead into the folder
  that the model file leads into, and nowhere else;
* it is a regular file, and holds all the bytes that the model says it holds.

onnx, onnx_ir and onnxruntime draw the same line for the first two. onnx and onnx_ir refuse the cache, and refuse files
with several hard links, which caches also use; a hard link has no target that could lie elsewhere, so here it is fine.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from graphopt.errors import ModelError

CHUNK = 16 << 20
"""Bytes that are copied at a time: what a large tensor costs in memory while it is written."""

ALIGNMENT = 64
"""Offsets in a data file are multiples of this many bytes, so that a mapped tensor may be used where it lies."""


class DataFile:
    """One file of external data, mapped once for all of its tensors.

    The map keeps the data alive when the file is replaced or unlinked meanwhile: saving a model over itself is safe.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            self.size = status.st_size
            self.identity = (status.st_dev, status.st_ino)
            # An empty file cannot be mapped, and only empty tensors can lie in it.
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None

    def release(self, offset: int, length: int) -> None:
        """Let the system take back the pages of one range; they are read again when touched again."""
        if self.map is None or not hasattr(self.map, "madvise"):
            return
        start = offset - offset % mmap.PAGESIZE
        if start < offset + length:
            self.map.madvise(mmap.MADV_DONTNEED, start, offset + length - start)


class MappedTensor(ir.Tensor):
    """A tensor that lies in a `DataFile`: no memory until its elements are touched, and `release` undoes that."""

    __slots__ = ("file", "offset")

    def __init__(self, file: DataFile, offset: int, dtype: ir.DataType, shape: ir.Shape, **named: Any) -> None:
        kind = np.dtype(dtype.numpy()).newbyteorder("<")
        sizes = shape.numpy()
        size = math.prod(sizes)
        if size:
            assert file.map is not None
            array = np.frombuffer(file.map, dtype=kind, count=size, offset=offset).reshape(sizes)
        else:
            array = np.empty(sizes, dtype=kind)
        super().__init__(array, dtype, shape=ir.Shape(sizes), **named)
        self.file = file
        self.offset = offset

    def tofile(self, file: Any) -> None:
        """Write the bytes, and let the pages go behind the writer: the cost in memory is `CHUNK`, not the tensor."""
        if self.nbytes == 0:
            return
        assert self.file.map is not None
        raw = memoryview(self.file.map)[self.offset : self.offset + self.nbytes]
        for start in range(0, len(raw), CHUNK):
            file.write(raw[start : start + CHUNK])
            self.file.release(self.offset + start, min(CHUNK, len(raw) - start))

    def release(self) -> None:
        """Let the system take back the memory that reading the elements cost. Arrays in use stay valid."""
        self.file.release(self.offset, self.nbytes)

    def __repr__(self) -> str:
        file = os.path.basename(self.file.path)
        return f"{self._repr_base()}(file={file!r}, offset={self.offset}, name={self.name!r})"


class DataFolder:
    """Finds and maps the external data of one model, under the rules at the top of this module.

    Args:
        model_path: The model file that the locations are relative to.
    """

    def __init__(self, model_path: str | os.PathLike[str]) -> None:
        path = os.path.abspath(os.fspath(model_path))
        self.folder = os.path.dirname(path)
        self._roots = [os.path.realpath(self.folder)]
        if os.path.islink(path):
            self._roots.append(os.path.dirname(os.path.realpath(path)))
        self._files: dict[str, DataFile] = {}

    def tensor(self, external: ir.ExternalTensor, where: str) -> ir.TensorProtocol:
        """The mapped form of an external tensor.

        Raises:
            ModelError: The location is refused, the file is missing, or it is too short.
        """
        file = self._open(os.fspath(external.location), where)
        return mapped(file, external, where)

    def files(self, locations: Sequence[str]) -> list[str]:
        """The files behind several locations, each once.

        Raises:
            ModelError: One of them is refused or missing.
        """
        opened = (self._open(location, os.path.join(self.folder, location)) for location in locations)
        return list({file.identity: file.path for file in opened}.values())

    def _open(self, location: str, where: str) -> DataFile:
        if location in self._files:
            return self._files[location]
        if problem := _escapes(location):
            raise ModelError(
                f"the external data location {location!r} {problem}",
                where,
                "a model may only name files beside it or below its folder; move the data there",
            )
        entry = os.path.join(self.folder, location)
        real = os.path.realpath(entry)
        if not any(_inside(real, root) for root in self._roots):
            raise ModelError(
                f"the external data file {location!r} is a symbolic link out of the model's folder, to {real!r}",
                where,
                "copy the data file beside the model",
            )
        try:
            mode = os.stat(real).st_mode
            if not stat.S_ISREG(mode):
                raise ModelError(f"the external data location {location!r} is not a file", where)
            file = DataFile(real)
        except FileNotFoundError:
            raise ModelError(
                f"the external data file {location!r} is missing",
                where,
                f"it should be at {entry}; copy it there, beside the model",
            ) from None
        except OSError as error:
            raise ModelError(f"cannot read the external data file {location!r}: {error.strerror}", where) from error
        self._files[location] = file
        return file


def mapped(file: DataFile, external: ir.ExternalTensor, where: str) -> ir.TensorProtocol:
    """`external` as a range of `file`.

    Raises:
        ModelError: The range is not in the file, or its length is not that of the tensor.
    """
    offset, length, needed = external.offset or 0, external.length, external.nbytes
    if length is not None and length != needed:
        raise ModelError(
            f"the external data of {external.name!r} has {length} bytes, but {external.dtype} of shape"
            f" {external.shape} takes {needed}",
            where,
        )
    if offset < 0 or offset + needed > file.size:
        raise ModelError(
            f"the external data of {external.name!r} ends at byte {offset + needed}, but the file"
            f" {os.fspath(external.location)!r} has only {file.size}",
            where,
            "the data file is truncated or belongs to another model; fetch it again",
        )
    named: dict[str, Any] = {
        "name": external.name,
        "doc_string": external.doc_string,
        "metadata_props": dict(external.metadata_props),
    }
    if external.dtype.bitwidth < 8:
        # Elements that share bytes are unpacked on use, which costs memory: onnx_ir has a tensor for that.
        data = b"" if file.map is None else file.map
        packed = np.frombuffer(data, dtype=np.uint8, count=needed, offset=offset if needed else 0)
        return ir.PackedTensor(packed, external.dtype, shape=external.shape, **named)
    return MappedTensor(file, offset, external.dtype, external.shape, **named)


def _escapes(location: str) -> str | None:
    if not location:
        return "is empty"
    if "\0" in location:
        return "holds a null character"
    for path in (PurePosixPath(location), PureWindowsPath(location)):
        if path.is_absolute() or path.drive or path.root:
            return "is absolute"
        if ".." in path.parts:
            return "leaves the model's folder"
    return None


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.normcase(path), os.path.normcase(folder)]) == os.path.normcase(folder)


def layout(tensors: Sequence[Any]) -> list[int]:
    """The offset of each tensor in a data file that holds them in this order."""
    offsets, end = [], 0
    for tensor in tensors:
        offsets.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = offsets[-1] + tensor.nbytes
    return offsets


def write_tensors(file: BinaryIO, tensors: Sequence[Any], offsets: Sequence[int]) -> None:
    """Write each tensor at its offset, one in memory at a time.

    Raises:
        ModelError: A tensor wrote another number of bytes than its type and shape say.
    """
    for tensor, offset in zip(tensors, offsets, strict=True):
        file.write(b"\0" * (offset - file.tell()))
        write_tensor(file, tensor)
        if file.tell() != offset + tensor.nbytes:
            raise ModelError(
                f"the tensor {tensor.name!r} holds {file.tell() - offset} bytes, but {tensor.dtype} of shape"
                f" {tensor.shape} takes {tensor.nbytes}"
            )


def write_tensor(file: BinaryIO, tensor: Any) -> None:
    """Write the bytes of one tensor and let go of what reading them cost."""
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())


class Replacement:
    """Several files that take their places together, or not at all.

    As a context manager: `open` gives a file under a temporary name beside its target; `commit` puts all in place.
    Left without `commit`, by an exception or Ctrl-C, it removes what it wrote, and every target is what it was.
    """

    def __init__(self) -> None:
        self._temporary: dict[Path, Path] = {}

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary in self._temporary.values():
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def open(self, target: Path) -> Iterator[BinaryIO]:
        """A new file that will become `target`; on disk (fsync) when the block ends."""
        temporary = target.with_name(f".{secrets.token_hex(8)}.graphopt.tmp")
        # Known before it exists, so that no interruption can come between.
        self._temporary[target] = temporary
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Put every file in its place, the last opened last. A failure half-way puts the first ones back."""
        targets = list(self._temporary)
        backups: dict[Path, Path] = {}
        with _uninterrupted():
            try:
                for target in targets[:-1]:
                    if os.path.lexists(target):
                        backup = target.with_name(f".{secrets.token_hex(8)}.graphopt.old")
                        backups[target] = backup
                        try:  # a second name for the old file, so that the target never is without one
                            os.link(target, backup, follow_symlinks=False)
                        except (OSError, NotImplementedError):
                            os.rename(target, backup)
                    os.replace(self._temporary[target], target)
                os.replace(self._temporary[targets[-1]], targets[-1])
            except BaseException:
                for target in targets[:-1]:
                    if target in backups and os.path.lexists(backups[target]):
                        os.replace(backups[target], target)
                    elif not self._temporary[target].exists():
                        target.unlink(missing_ok=True)
                raise
            for backup in backups.values():
                backup.unlink(missing_ok=True)
        self._temporary.clear()
        for folder in {target.parent for target in targets}:
            _sync_folder(folder)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: it is delivered when the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    pressed: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # not installed from Python: nothing that could be put back
        yield
        return
    signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):
            before(*pressed[0])


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not every system can; the rename itself is done
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Arrays of a ``.npz`` file, read from front to back: memory does not depend on how many samples a file holds."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


class Rows:
    """One array, whose rows (samples) are read once, in order.

    Attributes:
        shape: Of the whole array.
        dtype: Of the whole array.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, member: str) -> None:
        """Read the header.

        Raises:
            ValueError: It is not an array, or one of Python objects.
        """
        self._file: IO[bytes] = archive.open(member)
        version = np.lib.format.read_magic(self._file)
        self._whole: np.ndarray | None = None
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        turned = header is None
        if header is not None:
            self.shape, turned, self.dtype = header(self._file)
        if turned or self.dtype.hasobject or not self.shape:
            # Rows do not lie one after the other, or there are none.
            with np.load(path, allow_pickle=False) as loaded:
                self._whole = np.asarray(loaded[member.removesuffix(".npy")])
            self.shape, self.dtype = self._whole.shape, self._whole.dtype
        self._at = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Of the whole array."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:]))

    def take(self, count: int) -> np.ndarray:
        """Return the next ``count`` rows, fewer at the end.

        Raises:
            ValueError: The file ends before the array does.
            zipfile.BadZipFile: The checksum is wrong.
        """
        count = min(count, len(self) - self._at)
        start, self._at = self._at, self._at + count
        if self._whole is not None:
            return self._whole[start : self._at]
        data = bytearray(count * self.row_bytes)
        view, filled = memoryview(data), 0
        while filled < len(data):
            piece = self._file.read(min(len(data) - filled, 1 << 20))
            if not piece:
                raise ValueError("the file ends before the array does")
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def whole(self) -> np.ndarray:
        """Return all rows, before any was taken."""
        return self._whole if self._whole is not None else self.take(len(self))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[dict[str, Rows]]:
    """Give the arrays of a file by name, for as long as the block lasts."""
    with zipfile.ZipFile(path) as archive:
        yield {
            name.removesuffix(".npy"): Rows(path, archive, name) for name in archive.namelist() if name.endswith(".npy")
        }

"""The statistics that the library keeps for ``graphopt.Histogram``, seen from Python."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from typing import Any

import numpy as np

from graphopt.calibrate.histogram import DISTINCT, HALF, Histogram
from graphopt.errors import DependencyError, GraphoptError
from graphopt.runtime_ops import library


class Statistics:
    """A histogram of all that passes the nodes with its ``handle``, in this process; it lives as long as this object.

    Sessions are made after it and may outlive it. Safe with threads, and with several nodes and sessions that share it.

    Attributes:
        handle: For the attribute of the nodes; above zero.
    """

    def __init__(self) -> None:
        """Make empty statistics.

        Raises:
            DependencyError: The library was not built.
        """
        native = _native()
        self.handle: int = native.graphopt_histogram_create()
        self._free = weakref.finalize(self, native.graphopt_histogram_free, self.handle)

    def result(self) -> Histogram:
        """Return the histogram of all that passed so far: what ``graphopt.calibrate.histogram`` says of it, to the bit.

        Raises:
            GraphoptError: A device fails.
        """
        extent, numbers = np.empty(2), np.empty(4, np.int64)
        counts = np.empty(2 * HALF, np.int64)
        distinct, frequencies = np.empty(DISTINCT - 1), np.empty(DISTINCT - 1, np.int64)
        arrays = (extent, numbers, counts, distinct, frequencies)
        _require(_native().graphopt_histogram_read(self.handle, *(array.ctypes.data for array in arrays)))
        low, high = (float(x) for x in extent)
        exponent, nans, infinities, different = (int(n) for n in numbers)
        first, used = 0, counts[:0]
        if low <= high:
            first, last = (math.trunc(math.ldexp(x, -exponent)) for x in (low, high))
            used = np.roll(counts, HALF)[first + HALF : last + HALF + 1].copy()
        order = np.argsort(distinct[: max(different, 0)])
        return Histogram(
            exponent,
            first,
            used,
            low,
            high,
            nans,
            infinities,
            None if different < 0 else distinct[order],
            None if different < 0 else frequencies[order],
        )

    def reset(self) -> None:
        """Forget all that passed.

        Raises:
            GraphoptError: A device fails.
        """
        _require(_native().graphopt_histogram_reset(self.handle))


def available() -> bool:
    """Tell whether there is a library to keep statistics."""
    try:
        return library() is not None and _native() is not None
    except (OSError, AttributeError):  # it does not load, or is an older one
        return False


def _require(status: int) -> None:
    if status:
        raise GraphoptError("a device fails to hand out its statistics", help="look at its driver's messages")


@functools.cache
def _native() -> Any:
    path = library()
    if path is None:
        raise DependencyError(
            "the library of runtime operators was not built", help="install graphopt where there is a C++17 compiler"
        )
    native = ctypes.CDLL(str(path))  # the same one that onnxruntime loads
    native.graphopt_histogram_create.restype = ctypes.c_int64
    native.graphopt_histogram_free.argtypes = [ctypes.c_int64]
    native.graphopt_histogram_reset.argtypes = [ctypes.c_int64]
    native.graphopt_histogram_read.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 5]
    return native

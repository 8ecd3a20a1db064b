"""The plain CUDA kernel of ``SparseGemm24`` on a GPU that is played."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.runtime_ops.sparse_gemm24.reference import sparse_gemm24
from graphopt.runtime_ops.sparse_gemm24.semi_structured import compact24
from tests.runtime_ops.emulator.warps import address, library
from tests.runtime_ops.test_sparse_gemm24 import weight24


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"), [(1, 4, 1), (7, 20, 5), (33, 64, 40), (17, 36, 129), (3, 0, 5), (0, 8, 3)]
)
def test_the_plain_kernel_on_a_played_gpu(rows: int, depth: int, columns: int, dtype: Any) -> None:
    kernels = library("sparse_gemm24")
    if kernels is None:
        pytest.skip("no compiler")
    rng = np.random.default_rng(0)
    values, indices = compact24(weight24(rng, depth, columns, dtype))
    x = rng.standard_normal((rows, depth)).astype(dtype)
    out = np.full((rows + 1, columns), 99, dtype)
    arrays = [np.ascontiguousarray(array) for array in (x, values, indices)]
    sizes = [ctypes.c_int64(size) for size in (rows, depth, columns)]
    brain = int(dtype is not np.float16)
    assert kernels.graphopt_cuda_sparse24(brain, *map(address, arrays), address(out), *sizes, None) == 0
    expected = sparse_gemm24(x, values, indices)[0].astype(np.float32)
    step = float(ml_dtypes.finfo(dtype).eps)  # the sum may lie beyond the middle of two numbers: one step
    np.testing.assert_allclose(out[:rows].astype(np.float32), expected, rtol=step, atol=1e-4)
    assert (out[rows] == 99).all()

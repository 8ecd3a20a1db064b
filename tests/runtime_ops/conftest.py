"""Fixtures for the operators' tests; the functions behind them are in ``running.py``.

They are made once a module, so that hypothesis may use them in tests that draw examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from graphopt import runtime_ops
from tests.runtime_ops import running


@pytest.fixture(scope="module")
def session() -> Callable[..., object]:
    """``session(model, library=True, threads=1)``: with the native kernels, or with the functions alone."""
    return running.open_session


@pytest.fixture(scope="module")
def ops_model() -> Callable[..., object]:
    """``ops_model(op, inputs, attributes)``: a model of one node."""
    return running.ops_model


@pytest.fixture(scope="module")
def agree() -> Callable[..., object]:
    """``agree(op, inputs, attributes)``: kernel = function = numpy reference."""
    return running.agree


@pytest.fixture(scope="module", params=running.LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once for every set of instructions that kernels distinguish and this processor has."""
    running.need_library()
    if runtime_ops.limit_cpu(request.param) != request.param:
        runtime_ops.limit_cpu("")
        pytest.skip(f"this processor (or GRAPHOPT_CPU) has no {request.param}")
    yield request.param
    runtime_ops.limit_cpu("")

"""Running one operator three ways: its native kernel, its ONNX function, its numpy reference."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from graphopt import runtime, runtime_ops

LEVELS = ("portable", "avx2", "avx512", "avx512_vnni")

THREADS = int(os.environ.get("GRAPHOPT_TEST_THREADS", "1"))
"""Of a session, where a test does not say: the run with ThreadSanitizer wants two."""

PROVIDER = os.environ.get("GRAPHOPT_TEST_PROVIDER", "cpu")
"""Of a session with the library: the check on a GPU wants ``cuda``."""

if PROVIDER == "cuda":  # it brings the CUDA libraries that onnxruntime's provider needs and does not find by itself
    importlib.import_module("torch")

OPSET = 18
"""Of the models here: the lowest that every definition can be written in."""


def need_library() -> None:
    """Skip the test where the native library was not built."""
    if runtime_ops.library() is None:
        pytest.skip("the native library was not built here: make ops")


def ops_model(
    op: str,
    inputs: Mapping[str, np.ndarray | None] | Sequence[np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    constants: Sequence[str] = (),
    opset: int = OPSET,
    symbolic: bool = False,
    outputs: int = 1,
) -> ir.Model:
    """Return a model of one node ``graphopt.<op>`` that carries the definition; its outputs are ``y0``, ``y1``, ….

    Args:
        op: The name of the operator.
        inputs: Arrays, by the operator's names or in their order; they give types and shapes. None: absent.
        attributes: Of the node. One that is missing is left to the kernel and, in the function, written with the
            operator's default: a function knows no defaults of its own unless its text has them.
        constants: Names of inputs that are initializers, as weights are; the others are inputs of the model.
        opset: Of the default domain.
        symbolic: Whether the inputs of the model have symbols for sizes.
        outputs: How many.
    """
    operator = runtime_ops.operators()[op]
    given = inputs if isinstance(inputs, Mapping) else dict(zip(operator.inputs, inputs, strict=False))
    unknown = set(given) - set(operator.inputs) | set(constants) - set(given)
    assert not unknown, f"{op} has no inputs {sorted(unknown)}, but {operator.inputs}"
    names = [name if given.get(name) is not None else "" for name in operator.inputs]
    while names and not names[-1]:
        names.pop()
    values, weights = [], []
    for name in filter(None, names):
        array = np.asarray(given[name])
        if name in constants:
            weights.append(_initializer(array, name))
        else:
            sizes = [f"{name}_{axis}" for axis in range(array.ndim)] if symbolic else array.shape
            values.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), sizes))
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, name="it", domain=runtime_ops.DOMAIN, **dict(attributes or {}))
    graph = helper.make_graph(
        [node], "one", values, [helper.make_empty_tensor_value_info(name) for name in results], weights
    )
    model = ir.from_proto(
        helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(runtime_ops.DOMAIN, 1)],
            ir_version=10,
        )
    )
    function = operator.function(opset)
    model.functions[function.identifier()] = function
    return model


def open_session(
    model: ir.Model | onnx.ModelProto | str, library: bool = True, threads: int = THREADS, **options: Any
) -> onnxruntime.InferenceSession:
    """Return a session of a model with the native kernels, or with the functions alone; skips without the library."""
    if library:
        need_library()
        options.setdefault("provider", PROVIDER)
    loaded = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    return runtime.session(loaded, threads=threads, operators=library, **options)


def run(
    model: ir.Model | onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, library: bool = True, threads: int = THREADS
) -> list[np.ndarray]:
    """Run a model once. Types that numpy lacks (bfloat16) are those of ml_dtypes."""
    session = open_session(model, library, threads)
    wanted = {value.name for value in session.get_inputs()}
    return runtime.run(session, {name: np.asarray(array) for name, array in feeds.items() if name in wanted})


def agree(
    op: str,
    inputs: Mapping[str, np.ndarray | None] | Sequence[np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    constants: Sequence[str] = (),
    rtol: float = 0,
    atol: float = 0,
    function: bool = True,
    threads: int = THREADS,
    **of_model: Any,
) -> list[np.ndarray]:
    """Assert that kernel = function = numpy reference, bit by bit unless a tolerance is given; return the kernel's.

    Args:
        op: The name of the operator.
        inputs: As for :func:`ops_model`.
        attributes: Of the node.
        constants: Names of inputs that are initializers.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        function: Whether to run the function too.
        threads: Of the session.
        **of_model: More for :func:`ops_model`.
    """
    need_library()
    operator = runtime_ops.operators()[op]
    given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(operator.inputs, inputs, strict=False))
    expected = operator.reference(
        *(given.get(name) for name in operator.inputs), **{**operator.attributes, **dict(attributes or {})}
    )
    model = ops_model(op, given, attributes, constants=constants, outputs=len(expected), **of_model)
    feeds = {name: np.asarray(array) for name, array in given.items() if array is not None}
    native = run(model, feeds, threads=threads)
    ways = [("kernel", native)]
    if function:
        ways.append(("function", run(model, feeds, library=False)))
    for way, found in ways:
        for index, (one, truth) in enumerate(zip(found, expected, strict=True)):
            what = f"{op}: {way}, output {index}"
            assert one.dtype == truth.dtype, f"{what}: {one.dtype}, not {truth.dtype}"
            assert one.shape == truth.shape, f"{what}: {one.shape}, not {truth.shape}"
            if rtol or atol:
                wide = [array.astype(np.float64) for array in (one, truth)]
                np.testing.assert_allclose(wide[0], wide[1], rtol=rtol, atol=atol, err_msg=what)
            else:
                assert _bits(one) == _bits(truth), f"{what}:\n{one}\nis not\n{truth}"
    return native


def taken(model: ir.Model | onnx.ModelProto, folder: Any, **options: Any) -> list[str]:
    """Return the operators that onnxruntime really runs, ``graphopt.`` in front of runtime operators."""
    path = f"{folder}/taken.onnx"
    open_session(model, written=path, **options)
    return [f"{node.domain}.{node.op_type}".lstrip(".") for node in ir.load(path).graph]


def _bits(array: np.ndarray) -> bytes:
    # One bit pattern for all that are no number: which one it is, is the processor's choice.
    if array.dtype.kind in "fV" or array.dtype.name.startswith(("bfloat", "float8")):
        array = np.where(np.isnan(array), np.full((), np.nan, array.dtype), array)
    return np.ascontiguousarray(array).tobytes()


def _initializer(array: np.ndarray, name: str) -> onnx.TensorProto:
    if array.dtype.kind != "V" and array.dtype.isbuiltin == 1:
        return numpy_helper.from_array(array, name)
    return ir.to_proto(ir.tensor(array, name=name))

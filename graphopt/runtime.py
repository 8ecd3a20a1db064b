"""Running models: the only module that imports onnxruntime.

Sessions are made quiet (nothing on standard error), bounded (they never spin while they wait, and give memory back) and
tidy (a model too large for one protobuf message goes through a temporary folder that is gone before the call returns,
also after Ctrl-C). What onnxruntime says when it refuses becomes a :class:`~graphopt.errors.ModelError`.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from graphopt import model as _model
from graphopt import runtime_ops
from graphopt.errors import DependencyError, GraphoptError, ModelError, UsageError, nearest

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_IN_MEMORY_LIMIT = 1 << 30
"""Bytes of weights above which a model goes to onnxruntime through a file.

Protobuf ends at 2 GB; half of that keeps the peak at one copy of the weights instead of three (ours, the message's,
onnxruntime's).
"""

_QUIET = 4  # onnxruntime's "fatal": whatever is less severe reaches the caller as an exception anyway

# Types numpy lacks: onnxruntime's numpy interface refuses them, its OrtValue interface takes them with their ONNX
# number.
_FOREIGN = {
    "tensor(bfloat16)": ir.DataType.BFLOAT16,
    "tensor(float8e4m3fn)": ir.DataType.FLOAT8E4M3FN,
    "tensor(float8e4m3fnuz)": ir.DataType.FLOAT8E4M3FNUZ,
    "tensor(float8e5m2)": ir.DataType.FLOAT8E5M2,
    "tensor(float8e5m2fnuz)": ir.DataType.FLOAT8E5M2FNUZ,
}


FATAL_ON_EMPTY = frozenset({"Attention", "Einsum", "GRU", "GroupQueryAttention", "LSTM", "RNN", "Scan"})
"""Operators that end the whole process on inputs of size 0 (onnxruntime 1.31: an abort, a division by zero)."""


def version() -> str:
    """Return the version of onnxruntime: others may round differently."""
    return onnxruntime.__version__


def fatal_on_empty(model: ir.Model) -> str | None:
    """Return an operator of the model that must not be given inputs of size 0, or ``None``."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for node in graph.all_nodes():
            if node.op_type in FATAL_ON_EMPTY:
                return node.op_type
            if node.op_type == "MatMul" and any(_moves_first(value) for value in node.inputs):
                return "MatMul behind a Transpose of its first axis"  # onnxruntime makes one operator of them
    return None


def _moves_first(value: ir.Value | None) -> bool:
    """Tell whether a value comes from a Transpose of three axes or more that does not leave the first in its place."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose":
        return False
    order = node.attributes.get_ints("perm", None)
    if order is None:  # all axes the other way round
        shape = None if node.inputs[0] is None else node.inputs[0].shape
        return shape is None or len(shape) > 2
    return len(order) > 2 and order[0] != 0


def calls_operators(model: ir.Model | str | os.PathLike[str]) -> bool:
    """Return whether a model calls runtime operators; of a model file, whether it may: nobody has read it yet."""
    if not isinstance(model, ir.Model):
        return True  # registering is free, and reading gigabytes to find out is not
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return any(node.domain == runtime_ops.DOMAIN for graph in graphs for node in graph.all_nodes())


def takes_kernels(model: ir.Model | str | os.PathLike[str]) -> bool:
    """Return whether a session of a model takes native kernels: it calls runtime operators, and the library is here."""
    if runtime_ops.library() is None:
        return False
    return calls_operators(model if isinstance(model, ir.Model) else _model.load(model))


def session(
    model: ir.Model | str | os.PathLike[str],
    *,
    optimize: bool = True,
    threads: int = 1,
    provider: str = "cpu",
    lean: bool = True,
    written: str | os.PathLike[str] | None = None,
    operators: bool = True,
    integers: bool = False,
) -> onnxruntime.InferenceSession:
    """Load a model into onnxruntime.

    Args:
        model: A model in memory, or the path of a model file (loaded from there, with its external data).
        optimize: Whether onnxruntime may optimize the graph (its default, what users run) or must run it as written.
        threads: Threads inside an operator. Operators always run one after the other.
        provider: ``cpu`` or ``cuda``.
        lean: Hand memory back after each run and never spin while waiting. Measurements turn it off.
        written: A file for the graph that onnxruntime makes of the model and really runs.
        operators: Whether runtime operators take their native kernels, where the library is there, or always run as
            the ONNX functions that define them.
        integers: Whether onnxruntime computes with integers wherever it can between Q and DQ; by its default it does
            for activations of uint8, and leaves some of int8 in float on processors that multiply uint8.

    Returns:
        A session that is ready to run.

    Raises:
        ModelError: onnxruntime refuses the model; the message is the useful part of its own.
        DependencyError: The provider is not in the installed onnxruntime, or finds no device.
        UsageError: There is no such provider.
    """
    providers = _providers(provider)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    if lean:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        # Threads of one session may spin during its runs, as in production, but not during the next session's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if written is not None:
        options.optimized_model_filepath = os.fspath(written)
        # Beside the graph: one message has room for 2 GB.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    if integers:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if operators and calls_operators(model):
        runtime_ops.register(options)
    if not isinstance(model, ir.Model):
        path = Path(model)
        if not path.is_file():
            raise ModelError("no such model file", where=str(path), help="check the path")
        created = _create(str(path), options, providers)
    elif _weight_bytes(model) > _IN_MEMORY_LIMIT:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "model.onnx"
            _model.save(model, path, external=True)
            created = _create(str(path), options, providers)
    else:
        created = _create(_model.serialize(model), options, providers)
    if PROVIDERS[provider] not in created.get_providers():
        raise DependencyError(
            f"onnxruntime could not start its {provider} provider",
            help="check the driver and the libraries onnxruntime-gpu needs, or use --provider cpu",
        )
    return created


def optimized(model: ir.Model | str | os.PathLike[str], *, provider: str = "cpu") -> ir.Model:
    """Return the graph that onnxruntime makes of a model and really runs: operators fused, integer kernels chosen.

    Its weights are gone: it is there to be looked at.

    Raises:
        ModelError: onnxruntime refuses the model.
        DependencyError: The provider is not there.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, provider=provider, written=path)
        return ir.load(path)


def run(session: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> list[Any]:
    """Run a session once.

    Args:
        session: From :func:`session`.
        feeds: One array per model input, by name.

    Returns:
        The outputs in the order of the model: arrays; lists of arrays for sequences, None for empty optionals.

    Raises:
        ModelError: The run fails; the node is named where onnxruntime names it.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = _QUIET
    types = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
    try:
        if not any(kind in _FOREIGN for kind in types):
            return list(session.run(None, dict(feeds), options))
        declared = {value.name: value.type for value in session.get_inputs()}
        values = {name: _to_ort(np.asarray(array), declared.get(name, "")) for name, array in feeds.items()}
        names = [value.name for value in session.get_outputs()]
        return [_from_ort(value) for value in session.run_with_ort_values(names, values, options)]
    except GraphoptError:
        raise
    except Exception as error:
        raise _refusal("onnxruntime fails to run the model", error) from error


class Bound:
    """A session with its inputs in place, so that a run can be timed without copying them.

    Outputs are allocated by onnxruntime during the run, as they are for a user.
    """

    def __init__(self, session: onnxruntime.InferenceSession, feeds: Mapping[str, Any], *, provider: str = "cpu"):
        """Copy the feeds to the device of the provider.

        Raises:
            ModelError: An input cannot be bound.
        """
        self._session = session
        self._feeds = None
        kinds = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
        if any(kind == "tensor(string)" or not kind.startswith("tensor(") for kind in kinds):
            self._feeds = dict(feeds)  # what onnxruntime cannot bind is handed over at each run
            return
        self._binding = session.io_binding()
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = _QUIET
        declared = {value.name: value.type for value in session.get_inputs()}
        self._values = {}
        try:
            for name, array in feeds.items():
                # Kept: the binding reads the caller's memory and must not outlive it.
                self._values[name] = _to_ort(np.asarray(array), declared.get(name, ""), provider)
                self._binding.bind_ortvalue_input(name, self._values[name])
            for output in session.get_outputs():
                self._binding.bind_output(output.name, provider)
        except Exception as error:
            raise _refusal("onnxruntime refuses an input", error) from error

    def run(self) -> None:
        """Run once and wait for the outputs.

        Raises:
            ModelError: The run fails.
        """
        if self._feeds is not None:
            run(self._session, self._feeds)
            return
        try:
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()
        except Exception as error:
            raise _refusal("onnxruntime fails to run the model", error) from error


def _providers(provider: str) -> list[str]:
    if provider not in PROVIDERS:
        guess = nearest(provider, PROVIDERS)
        raise UsageError(
            f"no provider {provider!r}",
            help=f"did you mean {guess!r}?" if guess else "choose cpu or cuda",
        )
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise DependencyError(
            f"the installed onnxruntime {onnxruntime.__version__} has no {provider} provider",
            help="pip install onnxruntime-gpu (in place of onnxruntime), or use --provider cpu",
        )
    return [PROVIDERS[provider]] if provider == "cpu" else [PROVIDERS[provider], PROVIDERS["cpu"]]


def _create(
    source: str | bytes, options: onnxruntime.SessionOptions, providers: list[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:
        raise _refusal("onnxruntime refuses the model", error) from error


def _weight_bytes(model: ir.Model) -> int:
    total = 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            total += value.const_value.nbytes if value.const_value is not None else 0
    return total


def _refusal(what: str, error: Exception) -> ModelError:
    """The exception of onnxruntime in one line: no status prefix, no source file of its own, the node apart."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"Load model from \S* ?failed: ?", "", text)
    node = re.search(r"Name: ?'([^']*)'", text) or re.search(r"Node \(([^)]*)\)", text)
    if "Status Message: " in text:
        text = text.split("Status Message: ", 1)[1]
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ (?:[\w:~<>, &*]+\([^)]*\)(?: const)? ?)?", "", text)
    if "Failed to write external initializers" in text:
        return ModelError(
            "onnxruntime cannot write the graph that it makes of the model",
            where=tempfile.gettempdir(),
            help="make room there, or choose another temporary folder: set TMPDIR",
        )
    return ModelError(
        f"{what}: {text[:400].strip()}",
        where=f"node {node.group(1)}" if node and node.group(1) else None,
        help="the model must load and run in onnxruntime to be verified or measured",
    )


def _to_ort(array: np.ndarray, kind: str, provider: str = "cpu") -> onnxruntime.OrtValue:
    array = np.asarray(array, order="C")
    if kind in _FOREIGN:
        bits = array.view(np.uint16 if array.itemsize == 2 else np.uint8)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(_FOREIGN[kind]))
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, provider, 0)


def _from_ort(value: onnxruntime.OrtValue) -> Any:
    if not value.has_value():
        return None
    kind = value.data_type()
    if kind not in _FOREIGN:
        return value.numpy()
    dtype = _FOREIGN[kind].numpy()
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    raw = ctypes.string_at(value.data_ptr(), size)
    return np.frombuffer(raw, dtype).reshape(shape).copy()

"""ONNX's own backend tests, through ``optimize``: nothing that onnxruntime runs may change.

Every model and node test that the installed onnx carries is taken in two forms: as it is, and with all inputs but the
first turned into initializers, which is how real models look and what gives the optimizer constants to fold. A case
counts when the untouched model runs in onnxruntime and gives the expected outputs; the optimized one must give them,
too, within the tolerances of the case.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx.backend.test.case.test_case import TestCase as BackendCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import graphopt
from graphopt import runtime
from graphopt.errors import GraphoptError
from graphopt.model import load

CHUNKS = 24
KINDS = ("simple", "pytorch-converted", "pytorch-operator")
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@dataclass
class Tally:
    """What happened to some cases."""

    ran: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One model, inputs and expected outputs."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: list[Any]
    rtol: float
    atol: float

    def with_constants(self) -> Example | None:
        """All inputs but the first as initializers; None where that changes nothing."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        own = {value.name: value for value in model.graph.input}
        later = [
            name
            for name in list(self.feeds)[1:]
            if isinstance(self.feeds[name], np.ndarray) and own[name].type.HasField("tensor_type")
        ]
        if not later:
            return None
        for name in later:
            tensor = onnx.numpy_helper.from_array(self.feeds[name], name)
            # numpy has no word for some element types; the declared one says what the bytes are
            if tensor.data_type != own[name].type.tensor_type.elem_type:
                return None
            model.graph.initializer.append(tensor)
            model.graph.input.remove(own[name])
        feeds = {name: value for name, value in self.feeds.items() if name not in later}
        return Example(f"{self.name} (constants)", model, feeds, self.expected, self.rtol, self.atol)


def _value(item: Any) -> Any:
    """Tests hold arrays, tensors, sequences of either, or nothing."""
    if isinstance(item, onnx.TensorProto):
        return onnx.numpy_helper.to_array(item)
    if isinstance(item, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(item)
    if isinstance(item, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(item)
    if isinstance(item, (list, tuple)):
        return [_value(part) for part in item]
    return item if item is None or isinstance(item, np.ndarray) else np.asarray(item)


@lru_cache(maxsize=1)
def node_cases() -> list[BackendCase]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return sorted(load_model_tests(kind="node"), key=lambda case: case.name)


def node_examples(cases: Iterable[BackendCase]) -> Iterable[Example]:
    for case in cases:
        assert case.model is not None and case.data_sets is not None
        names = [value.name for value in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            feeds = dict(zip(names, map(_value, inputs), strict=False))
            yield Example(case.name, case.model, feeds, [_value(item) for item in outputs], case.rtol, case.atol)


def model_examples(kind: str) -> Iterable[Example]:
    for case in load_model_tests(kind=kind):
        folder = Path(str(case.model_dir))
        model = onnx.load(folder / "model.onnx")
        for data in sorted(folder.glob("test_data_set_*")):
            feeds = {
                value.name: _stored(data / f"input_{number}.pb", value.type)
                for number, value in enumerate(model.graph.input)
                if (data / f"input_{number}.pb").exists()
            }
            expected = [
                _stored(data / f"output_{number}.pb", value.type) for number, value in enumerate(model.graph.output)
            ]
            yield Example(case.name, model, feeds, expected, case.rtol, case.atol)


def _stored(path: Path, kind: onnx.TypeProto) -> Any:
    proto: Any = onnx.SequenceProto() if kind.HasField("sequence_type") else onnx.TensorProto()
    if kind.HasField("optional_type"):
        proto = onnx.OptionalProto()
    proto.ParseFromString(path.read_bytes())
    return _value(proto)


def _fits(model: Any, example: Example, *, optimize: bool) -> str | None:
    """Why the model does not give the expected outputs in onnxruntime; None when it does."""
    try:
        outputs = runtime.run(runtime.session(model, optimize=optimize), example.feeds)
    except GraphoptError as error:
        return f"does not run: {error.what}"
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # inputs onnxruntime has no form for
        return f"does not run: {error}"
    return _differs(example.expected, outputs, example)


def _differs(expected: Sequence[Any], outputs: Sequence[Any], example: Example) -> str | None:
    try:
        with np.errstate(all="ignore"):
            Runner.assert_similar_outputs(expected, outputs, example.rtol, example.atol)
    except (AssertionError, AttributeError, TypeError) as error:
        return f"other outputs: {' '.join(str(error).split())[:300]}"
    return None


def check(examples: Iterable[Example]) -> Tally:
    """Takes every example through ``optimize`` in both forms."""
    tally = Tally()
    for plain in examples:
        for example in (plain, plain.with_constants()):
            if example is None:
                continue
            try:
                original = load(example.model)
            except GraphoptError as error:
                tally.skipped[example.name] = f"refused on loading: {error.what}"
                continue
            # As its users run it, or as written where onnxruntime's own optimizations already break the original.
            optimized_too = _fits(original, example, optimize=True) is None
            if not optimized_too and (reason := _fits(original, example, optimize=False)) is not None:
                tally.skipped[example.name] = reason
                continue
            tally.ran += 1
            before = example.model.SerializeToString(deterministic=True)
            try:
                result = graphopt.optimize(example.model, verify=False, plan="smallest").model
            except Exception as error:
                tally.wrong[example.name] = f"{type(error).__name__}: {error}"
                continue
            if example.model.SerializeToString(deterministic=True) != before:
                tally.wrong[example.name] = "the caller's model was changed"
            elif (reason := _fits(result, example, optimize=optimized_too)) is not None:
                tally.wrong[example.name] = reason
    return tally


def report(tally: Tally) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in tally.wrong.items())


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_tests_keep_their_outputs(chunk: int) -> None:
    cases = node_cases()
    size = -(-len(cases) // CHUNKS)
    tally = check(node_examples(cases[chunk * size : (chunk + 1) * size]))
    assert not tally.wrong, report(tally)
    assert tally.ran > 0, tally.skipped


@pytest.mark.parametrize("kind", KINDS)
def test_model_tests_keep_their_outputs(kind: str) -> None:
    tally = check(model_examples(kind))
    assert not tally.wrong, report(tally)
    assert tally.ran > 0, tally.skipped


def test_most_node_tests_are_run_by_onnxruntime() -> None:
    """Loading alone refuses few: a loader that refuses everything would make the tests above say nothing."""
    refused = []
    for case in node_cases():
        try:
            load(case.model)  # pyright: ignore[reportArgumentType]
        except GraphoptError as error:
            refused.append(f"{case.name}: {error.what}")
    assert len(refused) <= len(node_cases()) // 50, refused


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(LIGHT.glob("light_*.onnx")), ids=lambda path: path.stem)
def test_light_models_keep_their_outputs(path: Path) -> None:
    model = onnx.load(path)
    initialized = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in initialized]
    feeds = {value.name: Runner.generate_dummy_data(value, seed=0) for value in free}
    expected = onnx.TensorProto()
    expected.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    example = Example(path.stem, model, feeds, [onnx.numpy_helper.to_array(expected)], 1e-3, 1e-4)
    tally = check([example])
    if tally.skipped:
        pytest.skip(f"onnxruntime alone: {tally.skipped}")
    assert not tally.wrong, report(tally)

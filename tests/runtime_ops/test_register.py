"""The library in onnxruntime: registered twice, in two sessions, absent, broken; and always the same numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt import runtime, runtime_ops
from graphopt.verify import Reference
from tests.runtime_ops import running

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
FEEDS = {"data": X, "indices": np.array([2, -1, 0, 0], np.int64), "fill": np.asarray(7, np.float32)}
WANTED = np.stack([X[:, 2], np.full((2, 4), 7, np.float32), X[:, 0], X[:, 0]], axis=1)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return running.ops_model("Gather", FEEDS, {"axis": 1})


def options() -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 4
    return made


def answers(session: onnxruntime.InferenceSession) -> bool:
    return np.array_equal(np.asarray(session.run(None, dict(FEEDS))[0]), WANTED)


def plain(model: ir.Model, of: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, of, providers=["CPUExecutionProvider"])


def test_twice_is_once(model: ir.Model) -> None:
    running.need_library()
    of = options()
    assert runtime_ops.register(of) and runtime_ops.register(of)
    assert answers(plain(model, of))


def test_the_library_itself_cannot_be_registered_twice() -> None:
    """Why ``register`` keeps a note in the options: onnxruntime refuses a domain that is there already."""
    running.need_library()
    of = options()
    of.register_custom_ops_library(str(runtime_ops.library()))
    of.register_custom_ops_library(str(runtime_ops.library()))
    with pytest.raises(Exception, match=r"already|exist|regist"):
        plain(running.ops_model("Gather", FEEDS, {"axis": 1}), of)


def test_two_sessions_and_two_options(model: ir.Model) -> None:
    running.need_library()
    first, second = options(), options()
    assert runtime_ops.register(first) and runtime_ops.register(second)
    sessions = [plain(model, first), plain(model, second), plain(model, first)]
    assert all(answers(session) for session in sessions)
    del first, sessions[0]
    assert all(answers(session) for session in sessions)


def test_the_kernel_is_taken_only_with_the_library(model: ir.Model, tmp_path: Path) -> None:
    assert "graphopt.Gather" not in running.taken(model, tmp_path, library=False)
    assert running.taken(model, tmp_path, library=True) == ["graphopt.Gather"]


@pytest.mark.parametrize("library", [True, False])
def test_the_numbers_are_the_same(model: ir.Model, library: bool) -> None:
    (found,) = running.run(model, FEEDS, library=library)
    np.testing.assert_array_equal(found, WANTED)


def test_a_file_and_a_session_of_its_own_find_the_kernels(model: ir.Model, tmp_path: Path) -> None:
    onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
    found = runtime.run(runtime.session(tmp_path / "model.onnx"), FEEDS)
    np.testing.assert_array_equal(found[0], WANTED)
    running.need_library()
    written = tmp_path / "written.onnx"
    runtime.session(tmp_path / "model.onnx", written=written)
    assert [(node.domain, node.op_type) for node in ir.load(written).graph] == [("graphopt", "Gather")]


def test_calls_are_found_in_bodies_and_functions(model: ir.Model) -> None:
    assert runtime.calls_operators(model)
    text = '<ir_version: 10, opset_import: ["": 18]> one (float[N] x) => (float[N] y) { y = Relu (x) }'
    without = ir.from_onnx_text(text)
    assert not runtime.calls_operators(without)
    branch = """<ir_version: 10, opset_import: ["": 18, "graphopt": 1]>
    one (bool c, float[3,2] x, int64[2] i, float f) => (float[2,2] y) {
      y = If (c) <
        then_branch = a () => (float[2,2] p) { p = graphopt.Gather <axis = 0> (x, i, f) },
        else_branch = b () => (float[2,2] q) { q = Gather (x, i) }
      >
    }"""
    assert runtime.calls_operators(ir.from_onnx_text(branch))


def test_another_library_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", "")
    assert runtime_ops.library() is None and runtime_ops.cpu_features() is None
    assert not runtime_ops.register(options())
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", str(tmp_path / "absent.so"))
    assert runtime_ops.library() is None


def test_a_library_that_does_not_load_is_said_and_survived(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "libgraphopt_ops.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv("GRAPHOPT_OPS_LIBRARY", str(broken))
    with pytest.warns(UserWarning, match="does not load"):
        session = runtime.session(model)
    assert answers(session)
    assert runtime_ops.cpu_features() is None


def test_an_older_processor_is_one_variable_away(model: ir.Model) -> None:
    running.need_library()
    script = "from graphopt import runtime_ops; print(runtime_ops.cpu_features(), runtime_ops.limit_cpu('avx512'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "GRAPHOPT_CPU": "portable"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "portable"


def test_levels_go_down_and_come_back() -> None:
    running.need_library()
    most = runtime_ops.cpu_features()
    try:
        assert runtime_ops.limit_cpu("portable") == "portable" == runtime_ops.cpu_features()
    finally:
        runtime_ops.limit_cpu("")
    assert runtime_ops.cpu_features() == most


def test_operators_and_their_kernels_agree() -> None:
    """Every definition has a kernel in the library, and every kernel a definition."""
    running.need_library()
    defined = {(name, provider) for name, one in runtime_ops.operators().items() for provider in one.providers}
    kernels = {(name, provider) for name, provider, _ in runtime_ops.kernels()} - {("Canary", "cpu")}
    with_cuda = any(provider == "cuda" for _, provider in kernels)
    assert kernels == {one for one in defined if one[1] == "cpu" or with_cuda}


REGISTERED = re.compile(r"const Register \w+\((describe\w*)\((kCpu|kCuda), ((?:k\w+, )*)(?:make|create)<")


def registered(folder: Path) -> list[tuple[str, str, str]]:
    """Return operator, provider and types of each kernel that an operator's sources register, whatever was built."""
    text = "".join((folder / name).read_text() for name in ("kernel.cc", "cuda.cc"))
    found = REGISTERED.findall(text)
    assert len(found) == text.count("const Register "), f"{folder.name}: a kernel is registered in another way"
    return [(f"{folder.name}/{how}", provider[1:].lower(), types) for how, provider, types in found]


def only_cuda(kernels: Collection[tuple[str, str, str]]) -> set[tuple[str, str]]:
    """Return operators and types that have a kernel in the CUDA provider and none for the CPU."""
    cpu, cuda = ({(name, types) for name, where, types in kernels if where == one} for one in ("cpu", "cuda"))
    return cuda - cpu


WITH_CUDA = sorted(path.parent for path in (ROOT / "runtime_ops").glob("*/cuda.cc"))


@pytest.mark.parametrize("folder", WITH_CUDA, ids=lambda folder: folder.name)
def test_a_type_with_a_cuda_kernel_has_one_for_the_cpu(folder: Path) -> None:
    """Else a library with both lets no session on the CPU load that type, not even as a function."""
    kernels = registered(folder)
    assert {provider for _, provider, _ in kernels} == {"cpu", "cuda"}
    assert not only_cuda(kernels)
    name, _, types = next(one for one in kernels if one[1] == "cuda")
    assert only_cuda(set(kernels) - {(name, "cpu", types)}) == {(name, types)}, "the near miss: one that is missing"


def test_so_it_is_in_the_library() -> None:
    """Bites where the library has CUDA kernels: make build-cuda."""
    running.need_library()
    assert not only_cuda(runtime_ops.kernels())


@pytest.mark.parametrize("name", sorted(runtime_ops.operators()))
def test_every_definition_is_a_model_onnx_accepts(name: str) -> None:
    operator = runtime_ops.operators()[name]
    assert operator.since >= 7 and operator.summary and "\n" not in operator.summary
    for opset in {max(operator.since, 18), 23}:
        function = operator.function(opset)
        assert function.identifier() == ("graphopt", name, "")
        assert [value.name for value in function.inputs] == list(operator.inputs)
        assert set(function.attributes) <= set(operator.attributes)
        onnx.checker.check_function(ir.to_proto(function), _context(opset))
    with pytest.raises(ValueError, match="needs opset"):
        operator.function(operator.since - 1)


def _context(opset: int) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, {"": opset, runtime_ops.DOMAIN: 1}
    return context


def test_no_warning_where_all_is_well(model: ir.Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.session(model)


# --- verification -----------------------------------------------------------------------------------------------------


def defined(definition: str) -> ir.Model:
    """A model whose runtime operator Gather is defined by other standard operators than it should be."""
    return ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 18, "graphopt": 1]>
    one (float[3,2] data, int64[4] indices, float[1] fill) => (float[4,2] y) {{
      y = graphopt.Gather <axis = 0> (data, indices, fill)
    }}
    <domain: "graphopt", opset_import: ["": 18]>
    Gather <axis> (data, indices, fill) => (out) {{ {definition} }}""")


def standard() -> ir.Model:
    return ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 18]>
    one (float[3,2] data, int64[4] indices, float[1] fill) => (float[4,2] y) {
      y = Gather <axis = 0> (data, indices)
    }""")


def given() -> dict[str, np.ndarray]:
    data = np.arange(6, dtype=np.float32).reshape(3, 2)
    return {"data": data, "indices": np.array([2, 0, 1, 1], np.int64), "fill": np.zeros(1, np.float32)}


def test_a_result_is_verified_with_the_library_and_without() -> None:
    running.need_library()
    reference = Reference(standard(), data=[given()], samples=1)
    assert reference.compare(defined("out = Gather <axis: int = @axis> (data, indices)")).passed
    wrong = reference.compare(defined("g = Gather <axis: int = @axis> (data, indices) out = Neg (g)"))
    assert not wrong.passed and wrong.reason is not None and "without the native library" in wrong.reason

"""Every row of the promise "bad input", through ``graphopt optimize BAD -o OUT``: handled, or refused in words.

What each error says in detail is tested next to the loader (``tests/test_bad_input_model.py``). Here it is what a user
of the command line sees: the exit status, the message, and which files are there afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import model as models
from graphopt import runtime
from tests.cli.conftest import Ran, Run, listing
from tests.test_bad_input_model import MALFORMED, PNG, build, external, function, good, huge, node, with_functions

FLOAT, STRING, BOOL, INT64 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.BOOL, TensorProto.INT64

Write = Callable[[Path], Path | None]
"""Puts a bad model below a folder; returns its path, ``bad.onnx`` where it returns ``None``."""


def content(data: bytes) -> Write:
    def write(folder: Path) -> Path:
        (folder / "bad.onnx").write_bytes(data)
        return folder / "bad.onnx"

    return write


def proto(model: onnx.ModelProto) -> Write:
    return content(model.SerializeToString())


def data_at(location: str, length: int = 4096) -> Write:
    """A model in ``model/`` with data in, and outside of, its folder."""

    def write(folder: Path) -> Path:
        (folder / "model").mkdir()
        for place in ("model/w.bin", "outside.bin"):
            (folder / place).write_bytes(np.arange(1024, dtype="f").tobytes())
        (folder / "model" / "link.bin").symlink_to(folder / "outside.bin")
        text = location.format(root=folder)
        (folder / "model" / "bad.onnx").write_bytes(external(text, length=length, size=length // 4))
        return folder / "model" / "bad.onnx"

    return write


def hollow(shown: str) -> Write:
    """Not a regular file: a folder, or a pipe that a careless reader would wait for."""
    return lambda folder: (folder / "bad.onnx").mkdir() if shown == "folder" else os.mkfifo(folder / "bad.onnx")


# What is refused: how it is written, and what the message must say.
REFUSED: dict[str, tuple[Write, str]] = {
    "no such file": (lambda folder: None, "no such file"),
    "a folder": (hollow("folder"), "folder"),
    "a pipe": (hollow("pipe"), "regular file"),
    "empty": (content(b""), "the file is empty"),
    "text": (content(b"hello, I am a text"), "not an ONNX model"),
    "a picture": (content(PNG), "not an ONNX model"),
    "truncated": (content(good().SerializeToString()[:-7]), ""),
    "truncated in the middle": (content(good().SerializeToString()[:40]), "not an ONNX model"),
    "external data missing": (data_at("gone.bin"), "is missing"),
    "external data truncated": (data_at("w.bin", 8192), "ends at byte 8192"),
    "external data above": (data_at("../outside.bin"), "leaves the model's folder"),
    "external data absolute": (data_at("{root}/outside.bin"), "is absolute"),
    "external data through a link": (data_at("link.bin"), "symbolic link out of"),
    **{f"malformed: {name}": (proto(model), message) for name, (model, message, _) in MALFORMED.items()},
}


def optimize(run: Run, bad: Path, out: Path, *more: object) -> tuple[Ran, bool]:
    """What the command did, and whether nothing but ``out`` is another file than before."""
    root = out.parent
    before = files(root)
    ran = run("optimize", bad, "-o", out, *more)
    after = files(root)
    after.pop(out.name, None)
    return ran, before == after


def files(folder: Path) -> dict[str, str]:
    """Every entry below a folder: digests of the files, and the names of folders and pipes."""
    return listing(folder) | {str(p.relative_to(folder)): "" for p in folder.rglob("*") if not p.is_file()}


def said(ran: Ran, message: str, *places: str) -> None:
    """Check that an error is told in parts: what, where (one of ``places``), and what to do."""
    what, *rest = ran.err.splitlines()
    assert what.startswith("error: ") and message in what, ran.err
    assert "internal error" not in what and "Traceback" not in ran.err
    if places:
        (where,) = [line for line in rest if line.startswith("  --> ")]
        assert any(place in where for place in places), ran.err
    assert any(line.startswith("  help: ") and len(line) > 12 for line in rest), ran.err


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, run: Run, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    bad = write(tmp_path) or tmp_path / "bad.onnx"
    ran, untouched = optimize(run, bad, tmp_path / "out.onnx", "--report", tmp_path / "report.html")
    assert ran.status == 1
    assert ran.out == ""
    said(ran, message, "bad.onnx", ".bin")
    assert not (tmp_path / "out.onnx").exists() and untouched


@pytest.mark.parametrize("case", ["empty", "malformed: cycle", "external data above"])
def test_refused_over_the_input_itself(case: str, run: Run, tmp_path: Path) -> None:
    """``-o`` may name the input: what is refused must still be there, byte for byte."""
    bad = REFUSED[case][0](tmp_path) or tmp_path / "bad.onnx"
    before = files(tmp_path)
    assert run("optimize", bad, "-o", bad).status == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("case", ["text", "malformed: undefined in a subgraph", "external data missing"])
def test_refused_in_a_process_of_its_own(case: str, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    bad = write(tmp_path) or tmp_path / "bad.onnx"
    before = files(tmp_path)
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-m", "graphopt", "optimize", str(bad), "-o", str(tmp_path / "out.onnx")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    said(Ran(ran.returncode, ran.stdout, ran.stderr), message, "bad.onnx", ".bin")
    assert files(tmp_path) == before


# --- what is handled -------------------------------------------------------------------------------------------------


WEIGHTS = [
    numpy_helper.from_array(np.arange(1, 7, dtype="f").reshape(2, 3), "w"),
    numpy_helper.from_array(np.array([1, 0, 1], "f"), "m"),
    numpy_helper.from_array(np.arange(1, 7, dtype="f").reshape(3, 2), "v"),
]


def net(
    tail: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    initializers: list[onnx.TensorProto] | None = None,
    **more: object,
) -> onnx.ModelProto:
    """Three hidden units ``h``, one of them masked, a second layer ``y``, and something unusual behind it."""
    layers = [node("Mul", "w m", "wm"), node("MatMul", "x wm", "a", "first"), node("Relu", "a", "h")]
    graph = helper.make_graph(
        [*layers, node("MatMul", "h v", "y", "second"), *tail],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 2]), *(inputs or [])],
        outputs or [helper.make_tensor_value_info("y", FLOAT, ["N", 2])],
        [*WEIGHTS, *(initializers or [])],
        **more,  # type: ignore[arg-type]
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def values(name: str, kind: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def zero_sized() -> onnx.ModelProto:
    empty = numpy_helper.from_array(np.zeros((0, 2), "f"), "nothing")
    return net([node("Concat", "y nothing", "z", axis=0)], [values("z", FLOAT, ["M", 2])], initializers=[empty])


def without_elements() -> onnx.ModelProto:
    """The input itself has no elements."""
    model = net([])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 0
    return model


def strings() -> onnx.ModelProto:
    kinds = numpy_helper.from_array(np.array(["cat", "dög"], object), "kinds")
    return net(
        [node("Identity", "s", "t", "input"), node("Identity", "kinds", "k", "constant")],
        [values("y", FLOAT, ["N", 2]), values("t", STRING, [2]), values("k", STRING, [2])],
        [values("s", STRING, [2])],
        [kinds],
    )


def sequences() -> onnx.ModelProto:
    sequence = helper.make_tensor_sequence_value_info("seq", FLOAT, None)
    tail = [node("SequenceConstruct", "y h", "seq"), node("SequenceAt", "seq zero", "z")]
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    return net(tail, [sequence, values("z", FLOAT, ["N", 2])], initializers=[zero])


def optionals() -> onnx.ModelProto:
    tail = [node("Optional", "y", "o"), node("OptionalHasElement", "o", "has"), node("OptionalGetElement", "o", "z")]
    return net(tail, [values("z", FLOAT, ["N", 2]), values("has", BOOL, [])])


def functions() -> onnx.ModelProto:
    model = net([node("f", "y", "z", domain="local")], [values("z", FLOAT, ["N", 2])])
    model.functions.extend(with_functions(function("f", node("Tanh", "a", "b"))).functions)
    return model


def subgraphs(read: str = "y", width: int = 2) -> onnx.ModelProto:
    """Branches that read a value from outside by its name."""
    branches = {
        name: helper.make_graph([node(kind, read, name)], name, [], [values(name, FLOAT, ["N", width])])
        for name, kind in (("yes", "Neg"), ("no", "Abs"))
    }
    tail = [node("If", "c", "z", then_branch=branches["yes"], else_branch=branches["no"])]
    return net(tail, [values("y", FLOAT, ["N", 2]), values("z", FLOAT, ["N", width])], [values("c", BOOL, [])])


def sparse() -> onnx.ModelProto:
    values_, index = numpy_helper.from_array(np.ones(1, "f"), "u"), numpy_helper.from_array(np.array([1]), "i")
    kept = helper.make_sparse_tensor(values_, index, [2])
    return net([node("Add", "y u", "z")], [values("z", FLOAT, ["N", 2])], sparse_initializer=[kept])


def known_domain() -> onnx.ModelProto:
    """An operator that onnxruntime knows and graphopt does not."""
    model = net([node("FastGelu", "y", "z", domain="com.microsoft")], [values("z", FLOAT, ["N", 2])])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def wonder() -> onnx.ModelProto:
    """An operator that neither knows: it reads the hidden units whole."""
    tail = [node("Wonder", "h", "z", domain="com.example", depth=7)]
    return net(tail, [values("y", FLOAT, ["N", 2]), values("z", FLOAT, None)])


HANDLED: dict[str, Callable[[], onnx.ModelProto]] = {
    "0-sized constant": zero_sized,
    "0-sized input": without_elements,
    "strings": strings,
    "sequences": sequences,
    "optionals": optionals,
    "functions": functions,
    "subgraphs": subgraphs,
    "sparse initializers": sparse,
    "operator of the runtime": known_domain,
}


@pytest.mark.parametrize("case", HANDLED)
def test_handled(case: str, run: Run, tmp_path: Path) -> None:
    model, bad, out = HANDLED[case](), tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_bytes(model.SerializeToString())
    ran, untouched = optimize(run, bad, out, "--plan", "smallest")
    assert ran.status == 0, ran.err
    assert ran.err == "" and untouched and "verified" in ran.out
    models.load(out)
    result = onnx.load(out)
    assert [value.name for value in result.graph.output] == [value.name for value in model.graph.output]
    runtime.session(out)
    shapes = sorted(tuple(tensor.dims) for tensor in result.graph.initializer if len(tensor.dims) == 2)
    # The mask is gone, and one of three hidden units with it.
    assert "Mul" not in [n.op_type for n in result.graph.node]
    assert {(2, 2)} == {shape for shape in shapes if 0 not in shape}, shapes


def test_what_a_subgraph_reads_stays_whole(run: Run, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_bytes(subgraphs("h", 3).SerializeToString())
    ran, untouched = optimize(run, bad, out, "--plan", "smallest")
    assert ran.status == 0 and untouched and "verified" in ran.out, ran.err
    (branches,) = [n for n in onnx.load(out).graph.node if n.op_type == "If"]
    assert {i for attribute in branches.attribute for n in attribute.g.node for i in n.input} == {"h"}


def test_an_operator_that_nobody_knows_is_carried_through(run: Run, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_bytes(wonder().SerializeToString())
    # onnxruntime cannot run it, so that nothing can be verified: refused in words, unless that is not asked for.
    ran, untouched = optimize(run, bad, out)
    assert ran.status == 1 and untouched and not out.exists()
    said(ran, "Wonder")
    ran, untouched = optimize(run, bad, out, "--no-verify")
    assert ran.status == 0 and untouched, ran.err
    (left,) = [n for n in onnx.load(out).graph.node if n.op_type == "Wonder"]
    (given,) = [n for n in wonder().graph.node if n.op_type == "Wonder"]
    del left.input[:], given.input[:]  # the hidden units may have another name
    assert left.SerializeToString() == given.SerializeToString()


def test_what_lies_past_two_gigabytes_is_not_written_into_one_file(tmp_path: Path) -> None:
    """Nothing is half-written when protobuf cannot hold the result (the long test writes it with external data)."""
    with pytest.raises(models.ModelError, match="GB"):
        models.save(huge(), tmp_path / "out.onnx", external=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_more_than_two_gigabytes(run: Run, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    models.save(huge(), bad)
    ran, untouched = optimize(run, bad, out, "--no-verify")
    assert ran.status == 0 and untouched, ran.err
    models.load(out)


def test_the_near_miss_of_every_refusal(run: Run, tmp_path: Path) -> None:
    """The model that the truncated and malformed ones are made from is fine."""
    (tmp_path / "bad.onnx").write_bytes(build([node("Relu", "x", "y")]).SerializeToString())
    ran, untouched = optimize(run, tmp_path / "bad.onnx", tmp_path / "out.onnx")
    assert ran.status == 0 and untouched and (tmp_path / "out.onnx").exists()


# --- graphopt quantize ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSED)
def test_quantize_refuses_the_same(case: str, run: Run, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    bad = write(tmp_path) or tmp_path / "bad.onnx"
    before = files(tmp_path)
    for more in (("--random-data",), ("--activations", "none"), ("--dry-run",)):
        ran = run("quantize", bad, "-o", tmp_path / "out.onnx", *more)
        assert ran.status == 1 and ran.out == ""
        said(ran, message, "bad.onnx", ".bin")
        assert files(tmp_path) == before


@pytest.mark.parametrize("case", HANDLED)
def test_quantize_handles_the_same(case: str, run: Run, tmp_path: Path) -> None:
    """Handled, or refused in words (there is no random sequence or string to calibrate on); never a traceback."""
    model, bad, out = HANDLED[case](), tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_bytes(model.SerializeToString())
    before = files(tmp_path)
    for more in (("--random-data", "--samples", 3), ("--activations", "none"), ("--target", "portable", "--dry-run")):
        ran = run("quantize", bad, "-o", out, "--no-measure", *more)
        after = files(tmp_path)
        written = after.pop(out.name, None)
        assert after == before and "internal error" not in ran.err
        if ran.status:
            assert ran.status == 1 and written is None
            said(ran, "")
            continue
        assert ran.err == ""
        if written is not None:
            runtime.session(out)
            assert [value.name for value in onnx.load(out).graph.output] == [v.name for v in model.graph.output]
            out.unlink()


def test_quantize_carries_an_unknown_operator_through(run: Run, tmp_path: Path) -> None:
    """Weights need no run of the model; calibration does, and the runtime says why it cannot."""
    bad, out = tmp_path / "bad.onnx", tmp_path / "out.onnx"
    bad.write_bytes(wonder().SerializeToString())
    ran = run("quantize", bad, "-o", out, "--random-data")
    assert ran.status == 1 and not out.exists()
    said(ran, "Wonder")
    ran = run("quantize", bad, "-o", out, "--activations", "none", "--no-measure", "--no-verify")
    assert ran.status == 0, ran.err
    (left,) = [n for n in onnx.load(out).graph.node if n.op_type == "Wonder"]
    (given,) = [n for n in wonder().graph.node if n.op_type == "Wonder"]
    assert left.output == given.output and left.attribute == given.attribute

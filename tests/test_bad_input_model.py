"""Every kind of bad input of the promise: one error with a message, and no file written or changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import model as models
from graphopt.errors import ModelError, UsageError

FLOAT = TensorProto.FLOAT


def build(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",), **more: Any) -> onnx.ModelProto:
    """A model with the input ``x: float[2]``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [2])],
        [helper.make_tensor_value_info(name, FLOAT, [2]) for name in outputs],
        **more,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name or f"the_{kind}", **attributes)


def good() -> onnx.ModelProto:
    return build([node("Relu", "x", "y")])


def state(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(path: Path, folder: Path) -> ModelError:
    """The error of loading `path`; nothing in `folder` may change."""
    before = state(folder)
    with pytest.raises(ModelError) as caught:
        models.load(path)
    assert state(folder) == before
    error = caught.value
    assert error.exit_status == 1
    assert error.what and "Traceback" not in str(error)
    assert error.where and path.name in error.where
    return error


# --- not a model -----------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, I am a text", "not an ONNX model"),
        (b'{"graph": {}}', "not an ONNX model"),
        (PNG, "not an ONNX model"),
        (np.random.default_rng(3).bytes(4099), "not an ONNX model"),
        (b"\x00" * 64, "not an ONNX model"),
        (b"PK\x03\x04" + b"\x00" * 26, "not an ONNX model"),
        (b"\x08\x09", "it has no graph"),
    ],
    ids=["empty", "text", "json", "png", "random", "zeros", "zip", "no graph"],
)
def test_not_a_model(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert message in refused(path, tmp_path).what


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """Cut at every byte: no prefix of a model is taken for one. (The version comes behind the graph.)"""
    data = good().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    models.load(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            models.load(path)


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "m.onnx", tmp_path).what


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").symlink_to("gone")
    with pytest.raises(ModelError, match="no such file") as caught:
        models.load(tmp_path / "m.onnx")
    assert "symbolic link" in (caught.value.help or "")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    assert "folder" in refused(tmp_path / "m.onnx", tmp_path).what


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert "regular file" in refused(tmp_path / "m.onnx", tmp_path).what


def test_another_kind_of_object() -> None:
    with pytest.raises(UsageError, match="from int"):
        models.load(3)  # type: ignore[arg-type]


# --- malformed models ------------------------------------------------------------------------------------------------


def changed(change: Callable[[onnx.ModelProto], None], proto: onnx.ModelProto | None = None) -> onnx.ModelProto:
    proto = proto or good()
    change(proto)
    return proto


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: setattr(proto.opset_import[0], "version", version)


def with_body(body: list[onnx.NodeProto], output: str) -> onnx.ModelProto:
    branch = helper.make_graph(body, "b", [], [helper.make_tensor_value_info(output, FLOAT, [2])])
    other = helper.make_graph([node("Neg", "x", "o2")], "b2", [], [helper.make_tensor_value_info("o2", FLOAT, [2])])
    proto = build([node("If", "c", "y", then_branch=branch, else_branch=other)])
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return proto


def function(name: str, body: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function(
        "local", name, ["a"], ["b"], [body], [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    )


def with_functions(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    proto = build([node("f", "x", "y", domain="local")])
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.functions.extend(functions)
    return proto


TWO = numpy_helper.from_array(np.ones(2, "f"), "w")
THREE = numpy_helper.from_array(np.ones(3, "f"), "w")


def held(change: Callable[[onnx.TensorProto], None], *, constant: bool = False) -> onnx.ModelProto:
    """A model whose only tensor, an initializer or a Constant, was changed behind its shape's back."""
    tensor = numpy_helper.from_array(np.ones(2, "f"), "w")
    change(tensor)
    add = node("Add", "x w", "y")
    return build([node("Constant", "", "w", value=tensor), add]) if constant else build([add], initializer=[tensor])


def typed(count: int) -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0] * count)

    return change


def cut(count: int) -> Callable[[onnx.TensorProto], None]:
    return lambda tensor: setattr(tensor, "raw_data", tensor.raw_data[:count])


MALFORMED: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "too few bytes": (held(cut(4)), "takes 8 bytes, and has 4", "initializer 'w'"),
    "too few bytes of a Constant": (held(cut(4), constant=True), "takes 8 bytes", "'the_Constant'"),
    "too many numbers": (held(typed(3)), "takes 2 numbers in float_data, and has 3", "initializer 'w'"),
    "no numbers": (held(typed(0)), "takes 2 numbers in float_data, and has 0", "initializer 'w'"),
    "negative sizes": (held(lambda t: t.dims.__setitem__(slice(None), [-2])), "shape [-2]", "initializer 'w'"),
    "no outputs": (changed(lambda p: p.graph.ClearField("output")), "no outputs", "graph 'g'"),
    "output nobody makes": (build([node("Relu", "x", "z")]), "'y' is not made", "graph 'g'"),
    "output twice": (build([node("Relu", "x", "y")], ("y", "y")), "'y' is given twice", ""),
    "undefined input": (build([node("Add", "x nowhere", "y")]), "'nowhere' is not defined", "'the_Add' (Add)"),
    "cycle": (build([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Neg", "b", "y")]), "cycle", "'the_Add'"),
    "cycle of one": (build([node("Add", "x y", "y")]), "cycle", "'the_Add'"),
    "two nodes, one name": (build([node("Relu", "x", "y"), node("Neg", "x", "y")]), "'y' is redeclared", ""),
    "node named like an input": (build([node("Relu", "x", "x"), node("Neg", "x", "y")]), "'x' is redeclared", ""),
    "initializers with one name": (build([node("Add", "x w", "y")], initializer=[TWO, TWO]), "'w' is given twice", ""),
    "inputs with one name": (changed(lambda p: p.graph.input.append(p.graph.input[0])), "'x' is given twice", ""),
    "initializer without name": (
        build([node("Relu", "x", "y")], initializer=[numpy_helper.from_array(np.ones(2, "f"))]),
        "has no name",
        "",
    ),
    "opset of the future": (changed(opset(999)), "version 999 is unknown", ""),
    "opset zero": (changed(opset(0)), "version 0", ""),
    "no opset": (changed(lambda p: p.ClearField("opset_import")), "imports no operator set", ""),
    "opset of another domain": (
        changed(lambda p: setattr(p.opset_import[0], "domain", "com.example")),
        "no operator set 'ai.onnx'",
        "'the_Relu' (Relu)",
    ),
    "domain not imported": (build([node("Wonder", "x", "y", domain="com.example")]), "'com.example'", "the_Wonder"),
    "IR of the future": (changed(lambda p: setattr(p, "ir_version", 999)), "IR version is 999", ""),
    "IR missing": (changed(lambda p: p.ClearField("ir_version")), "IR version is missing", ""),
    "shapes do not fit": (build([node("Add", "x w", "y")], initializer=[THREE]), "contradict", "'the_Add' (Add)"),
    "declared shape is wrong": (
        changed(lambda p: setattr(p.graph.output[0].type.tensor_type.shape.dim[0], "dim_value", 3)),
        "contradict",
        "'the_Relu' (Relu)",
    ),
    "declared type is wrong": (
        changed(lambda p: setattr(p.graph.output[0].type.tensor_type, "elem_type", TensorProto.INT64)),
        "contradict",
        "",
    ),
    "initializer declared otherwise": (
        build(
            [node("Add", "x w", "y")],
            initializer=[TWO],
            value_info=[helper.make_tensor_value_info("w", FLOAT, [3])],
        ),
        "shape [2] is declared [3]",
        "initializer 'w'",
    ),
    "undefined in a subgraph": (with_body([node("Add", "x nowhere", "o")], "o"), "'nowhere'", "subgraph of node"),
    "duplicate in a subgraph": (with_body([node("Neg", "x", "o"), node("Abs", "x", "o")], "o"), "redeclared", ""),
    "subgraph output from outside": (with_body([], "x"), "'x' is not made", "subgraph of node"),
    "function twice": (
        with_functions(function("f", node("Relu", "a", "b")), function("f", node("Neg", "a", "b"))),
        "defined twice",
        "local::f",
    ),
    "function calls itself": (
        with_functions(function("f", node("f", "a", "b", domain="local"))),
        "in a circle",
        "local::f",
    ),
    "functions call each other": (
        with_functions(
            function("f", node("g", "a", "b", domain="local")), function("g", node("f", "a", "b", domain="local"))
        ),
        "in a circle",
        "local::g",
    ),
    "undefined in a function": (with_functions(function("f", node("Add", "a nowhere", "b"))), "'nowhere'", "local::f"),
    "map type": (
        changed(
            lambda p: p.graph.input.append(
                onnx.ValueInfoProto(
                    name="m",
                    type=onnx.TypeProto(
                        map_type=onnx.TypeProto.Map(
                            key_type=TensorProto.INT64, value_type=helper.make_tensor_type_proto(FLOAT, [])
                        )
                    ),
                )
            )
        ),
        "map type",
        "",
    ),
    "sparse index out of range": (
        build(
            [node("Add", "x w", "y")],
            sparse_initializer=[
                helper.make_sparse_tensor(
                    numpy_helper.from_array(np.ones(1, "f"), "w"),
                    numpy_helper.from_array(np.array([7], np.int64), "i"),
                    [2],
                )
            ],
        ),
        "outside of the shape",
        "sparse initializer 'w'",
    ),
    "sparse and enormous": (
        build(
            [node("Add", "x w", "y")],
            sparse_initializer=[
                helper.make_sparse_tensor(
                    numpy_helper.from_array(np.ones(1, "f"), "w"),
                    numpy_helper.from_array(np.array([7], np.int64), "i"),
                    [1 << 20, 1 << 20],
                )
            ],
        ),
        "too large",
        "sparse initializer 'w'",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, tmp_path: Path) -> None:
    proto, message, place = MALFORMED[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    error = refused(path, tmp_path)
    assert message in error.what, error
    assert place in (error.where or ""), error
    with pytest.raises(ModelError):
        models.load(proto)


@pytest.mark.parametrize("case", ["subgraph", "functions", "wonder", "chain"])
def test_the_near_misses_are_fine(case: str) -> None:
    """What the malformed models above look like when they are right."""
    wonder = build([node("Wonder", "x", "y", domain="com.example")])
    wonder.opset_import.append(helper.make_opsetid("com.example", 1))
    models.load(held(typed(2)))
    models.load(held(cut(8), constant=True))
    models.load(
        {
            "subgraph": with_body([node("Neg", "x", "o")], "o"),
            "functions": with_functions(
                function("f", node("g", "a", "b", domain="local")), function("g", node("Relu", "a", "b"))
            ),
            "wonder": wonder,
            "chain": build([node("Add", "x w", "a"), node("Relu", "a", "y")], initializer=[TWO]),
        }[case]
    )


def test_the_source_line_is_in_the_message() -> None:
    bad = node("Add", "x nowhere", "y")
    trace = 'File "main.py", line 1, in <module>\n  net(x)\nFile "net.py", line 12, in forward\n  return x + y'
    bad.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    with pytest.raises(ModelError) as caught:
        models.load(build([bad]))
    assert 'File "net.py", line 12, in forward' in (caught.value.where or "")


def test_an_ir_model_is_checked_too() -> None:
    model = models.load(good())
    model.graph.outputs.clear()
    with pytest.raises(ModelError, match="no outputs"):
        models.load(model)
    model = models.load(good())
    model.graph.node(0).outputs[0].name = "x"
    with pytest.raises(ModelError, match="'x' is given twice"):
        models.check(model)
    model = models.load(good())
    model.graph.node(0).replace_input_with(0, ir.Value(name="loose"))
    with pytest.raises(ModelError, match="'loose' is not defined"):
        models.check(model)


def test_a_hidden_name_is_refused_because_writing_it_would_change_its_meaning() -> None:
    model = models.load(with_body([node("Neg", "x", "n"), node("Abs", "x", "o")], "o"))
    branch = model.graph.node(0).attributes["then_branch"].as_graph()
    models.check(model)
    next(iter(branch)).outputs[0].name = "x"
    with pytest.raises(ModelError, match="a nearer value has the same name"):
        models.check(model)


# --- external data ---------------------------------------------------------------------------------------------------


def external(location: str, offset: int = 0, length: int | None = 4096, size: int = 1024) -> bytes:
    proto = build([node("ReduceSum", "w", "s", keepdims=0), node("Add", "x s", "y")])
    tensor = proto.graph.initializer.add(name="w", data_type=FLOAT, dims=[size])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return proto.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``model/`` with a data file in it, and another one outside."""
    (tmp_path / "model" / "sub").mkdir(parents=True)
    for place in ("model/w.bin", "model/sub/w.bin", "outside.bin"):
        (tmp_path / place).write_bytes(np.arange(1024, dtype="f").tobytes())
    return tmp_path / "model"


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/w.bin"])
def test_data_in_the_folder_is_mapped(location: str, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(external(location))
    tensor = models.load(folder / "m.onnx").graph.initializers["w"].const_value
    assert tensor is not None and np.array_equal(tensor.numpy(), np.arange(1024, dtype="f"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../outside.bin", "leaves the model's folder"),
        ("sub/../../outside.bin", "leaves the model's folder"),
        ("..\\outside.bin", "leaves the model's folder"),
        ("{root}/outside.bin", "is absolute"),
        ("/etc/passwd", "is absolute"),
        ("C:\\w.bin", "is absolute"),
        ("", "is empty"),
        ("link.bin", "is a symbolic link out of the model's folder"),
        ("linked/outside.bin", "is a symbolic link out of the model's folder"),
        ("gone.bin", "is missing"),
        ("sub", "is not a file"),
        ("pipe", "is not a file"),
    ],
)
def test_data_elsewhere_is_refused(location: str, message: str, folder: Path) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    (folder / "linked").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe")
    (folder / "m.onnx").write_bytes(external(location.format(root=folder.parent)))
    with pytest.raises(ModelError) as caught:
        models.load(folder / "m.onnx")
    assert message in caught.value.what
    assert "initializer 'w'" in (caught.value.where or "")


def test_a_link_inside_of_the_folder_is_fine(folder: Path) -> None:
    (folder / "link.bin").symlink_to("sub/w.bin")
    (folder / "m.onnx").write_bytes(external("link.bin"))
    models.load(folder / "m.onnx")


def test_a_hard_link_is_fine(folder: Path) -> None:
    os.link(folder.parent / "outside.bin", folder / "hard.bin")
    (folder / "m.onnx").write_bytes(external("hard.bin"))
    models.load(folder / "m.onnx")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The Hugging Face hub's layout; the snapshot with its two links."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "aaaa").write_bytes(external("model.onnx_data"))
    (blobs / "bbbb").write_bytes(np.arange(1024, dtype="f").tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bbbb")
    return snapshot


def test_a_cache_of_links_is_fine(cache: Path) -> None:
    tensor = models.load(cache / "model.onnx").graph.initializers["w"].const_value
    assert tensor is not None and tensor.numpy()[7] == 7
    assert models.file_info(cache / "model.onnx")["bytes"] == 4096 + (cache / "model.onnx").stat().st_size


def test_a_link_out_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    (cache / "model.onnx_data").unlink()
    (cache / "model.onnx_data").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="symbolic link out of the model's folder"):
        models.load(cache / "model.onnx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offset": 4}, "ends at byte 4100"),
        ({"offset": 1 << 62}, "ends at byte"),
        ({"size": 1025, "length": 4100}, "ends at byte 4100"),
        ({"size": 1025, "length": None}, "ends at byte 4100"),
        ({"length": 4092}, "has 4092 bytes"),
        ({"length": 8192}, "has 8192 bytes"),
        ({"offset": -4}, ""),
        ({"offset": "much"}, ""),
    ],
)
def test_data_too_short(settings: dict[str, Any], message: str, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(external("w.bin", **settings))
    assert message in refused(folder / "m.onnx", folder).what


def test_data_just_long_enough_and_empty_data(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(external("w.bin", offset=4092, length=4, size=1))
    models.load(folder / "m.onnx")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "m.onnx").write_bytes(external("empty.bin", length=0, size=0))
    tensor = models.load(folder / "m.onnx").graph.initializers["w"].const_value
    assert tensor is not None and tensor.numpy().shape == (0,)


def test_a_proto_does_not_know_its_folder() -> None:
    with pytest.raises(ModelError, match="does not know its folder"):
        models.load(onnx.ModelProto.FromString(external("w.bin")))


# --- places that cannot be written -----------------------------------------------------------------------------------


def test_saving_to_bad_places(tmp_path: Path) -> None:
    model = models.load(good())
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    before = state(tmp_path)
    for place, message in [
        ("folder", "over a folder"),
        ("nowhere/m.onnx", "there is no folder"),
        ("file/m.onnx", "there is no folder"),
        ("pipe", "not a regular file"),
        ("n" * 300 + ".onnx", "File name too long"),
    ]:
        for use_external in (None, True):
            with pytest.raises(ModelError, match=message) as caught:
                models.save(model, tmp_path / place, external=use_external)
            assert caught.value.where
    assert state(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_saving_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ModelError, match="cannot be written"):
            models.save(models.load(good()), tmp_path / "m.onnx")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def huge() -> ir.Model:
    """2.2 GB of weights that nobody needs to allocate."""
    model = models.load(good())
    for i in range(22):
        shape = ir.Shape([25_000_000])
        tensor = ir.LazyTensor(lambda: ir.tensor(np.zeros(25_000_000, "f")), ir.DataType.FLOAT, shape, name=f"w{i}")
        value = ir.Value(name=f"w{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=shape, const_value=tensor)
        model.graph.register_initializer(value)
    return model


def test_over_two_gigabytes_needs_external_data(tmp_path: Path) -> None:
    model = huge()
    for action in (
        lambda: models.serialize(model),
        lambda: models.save(model, tmp_path / "m.onnx", external=False),
    ):
        with pytest.raises(ModelError, match=r"takes 2.20 GB") as caught:
            action()
        assert "external" in (caught.value.help or "")
    assert os.listdir(tmp_path) == []


@pytest.mark.long
def test_over_two_gigabytes_is_saved_and_loaded(tmp_path: Path) -> None:
    models.save(huge(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 2_200_000_000
    models.infer_shapes(models.load(tmp_path / "m.onnx"))

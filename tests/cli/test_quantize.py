"""`graphopt quantize` from the outside: files, statuses, what is said and what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import runtime
from graphopt.report import plots
from tests.cli.conftest import Run, listing
from tests.cli.test_terminal import run_on_a_terminal

ROOT = Path(__file__).resolve().parents[2]
SIDE, WIDTH = 16, 32


def two_convolutions() -> onnx.ModelProto:
    """Two convolutions large enough to be worth quantizing, and a Gemm; ``first`` reads the image."""
    random = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "two_convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7])],
        [
            *(constant("w1", WIDTH, 3, 7, 7), constant("b1", WIDTH)),
            *(constant("w2", WIDTH, WIDTH, 3, 3), constant("b2", WIDTH), constant("w3", 7, WIDTH), constant("b3", 7)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(number: int = 37) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((number, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(two_convolutions(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=images())
    return path


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    return runtime.run(runtime.session(path), {"x": x})[0]


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).mean() / ((wanted - found) ** 2).mean()))


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_model_is_quantized_and_the_table_says_what_came_of_it(
    run: Run, net: Path, data: Path, tmp_path: Path
) -> None:
    out, record_file = tmp_path / "out.onnx", tmp_path / "r.json"
    ran = run("quantize", net, "-o", out, "--data", data, "--no-measure", "--json", record_file)
    assert ran.status == 0, ran.err
    assert ran.err == "" and "\x1b" not in ran.out
    x = images()
    found = decibels(outputs(net, x), outputs(out, x))
    assert found > 25
    record = json.loads(record_file.read_text())["quantize"]
    assert record["output_sqnr_db"] == pytest.approx(found, abs=0.2)
    assert out.stat().st_size < 0.6 * net.stat().st_size
    quantized = {t.name: t.data_type for t in onnx.load(out).graph.initializer}
    assert TensorProto.INT8 in quantized.values() and "w2" not in quantized
    for expected in (
        *("constants", "file", "integer operators", "output SQNR", f"{record['output_sqnr_db']:.1f} dB", "lose most"),
        *(f"{record['integer_nodes']} of ", f"wrote {out}"),
    ):
        assert expected in ran.out, expected


def test_the_report_tells_the_scales_that_are_in_the_model(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    out, record_file = tmp_path / "out.onnx", tmp_path / "r.json"
    assert run("quantize", net, "-o", out, "--data", data, "--no-measure", "--json", record_file).status == 0
    rows = {row["name"]: row for row in json.loads(record_file.read_text())["quantize"]["tensors"]}
    assert {"r1", "w2"} <= rows.keys()
    for row in rows.values():
        assert {"name", "dtype", "scale", "zero_point", "mse", "sqnr_db", "method"} <= row.keys()
    written = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    scales = {node.input[0]: node.input[1] for node in onnx.load(out).graph.node if node.op_type == "QuantizeLinear"}
    np.testing.assert_array_equal(written[scales["r1"]], np.float32(rows["r1"]["scale"]))
    assert rows["r1"]["dtype"] == "uint8" and rows["r1"]["kind"] == "activation" and rows["r1"]["zero_point"] == 0
    assert len(rows["w2"]["scale"]) == WIDTH and rows["w2"]["axis"] == 0
    assert rows["w2"]["node"] == "Conv second"


def test_per_tensor_is_one_scale(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    found = tmp_path / "r.json"
    ran = run(
        "quantize", net, "-o", tmp_path / "o.onnx", "--data", data, "--no-measure", "--per-tensor", "--json", found
    )
    assert ran.status == 0, ran.err
    rows = {row["name"]: row for row in json.loads(found.read_text())["quantize"]["tensors"]}
    assert isinstance(rows["w2"]["scale"], float) and rows["w2"]["axis"] is None


def test_json_on_standard_output_is_alone_there(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--no-measure", "--json", "-")
    assert json.loads(ran.out)["quantize"]["tensors"] and ran.err == ""
    assert not (tmp_path / "-").exists()


ITERABLE = """
import numpy as np
def batches():
    for start in range(0, 37, 8):
        yield {"x": np.load("data.npz")["x"][start : start + 8]}
"""


def test_all_forms_of_data_give_the_same_bytes(
    run: Run, net: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The histograms do not depend on how the samples are cut into batches, and neither does the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images.py").write_text(ITERABLE)
    folder = tmp_path / "batches"
    folder.mkdir()
    for number, start in enumerate(range(0, 37, 5)):
        np.savez(folder / f"{number:02}.npz", x=images()[start : start + 5])
    made = []
    for form in (data, folder, "my_images:batches", data):
        out = tmp_path / "out.onnx"
        ran = run("quantize", net, "-o", out, "--data", form, "--no-measure", "--no-verify")
        assert ran.status == 0, ran.err
        made.append(out.read_bytes())
    assert made[0] == made[1] == made[2] == made[3]
    np.savez(data, x=2 * images())  # near miss: other numbers
    assert run("quantize", net, "-o", out, "--data", data, "--no-measure", "--no-verify").status == 0
    assert out.read_bytes() != made[0]


def test_fewer_samples_are_other_scales(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    few, same = tmp_path / "few.onnx", tmp_path / "same.onnx"
    assert run("quantize", net, "-o", few, "--data", data, "--no-measure", "--samples", 5).status == 0
    np.savez(data, x=images()[:5])
    assert run("quantize", net, "-o", same, "--data", data, "--no-measure").status == 0
    assert few.read_bytes() == same.read_bytes()


def test_out_may_be_the_model_itself(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    assert run("quantize", net, "-o", net, "--data", data, "--no-measure").status == 0
    assert "QuantizeLinear" in kinds(net)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "net.onnx"]


def test_what_is_excluded_stays_in_float_and_says_so(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for pattern in ("second", "sec*"):
        ran = run("quantize", net, "-o", out, "--data", data, "--no-measure", "--exclude", pattern)
        assert ran.status == 0, ran.err
        assert "excluded" in ran.out and "second" in ran.out
        names = {t.name for t in onnx.load(out).graph.initializer}
        assert "w2" in names and "w1" not in names


def test_weights_alone_need_no_data(run: Run, net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = run("quantize", net, "-o", out, "--activations", "none", "--no-measure")
    assert ran.status == 0, ran.err
    assert out.exists() and "QuantizeLinear" not in kinds(out)
    assert "weights in few bits" in ran.out and "integer operators" not in ran.out
    assert "read weights in few bits" in run("quantize", net, "--activations", "none", "--dry-run").out
    assert "read weights in few bits" not in run("quantize", net, "--everything", "--dry-run").out
    # So does a target that has no integer kernels; the others want data.
    assert run("quantize", net, "-o", out, "--target", "cuda", "--no-measure").status == 0
    assert run("quantize", net, "-o", out, "--target", "tensorrt", "--no-measure").status == 2


def test_random_data_only_when_asked_for_and_with_a_warning(run: Run, net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    before = listing(tmp_path)
    ran = run("quantize", net, "-o", out)
    assert ran.status == 2 and "no calibration data" in ran.err and "--random-data" in ran.err and ".npz" in ran.err
    assert listing(tmp_path) == before
    ran = run("quantize", net, "-o", out, "--random-data", "--samples", 8, "--no-measure")
    assert ran.status == 0, ran.err
    assert "warning[random-data]" in ran.out
    assert "QuantizeLinear" in kinds(out)


def test_a_warning_is_not_given_for_real_data(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--no-measure")
    assert "random-data" not in ran.out


def test_latency_is_measured(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--json", "-", "--shape", "x=1,3,16,16")
    assert ran.status == 0, ran.err
    measure = json.loads(ran.out)["measure"]
    assert measure["input_ms"] > 0 and measure["output_ms"] > 0 and measure["way"] in ("quantized", "input")


def test_workers_and_an_interruption_change_no_bit(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "out.onnx", tmp_path / "saved"
    arguments = ("quantize", net, "-o", out, "--data", data, "--no-measure", "--no-verify")
    assert run(*arguments).status == 0
    expected = out.read_bytes()
    for more in (("--workers", 2), ("--resume", saved), ("--resume", saved)):
        out.unlink()
        ran = run(*arguments, *more)
        assert ran.status == 0, ran.err
        assert out.read_bytes() == expected, more
    assert list(saved.iterdir())


def test_a_ratio_of_signal_to_noise_is_reached_or_refused(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    arguments = ("quantize", net, "-o", out, "--data", data, "--no-measure", "--weights", "levels16")
    low = json.loads(run(*arguments, "--json", "-").out)["quantize"]["output_sqnr_db"]
    ran = run(*arguments, "--target-sqnr", low + 3, "--json", "-")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["quantize"]["output_sqnr_db"] >= low + 3
    x = images()
    assert decibels(outputs(net, x), outputs(out, x)) > low + 2.5
    out.unlink()
    ran = run(*arguments, "--target-sqnr", 200)
    assert ran.status == 1 and not out.exists() and "dB" in ran.err and "help:" in ran.err


ACCURACY = """
import numpy as np
seen = []
def accuracy(session):
    seen.append(session)
    return float((session.run(None, {"x": np.load("data.npz")["x"]})[0].argmax(1) == np.load("answers.npy")).mean())
"""


def test_an_accuracy_is_reached(
    run: Run, net: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_accuracy.py").write_text(ACCURACY)
    np.save(tmp_path / "answers.npy", outputs(net, images()).argmax(1))
    wanted = ("--target-accuracy", "0.97", "--evaluate", "my_accuracy:accuracy")
    out = tmp_path / "out.onnx"
    ran = run("quantize", net, "-o", out, "--data", data, "--no-measure", "--weights", "levels8", *wanted)
    assert ran.status == 0, ran.err
    assert (outputs(out, images()).argmax(1) == np.load("answers.npy")).mean() >= 0.97
    ran = run(
        "quantize", net, "-o", out, "--data", data, "--evaluate", "my_accuracy:accurate", "--target-accuracy", "1"
    )
    assert ran.status == 2 and "did you mean accuracy?" in ran.err


# --- looking first ----------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_placement_and_writes_nothing(run: Run, net: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("quantize", net, "--dry-run", "--everything", "--exclude", "second")
    assert ran.status == 0 and ran.err == ""
    rows = {line.split()[0]: line for line in ran.out.splitlines() if line.strip()}
    (first,) = [line for line in ran.out.splitlines() if "first" in line]
    assert "Conv" in first and "uint8 x int8 -> uint8" in first
    (second,) = [line for line in ran.out.splitlines() if "second" in line]
    assert "float" in second and "excluded" in second
    assert rows and "nothing was calibrated" in ran.out
    assert listing(tmp_path) == before
    ran = run("quantize", net, "--dry-run", "-o", tmp_path / "out.onnx", "--data", tmp_path / "not_there.npz")
    assert ran.status == 0 and listing(tmp_path) == before, ran.err


def test_a_dry_run_as_json(run: Run, net: Path) -> None:
    record = json.loads(run("quantize", net, "--dry-run", "--everything", "--json", "-").out)
    nodes = {row["name"]: row for row in record["quantize"]["nodes"]}
    assert nodes["first"]["kernel"] and nodes["first"]["types"] == "uint8 x int8 -> uint8"
    assert record["quantize"]["tensors"] == [] and record["output"] is None


# --- pictures ---------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.found.append(tag + "." + dict(attrs).get("class", "") if tag == "svg" else tag)  # type: ignore[operator]


def test_the_page_has_the_worst_tensors_drawn(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    arguments = ("quantize", net, "-o", tmp_path / "o.onnx", "--data", data, "--no-measure", "--json", "-")
    record = json.loads(run(*arguments, "--report", page).out)
    assert _Tags(page.read_text()).found.count("svg.histogram") == len(record["quantize"]["worst"]) > 0
    worst = [one["sqnr_db"] for one in record["quantize"]["worst"]]
    assert worst == sorted(worst) and len(worst) <= 5
    for one in record["quantize"]["worst"]:
        assert sum(one["counts"]) > 0 and one["clip_low"] < one["clip_high"]
    assert json.loads(page.read_text().split('id="report">')[1].split("</script>")[0]) == record


def test_plots_of_every_tensor(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    arguments = ("quantize", net, "-o", tmp_path / "o.onnx", "--data", data, "--no-measure", "--json", "-")
    record = json.loads(run(*arguments, "--plots", folder).out)
    pictures = sorted(folder.glob("*.svg"))
    assert len(pictures) == len(record["quantize"]["tensors"])
    for picture in pictures:
        tree = ElementTree.parse(picture)
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert len(tree.findall(".//{http://www.w3.org/2000/svg}rect")) > 10
    assert any("w2" in picture.name for picture in pictures)
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(folder.glob("*.png"))) == (len(pictures) if plots.with_png() else 0)


def test_without_matplotlib_it_says_so(
    run: Run, net: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "with_png", lambda: False)
    arguments = ("quantize", net, "-o", tmp_path / "o.onnx", "--data", data, "--no-measure")
    ran = run(*arguments, "--plots", tmp_path / "plots")
    assert ran.status == 0 and 'pip install "graphopt[plots]"' in ran.out
    assert not list((tmp_path / "plots").glob("*.png")) and list((tmp_path / "plots").glob("*.svg"))
    assert "graphopt[plots]" not in run(*arguments).out


# --- what is refused --------------------------------------------------------------------------------------------------

WRONG = [
    (["--tarjet", "cpu"], "no such option: --tarjet", "graphopt quantize", "--target"),
    (["--target", "tensort"], "no choice 'tensort'", "--target", "did you mean tensorrt?"),
    (["--method", "msee"], "no choice 'msee'", "--method", "did you mean mse?"),
    (["--weights", "init8"], "'init8'", "--weights", "did you mean 'int8'?"),
    (["--activations", "unit8"], "'unit8'", "--activations", "did you mean 'uint8'?"),
    (["--activations", "nnone"], "'nnone'", "--activations", "did you mean 'none'?"),
    (["--levels", "1"], "--levels", "graphopt quantize", "--help"),
    (["--percent", "99"], "not mse", "--percent", "--method percentile"),
    (["--method", "percentile", "--percent", "0"], "percent", "--percent", "up to 100"),
    (["--exclude", "frist"], "'frist'", "--exclude", "did you mean 'first'?"),
    (["--exclude", "nothing*"], "'nothing*'", "--exclude", "--dry-run"),
    (["--recover", "bias-corection"], "'bias-corection'", "--recover", "bias-correction"),
    (["--recover", "narrow"], "narrow", "--recover", "bias-correction"),
    (["--workers", "2", "--ray", "local"], "exclude each other", "--ray", "one of the two"),
    (["--random-data"], "exclude each other", "--random-data", "one of the two"),
    (["--target-accuracy", "0.9"], "--target-accuracy", "--target-accuracy", "--evaluate"),
    (["--evaluate", "a:b"], "--evaluate", "--evaluate", "--target-accuracy"),
    (
        ["--target-accuracy", "0.9", "--evaluate", "no_such_module:f"],
        "no_such_module",
        "no_such_module:f",
        "install it",
    ),
    (["--shape", "x"], "cannot read the shape", "--shape", "images=1,3,224,224"),
    (["--report", "OUT"], "-o and --report name the same file", "OUT", "different names"),
    (["--json", "NET"], "MODEL and --json name the same file", "NET", "different names"),
]


@pytest.mark.parametrize(
    ("arguments", "what", "where", "help_"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_wrong_usage(
    run: Run, net: Path, data: Path, tmp_path: Path, arguments: list[str], what: str, where: str, help_: str
) -> None:
    files = {"OUT": str(tmp_path / "out.onnx"), "NET": str(net)}
    before = listing(tmp_path)
    ran = run("quantize", net, "-o", files["OUT"], "--data", data, *(files.get(one, one) for one in arguments))
    assert ran.status == 2, ran.out
    assert ran.out == ""
    first, second, third = ran.err.splitlines()
    assert first.startswith("error: ") and what in first
    assert second.startswith("  --> ") and files.get(where, where) in second
    assert third.startswith("  help: ") and help_ in third
    assert listing(tmp_path) == before


def test_nowhere_to_write(run: Run, net: Path, data: Path) -> None:
    ran = run("quantize", net, "--data", data)
    assert ran.status == 2 and "-o OUT" in ran.err and "--dry-run" in ran.err


def test_a_type_that_the_target_cannot_run_is_refused_before_any_work(
    run: Run, net: Path, data: Path, tmp_path: Path
) -> None:
    for arguments in (("--target", "cuda", "--activations", "uint8"), ("--activations", "float8e4m3fn")):
        ran = run("quantize", net, "-o", tmp_path / "o.onnx", "--data", data, *arguments)
        assert ran.status == 2 and arguments[-1] in ran.err and "help:" in ran.err
        assert not (tmp_path / "o.onnx").exists()


def nan() -> np.ndarray:
    x = images()
    x[19, 1, 2, 3] = np.nan
    return x


def infinite() -> np.ndarray:
    x = images()
    x[3] = np.inf
    return x


BAD = {
    "another name": ({"xs": images()}, "'x'"),
    "another rank": ({"x": images()[:, :, :, 0]}, "x"),
    "another size": ({"x": images()[:, :2]}, "x"),
    "text": ({"x": np.array(["a", "b"])}, "x"),
    "NaN": ({"x": nan()}, "NaN"),
    "infinite": ({"x": infinite()}, "inf"),
    "no sample": ({"x": images()[:0]}, "no batch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case: str, run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    arrays, said = BAD[case]
    np.savez(data, **arrays)  # type: ignore[arg-type]
    before = listing(tmp_path)
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--report", tmp_path / "r.html")
    assert ran.status == 1 and ran.out == ""
    assert ran.err.startswith("error: ") and said in ran.err and "internal error" not in ran.err
    assert listing(tmp_path) == before
    if case == "NaN":
        assert "19" in ran.err and "x" in ran.err  # which sample, of which tensor


def test_no_data_there(run: Run, net: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("hello")
    before = listing(tmp_path)
    for given, status in (("gone.npz", 1), ("empty", 1), ("text.npz", 1)):
        ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", tmp_path / given)
        assert ran.status == status and given in ran.err and ran.err.startswith("error: "), ran.err
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", "no_such_module:batches")
    assert ran.status == 2 and "no_such_module" in ran.err
    assert listing(tmp_path) == before


def test_the_smallest_data_that_will_do(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    """The near miss of all of that: one sample."""
    np.savez(data, x=images()[:1])
    assert run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--no-measure").status == 0


def test_missing_folders_are_found_before_the_work(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    for option in ("--report", "--json", "--plots", "--resume"):
        path = tmp_path / "missing" / "inside"
        ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, option, path)
        assert ran.status == 1 and "does not exist" in ran.err and option in ran.err and "mkdir -p" in ran.err
    ran = run("quantize", net, "-o", tmp_path / "out.onnx", "--data", data, "--plots", data)
    assert ran.status == 1 and "is a file" in ran.err
    assert listing(tmp_path) == before


SLOW = """
import time
import numpy as np
def batches():
    for number in range(10_000):
        open("started", "w").close()
        time.sleep(0.05)
        yield {"x": np.ones((1, 3, 16, 16), np.float32)}
"""


def test_ctrl_c_leaves_nothing_half_written(net: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    before = listing(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "graphopt", "quantize", "net.onnx", "-o", "out.onnx", "--data", "slow:batches"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    try:
        for _ in range(600):
            if (tmp_path / "started").exists():
                break
            time.sleep(0.1)
        time.sleep(0.5)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == "" and err == "interrupted\n"
    (tmp_path / "started").unlink()
    assert listing(tmp_path) == before


def test_a_terminal_sees_the_rate_and_the_time_left(net: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("10_000", "12"))
    arguments = ("quantize", "net.onnx", "-o", "out.onnx", "--data", "slow:batches", "--no-measure", "--json", "-")
    out, err = run_on_a_terminal(tmp_path, *arguments)
    assert json.loads(out)["quantize"]
    assert "calibrating" in err and "/s" in err


# --- in one command with optimize -------------------------------------------------------------------------------------


def masked_net(path: Path) -> Path:
    """Half of the filters of the first layer are masked."""
    model = two_convolutions()
    mask = (np.arange(WIDTH) % 2).astype(np.float32).reshape(1, WIDTH, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    model.graph.node.insert(2, helper.make_node("Mul", ["r1", "mask"], ["m1"], "masking"))
    model.graph.node[3].input[0] = "m1"
    onnx.save(model, path)
    return path


def test_optimize_and_quantize_in_one_command(run: Run, data: Path, tmp_path: Path) -> None:
    net, out, record = masked_net(tmp_path / "net.onnx"), tmp_path / "out.onnx", tmp_path / "r.json"
    options = ("--no-measure", "--plan", "smallest", "--json", record)
    ran = run("optimize", net, "-o", out, "--quantize", "int8,method=minmax", "--data", data, *options)
    assert ran.status == 0, ran.err
    assert "integer operators" in ran.out and "mask" in ran.out
    shapes = sorted(tuple(t.dims) for t in onnx.load(out).graph.initializer if len(t.dims) == 4)
    assert [shape[0] for shape in shapes] == [WIDTH // 2, WIDTH] and shapes[1] == (WIDTH, WIDTH // 2, 3, 3)
    assert "QuantizeLinear" in kinds(out)
    x = images()
    assert decibels(outputs(net, x), outputs(out, x)) > 25
    assert {row["method"] for row in json.loads(record.read_text())["quantize"]["tensors"]} == {"minmax"}


@pytest.mark.parametrize(
    ("text", "what", "help_"),
    [
        ("weigths=int8", "weigths", "did you mean 'weights'?"),
        ("init8", "init8", "did you mean 'int8'?"),
        ("levels=many", "levels cannot be 'many'", "whole number"),
        ("int8,weights=int4", "weights is given twice", "once"),
        ("random-dta", "random-dta", "did you mean 'random-data'?"),
        ("method=msee", "msee", "mse"),
    ],
)
def test_wrong_options_of_quantization(
    run: Run, net: Path, data: Path, tmp_path: Path, text: str, what: str, help_: str
) -> None:
    before = listing(tmp_path)
    ran = run("optimize", net, "-o", tmp_path / "out.onnx", "--quantize", text, "--data", data)
    assert ran.status == 2 and ran.out == ""
    assert what in ran.err.splitlines()[0] and help_ in ran.err.splitlines()[-1]
    assert listing(tmp_path) == before


def test_optimize_wants_data_to_quantize_and_no_other(run: Run, net: Path, data: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("optimize", net, "-o", tmp_path / "out.onnx", "--quantize", "int8")
    assert ran.status == 2 and "no calibration data" in ran.err and "--data" in ran.err
    ran = run("optimize", net, "-o", tmp_path / "out.onnx", "--data", data)
    assert ran.status == 2 and "--quantize" in ran.err
    assert listing(tmp_path) == before

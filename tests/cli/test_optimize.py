"""`graphopt optimize` from the outside: files, statuses, reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt import runtime
from tests.cli.conftest import Run, listing, write


def hidden(path: Path) -> int:
    """How many hidden units the file of a two-layer model has."""
    return min(max(numpy_helper.to_array(t).shape) for t in onnx.load(path).graph.initializer if len(t.dims) == 2)


def outputs(path: Path, batch: int = 5) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)
    return runtime.run(runtime.session(path), {"x": x})[0]


def test_a_mask_is_removed_and_said(run: Run, masked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = run("optimize", masked, "-o", out)
    assert ran.status == 0, ran.err
    assert ran.err == ""
    assert "Mul" not in [node.op_type for node in onnx.load(out).graph.node]
    np.testing.assert_allclose(outputs(out), outputs(masked), rtol=1e-5, atol=1e-5)
    for expected in ("parameters", "multiply-adds", "nodes", "m ", "1 of 3", "verified", f"wrote {out}"):
        assert expected in ran.out
    assert "\x1b" not in ran.out


def test_smallest_is_as_small_as_the_one_made_by_hand(run: Run, masked: Path, narrowed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert run("optimize", masked, "-o", out, "--plan", "smallest").status == 0
    shapes = [sorted(tuple(t.dims) for t in onnx.load(path).graph.initializer) for path in (out, narrowed)]
    assert shapes[0] == shapes[1]


def test_reports_are_written_and_say_the_same(run: Run, masked: Path, tmp_path: Path) -> None:
    out, page, data = (tmp_path / name for name in ("out.onnx", "r.html", "r.json"))
    assert run("optimize", masked, "-o", out, "--report", page, "--json", data).status == 0
    record = json.loads(data.read_text())
    assert record["input"]["path"] == str(masked) and record["input"]["bytes"] == masked.stat().st_size
    assert record["output"]["path"] == str(out) and record["output"]["bytes"] == out.stat().st_size
    assert len(record["output"]["sha256"]) == 64
    assert (record["target"], record["plan"]) == ("cpu", "fastest")
    # w, m and v: 4*3 + 3 + 3*2
    assert record["before"]["parameters"] == 21 and record["after"]["parameters"] < 21
    (mask,) = record["masks"]
    assert (mask["value"], mask["zeros"], mask["size"]) == ("m", 1, 3) and mask["action"] in ("removed", "folded")
    assert record["verify"]["passed"] is True
    assert [row["name"] for row in record["passes"]]
    embedded = page.read_text().split('id="report">')[1].split("</script>")[0]
    assert json.loads(embedded) == record


def test_json_on_standard_output_is_alone_there(run: Run, masked: Path, tmp_path: Path) -> None:
    ran = run("optimize", masked, "-o", tmp_path / "out.onnx", "--json", "-")
    assert json.loads(ran.out)["verify"]["passed"] is True
    assert not (tmp_path / "-").exists()


def test_out_may_be_the_model_itself(run: Run, masked: Path, tmp_path: Path) -> None:
    expected = outputs(masked)
    assert run("optimize", masked, "-o", masked, "--plan", "smallest").status == 0
    assert hidden(masked) == 2
    np.testing.assert_allclose(outputs(masked), expected, rtol=1e-5, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["masked.onnx"]


def test_a_missing_folder_is_found_before_the_work(run: Run, masked: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    for option, name in (("-o", "a.onnx"), ("--report", "a.html"), ("--json", "a.json")):
        out = [] if option == "-o" else ["-o", tmp_path / "out.onnx"]
        ran = run("optimize", masked, *out, option, tmp_path / "missing" / name)
        assert ran.status == 1
        assert "missing does not exist" in ran.err and f"--> {option}" in ran.err and "mkdir -p" in ran.err
    assert listing(tmp_path) == before


def test_a_misspelt_pass(run: Run, masked: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("optimize", masked, "-o", tmp_path / "out.onnx", "-p", "fold-mask")
    assert ran.status == 2 and ran.out == ""
    assert "fold-masks" in ran.err and ran.err.startswith("error: ")
    ran = run("optimize", masked, "-o", tmp_path / "out.onnx", "-p", "narrow{aling=16}")
    assert ran.status == 2 and "align" in ran.err
    assert listing(tmp_path) == before


def test_only_the_named_passes_run(run: Run, masked: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out.onnx", tmp_path / "r.json"
    assert run("optimize", masked, "-o", out, "-p", "fold-masks", "--json", data).status == 0
    assert {row["name"] for row in json.loads(data.read_text())["passes"]} == {"fold-masks"}
    assert hidden(out) == 3  # folded, not narrowed
    np.testing.assert_allclose(outputs(out), outputs(masked), rtol=1e-6, atol=1e-6)


def test_without_verification_the_report_says_so(run: Run, masked: Path, tmp_path: Path) -> None:
    data = tmp_path / "r.json"
    ran = run("optimize", masked, "-o", tmp_path / "out.onnx", "--no-verify", "--json", data)
    assert ran.status == 0 and "verified" not in ran.out
    assert json.loads(data.read_text())["verify"] is None


def test_a_misspelt_input_in_shape(run: Run, masked: Path, tmp_path: Path) -> None:
    ran = run("optimize", masked, "-o", tmp_path / "out.onnx", "--shape", "xs=3,4")
    assert ran.status == 2 and "x" in ran.err and not (tmp_path / "out.onnx").exists()


def test_external_weights_on_request(run: Run, masked: Path, tmp_path: Path) -> None:
    big = write(
        tmp_path / "big.onnx",
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 64] x) => (float[N, 64] y)'
        f" <float[64, 64] w = {{{', '.join(['1'] * 4096)}}}> {{ y = MatMul (x, w) }}",
    )
    out = tmp_path / "ext" / "out.onnx"
    out.parent.mkdir()
    assert run("optimize", big, "-o", out, "--save-external").status == 0
    assert len(list(out.parent.iterdir())) == 2
    out.unlink()
    assert run("optimize", big, "-o", tmp_path / "one.onnx").status == 0
    assert not list(tmp_path.glob("one.onnx?*"))


def test_an_impossible_tolerance_is_a_failed_verification(run: Run, masked: Path, tmp_path: Path) -> None:
    """Dead units with a bias move into the next layer's bias: a sum in another order, so never bit-equal everywhere."""
    wide = write(
        tmp_path / "wide.onnx",
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 64] x) => (float[N, 64] y)'
        f" <float[64, 64] w = {{{', '.join(str((i * 37 % 101) / 700) for i in range(4096))}}},"
        f" float[64] m = {{{', '.join(str(i % 2) for i in range(64))}}},"
        f" float[64] b = {{{', '.join(str((i * 29 % 31) / 7) for i in range(64))}}},"
        f" float[64, 64] v = {{{', '.join(str((i * 53 % 97) / 3) for i in range(4096))}}}>"
        " { wm = Mul (w, m) h = Gemm (x, wm, b) r = Relu (h) y = MatMul (r, v) }",
    )
    out = tmp_path / "out.onnx"
    before = listing(tmp_path)
    arguments = ("optimize", wide, "-o", out, "--rtol", 0, "--atol", 0, "--shape", "x=64,64", "--plan", "smallest")
    ran = run(*arguments)
    assert ran.status == 3 and ran.err.startswith("error: ")
    assert listing(tmp_path) == before
    ran = run(*arguments, "--keep-failed")
    assert ran.status == 3
    assert "--keep-failed" in ran.err and "NOT the same function" in ran.out
    shapes = {tuple(tensor.dims) for tensor in onnx.load(out).graph.initializer}
    assert {(64, 32), (32, 64)} <= shapes and (64, 64) not in shapes

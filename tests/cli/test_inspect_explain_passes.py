"""The commands that say what is there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run, listing, write


def test_inspect(run: Run, masked: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    ran = run("inspect", masked)
    assert ran.status == 0 and ran.err == ""
    for expected in ("parameters", "multiply-adds", "1 of 3", "weight"):
        assert expected in ran.out
    assert "\x1b" not in ran.out
    assert listing(tmp_path) == before


def test_inspect_as_json(run: Run, masked: Path) -> None:
    record = json.loads(run("inspect", masked, "--json").out)
    assert record["before"]["parameters"] == 21
    (mask,) = record["masks"]
    assert (mask["value"], mask["kind"], mask["zeros"], mask["size"]) == ("m", "weight", 1, 3)


def test_inspect_of_a_model_without_masks(run: Run, narrowed: Path) -> None:
    ran = run("inspect", narrowed)
    assert ran.status == 0 and "nothing" in ran.out
    assert json.loads(run("inspect", narrowed, "--json").out)["masks"] == []


def test_inspect_names_who_forces_what_stays(run: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path / "barrier.onnx",
        """
        <ir_version: 10, opset_import: ["" : 20]>
        barrier (float[N, 2] x) => (float[N, 3] y)
        <float[2, 3] w = {1, 0, 2, 3, 0, 4}> {
            h = MatMul (x, w)
            r = Relu (h)
            [rank] y = Softmax <axis = 1> (r)
        }""",
    )
    ran = run("inspect", path)
    assert ran.status == 0 and "What prevents the rest" in ran.out and "Softmax" in ran.out
    record = json.loads(run("inspect", path, "--json").out)
    (row,) = record["axes"]
    assert (row["kept"], row["stays"], row["decided_by"] != "") == (2, 0, True)
    (blocker,) = record["blockers"]
    assert "Softmax rank needs axis 1 whole" in blocker
    assert "Softmax rank" in run("explain", path, "h").out


def test_inspect_shows_zeros_that_stay(run: Run, tmp_path: Path) -> None:
    path = write(
        tmp_path / "sparse.onnx",
        """
        <ir_version: 10, opset_import: ["" : 20]>
        sparse (float[N, 4] x) => (float[N, 3] y)
        <float[4, 3] w = {1, 0, 0, 2, 3, 0, 0, 4, 5, 0, 0, 6}> { y = MatMul (x, w) }""",
    )
    ran = run("inspect", path)
    assert "2:4" in ran.out and "50.0%" in ran.out
    (row,) = json.loads(run("inspect", path, "--json").out)["sparsity"]
    assert (row["value"], row["shape"], row["zeros"], row["density"]) == ("w", [4, 3], 6, 0.5)
    assert "2:4" in row["patterns"]


def test_inspect_of_dense_weights_shows_none(run: Run, narrowed: Path) -> None:
    assert json.loads(run("inspect", narrowed, "--json").out)["sparsity"] == []
    assert "Zeros that stay" not in run("inspect", narrowed).out


def test_explain(run: Run, masked: Path) -> None:
    ran = run("explain", masked, "h")
    assert ran.status == 0 and ran.err == ""
    assert "value h" in ran.out and "What is known" in ran.out
    record = json.loads(run("explain", masked, "h", "--json").out)
    assert record["kind"] == "value" and record["name"] == "h" and record["facts"]


def test_explain_of_an_unknown_name(run: Run, masked: Path) -> None:
    ran = run("explain", masked, "wmm")
    assert ran.status == 2 and ran.out == ""
    assert "wmm" in ran.err and "did you mean" in ran.err


def test_passes_are_listed_with_their_options(run: Run) -> None:
    ran = run("passes")
    assert ran.status == 0
    for name in ("fold-masks", "demask", "propagate", "coalesce", "narrow", "fold-dead", "tidy"):
        assert name in ran.out
    assert "align=" in ran.out


def test_passes_of_quantization_are_listed_apart(run: Run) -> None:
    text = run("passes").out
    optimizing, winning = text.index("Passes of optimize"), text.index("Passes of quantize that win accuracy back")
    assert optimizing < text.index("narrow") < winning < text.index("bias-correction")
    stages = {row["name"]: row["stage"] for row in json.loads(run("passes", "--json").out)["passes"]}
    assert (stages["narrow"], stages["bias-correction"]) == ("optimize", "repair")
    assert "Use: -p" not in run("passes", "bias-correction").out
    assert "--recover" in text[winning:]


def test_one_pass_is_documented(run: Run) -> None:
    ran = run("passes", "narrow")
    assert ran.status == 0 and ran.out.startswith("narrow\n")
    assert "align" in ran.out and '-p "narrow{' in ran.out
    record = json.loads(run("passes", "narrow", "--json").out)
    (described,) = record["passes"]
    assert described["name"] == "narrow" and "align" in [option["name"] for option in described["options"]]
    assert len(described["documentation"].splitlines()) > 1


def test_a_misspelt_pass(run: Run) -> None:
    ran = run("passes", "narow")
    assert ran.status == 2 and "did you mean narrow?" in ran.err and ran.out == ""


def test_targets(run: Run) -> None:
    record = json.loads(run("targets", "--json").out)
    assert [row["name"] for row in record["targets"]] == ["cpu", "cuda", "tensorrt", "portable"]
    for row in record["targets"]:
        types = row["quantize"]
        assert row["name"] in run("targets").out and types["weights"] and types["activations"]
    assert record["targets"][0]["quantize"]["activations"][0] == "uint8"
    assert {row["name"]: row["runs_here"] for row in record["targets"]}["cpu"] is True

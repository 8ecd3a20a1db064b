"""Models on which graphopt was wrong once, most of them found by random graphs and made small.

Each file of ``tests/regressions`` is a model in ONNX's notation. Its comments say what was wrong and how it was run:

* ``# pass NAME``: the pass that was run alone (the whole pipeline is always run, with both plans);
* ``# not finite``: without ``assume_finite``.

``python -m tests.test_regressions MODEL.onnx NAME 'what was wrong' [pass NAME] ['not finite']`` adds one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx.parser
import onnx.printer
import pytest

from graphopt import model as models
from graphopt import runtime
from graphopt.plan.classes import Kind
from tests.strategies import check
from tests.strategies.graphs import STATIC_BATCH, Graph
from tests.strategies.recipe import Recipe

FOLDER = Path(__file__).parent / "regressions"
FILES = sorted(FOLDER.glob("*.txt"))
PLANS: tuple[Kind, ...] = ("smallest", "fastest")


def comments(path: Path) -> list[str]:
    """What a file says about itself."""
    return [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]


def graph(path: Path) -> Graph:
    """The model of a file, and at which batches it can be run."""
    model = onnx.parser.parse_model(path.read_text(encoding="utf-8"))
    sizes = [dim for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    dynamic = any(dim.dim_param for dim in sizes)
    zero = dynamic and not runtime.fatal_on_empty(models.load(model))
    return Graph(Recipe(0, b"", ()), model, dynamic, zero)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_whole_pipeline(path: Path, plan: Kind) -> None:
    check.whole(graph(path), plan=plan, assume_finite="not finite" not in comments(path))


ALONE = [(path, line.split()[1]) for path in FILES for line in comments(path) if line.startswith("pass ")]


@pytest.mark.parametrize(("path", "name"), ALONE, ids=[f"{path.stem}-{name}" for path, name in ALONE])
def test_a_pass_alone(path: Path, name: str) -> None:
    check.one_pass(graph(path), name)


def test_a_model_that_is_wrong_is_noticed() -> None:
    """The comparison that every row relies on can fail."""
    one = graph(FILES[0])
    expected = check.Expected.of(one.model, [STATIC_BATCH])
    other = onnx.ModelProto()
    other.CopyFrom(one.model)
    last = next(node for node in other.graph.node if other.graph.output[0].name in node.output)
    position = list(last.output).index(other.graph.output[0].name)
    last.output[position] = "half"
    other.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], [other.graph.output[0].name]))
    with pytest.raises(check.DifferentError):
        expected.compare(other.SerializeToString(), "twice as much")


def add(source: str, name: str, *remarks: str) -> None:
    """Write a model file as a regression."""
    text = onnx.printer.to_text(onnx.load(source))
    head = "".join(f"# {remark}\n" for remark in remarks)
    (FOLDER / f"{name}.txt").write_text(head + "\n".join(line.rstrip() for line in text.splitlines()) + "\n", "utf-8")
    print(FOLDER / f"{name}.txt")


if __name__ == "__main__":
    add(*sys.argv[1:])

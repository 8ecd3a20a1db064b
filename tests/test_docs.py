"""What the documentation says is true: its code runs, its names exist, its tables are complete.

``python -m tests.test_docs`` writes ``docs/passes.md`` anew from the docstrings of the passes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer

import graphopt
from graphopt import registry
from graphopt.cli import main
from graphopt.cli.app import application
from graphopt.facts import rules
from graphopt.facts.stats import stats
from graphopt.quantization.tables import TABLES
from graphopt.report.quantized import Drawing, FidelityRow, NodeRow, QuantizeReport, TensorRow
from graphopt.report.schema import Report, plain
from tests.cli.test_quantize import images, two_convolutions
from tests.passes.models import chain

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[str]:
    """The Python code of a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def beside_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``model.onnx`` in it, a masked chain of convolutions, as the working directory."""
    model = chain()
    model.graph.node[0].name = "conv1"
    onnx.save(model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names() -> dict[str, Any]:
    """What the examples take for granted: a torch module with an example of its input."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    module = torch.nn.Sequential(torch.nn.Linear(3, 50), torch.nn.ReLU(), torch.nn.Linear(50, 2))
    prune = pytest.importorskip("torch.nn.utils.prune")
    prune.ln_structured(module[0], "weight", amount=0.5, n=1, dim=0)
    prune.ln_structured(module[2], "weight", amount=0.5, n=1, dim=1)
    return {"module": module, "example": torch.ones(2, 3)}


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_examples_run(name: str, beside_a_model: Path) -> None:
    found = blocks(ROOT / name)
    assert found
    space: dict[str, Any] = {}
    for block in found:
        space = names()
        exec(compile(block, name, "exec"), space)
        result = space["result"]
        assert result.report.after.parameters < result.report.before.parameters
        assert result.report.verify.passed
    assert stats(graphopt.load(beside_a_model / "smaller.onnx")) == space["result"].report.after


def test_examples_of_quantization_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(two_convolutions(), tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=images())
    found = blocks(ROOT / "docs/quantization.md")
    assert len(found) == 2
    for block in found:
        space: dict[str, Any] = {"images": images()}
        exec(compile(block, "docs/quantization.md", "exec"), space)
        assert space["result"].report.quantize.integer_nodes > 0
    said = capsys.readouterr().out
    assert re.search(r"\d+ operators on integers, \d+\.\d dB", said)
    assert list((tmp_path / "plots").glob("*.svg"))
    for name in ("model.int8.onnx", "small.int8.onnx"):
        graphopt.load(tmp_path / name)


def test_commands_of_quantization_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page but those about models of other kinds."""
    monkeypatch.chdir(tmp_path)
    onnx.save(two_convolutions(), tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=images())
    page = (ROOT / "docs/quantization.md").read_text(encoding="utf-8")
    commands = [line.partition(" #")[0].split()[1:] for line in page.splitlines() if line.startswith("graphopt ")]
    assert len(commands) == 5
    for command in commands:
        assert main([part.replace("decoder", "model") for part in command]) == 0
    assert {"model.int8.onnx", "small.int8.onnx", "model.int4.onnx"} < {path.name for path in tmp_path.iterdir()}


def test_examples_of_training_run(tmp_path: Path) -> None:
    """The family of the page learns, its zeros are held, and its recipe is one."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from graphopt.train import recipe

    page = ROOT / "docs/training.md"
    space: dict[str, Any] = {}
    family, loop, *methods = blocks(page)
    for block in (family, loop):
        exec(compile(block, "docs/training.md", "exec"), space)
    assert space["accuracy"] > 0.8 and space["zeros"] >= 0.5
    exported = space["FAMILY"].export(space["trainer"].net)
    for block in methods:
        exec(compile(block, "docs/training.md", "exec"), space)
    assert [value.name for value in (*exported.graph.inputs, *exported.graph.outputs)] == ["x", "y"]
    (written,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "recipe.yaml").write_text(written, encoding="utf-8")
    found = recipe.load(tmp_path / "recipe.yaml")
    assert found.family.name == "resnet_digits" and found.prune is not None and found.prune.retrain.epochs == 4


def test_tables_of_quantization_are_complete() -> None:
    page = (ROOT / "docs/quantization.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    targets = {row[0].strip("`"): [cell.strip("`") for cell in row[1:3]] for row in rows if row[0].strip("`") in TABLES}
    assert targets == {name: [table.activations[0], table.weights[0]] for name, table in TABLES.items()}
    winning = {name for name, kind in registry.passes().items() if registry.stage(kind) in ("smooth", "repair")}
    section = page.split("## Winning accuracy back")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == winning


def test_worked_examples_of_contributing_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass and the rule that CONTRIBUTING.md writes pass the tests that it writes for them."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    assert ("", "DFT") not in rules._RULES, "the example is about an operator without a rule: find another one"
    module = types.ModuleType("contributing")
    monkeypatch.setitem(sys.modules, "contributing", module)
    space = vars(module)
    ran = []
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        if "import" not in block:
            continue
        exec(compile("from __future__ import annotations\n" + block, "CONTRIBUTING.md", "exec"), space)
        for name in re.findall(r"^def (test_\w+)", block, re.MULTILINE):
            space[name]()
            ran.append(name)
    assert len(ran) == 5


def test_quoted_code_is_that_of_the_source() -> None:
    """Blocks without imports are excerpts: every line of them, ``...`` aside, is in the source, in that order."""
    sources = [path.read_text(encoding="utf-8") for room in ("graphopt", "passes", "tests") for path in _python(room)]
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        if "import" in block:
            continue
        lines = [line.strip() for line in block.splitlines() if line.strip() not in ("", "...")]
        assert any(_in_order(lines, source) for source in sources), block
    assert not _in_order(["second", "first"], "first\nsecond")


def _python(room: str) -> Iterator[Path]:
    yield from (path for path in (ROOT / room).rglob("*.py") if path.name != "test_docs.py")


def _in_order(lines: list[str], source: str) -> bool:
    rest = iter(line.strip() for line in source.splitlines())
    return all(line in rest for line in lines)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:graphopt|passes|tests|docs|models|runtime_ops)/[\w/.]*\.\w+)`", text):
        assert (ROOT / path).exists(), path
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as mkdocs writes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_modules_named_as_commands_exist() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m (tests[\w.]*)", page.read_text(encoding="utf-8")):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), f"{module} in {page.name}"


def test_folders_named_in_commands_exist() -> None:
    for page in PAGES:
        for folder in re.findall(r"pytest (tests/[\w/.]*)", page.read_text(encoding="utf-8")):
            assert (ROOT / folder).exists(), f"{folder} in {page.name}"


def test_every_page_and_decision_is_listed() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in nav, page
        if page.parent.name == "decisions" and page.name != "index.md":
            (title,) = re.findall(r"^# \d{4} (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            number = page.name[:4]
            assert f"| [{number}]({page.name}) | {title} |" in index, page
            assert f"- {number} {title}: decisions/{page.name}" in nav.replace('"', ""), page


def options() -> dict[str, set[str]]:
    """Every command with its options, as the command line itself has them."""
    command: Any = typer.main.get_command(application())
    found = {}
    for name, sub in command.commands.items():
        given = [parameter for parameter in sub.params if parameter.opts[0].startswith("-")]
        long = {max(parameter.opts, key=len) for parameter in given}
        long |= {other for parameter in given for other in parameter.secondary_opts}
        found[name] = {option for option in long if option != "--help"}
    return found


def test_every_option_is_documented_and_every_documented_option_exists() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    sections = {part.split()[0].rstrip(","): part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}
    sections["ops"] = sections["targets"] = sections["passes"]
    sections["quantize-train"] = sections["binarize"] = sections["prune"]
    known = options()
    assert known.keys() <= sections.keys()
    short = {"--output": "-o", "--passes": "-p"}
    for name, expected in known.items():
        mentioned = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", sections[name]))
        missing = {option for option in expected if option not in mentioned and short.get(option) not in mentioned}
        assert not missing, (name, missing)
        everywhere = set().union(*known.values()) | set(short.values())
        assert mentioned <= everywhere, (name, mentioned - everywhere)


def test_every_field_of_the_report_is_documented() -> None:
    whole, quantized = (ROOT / "docs/report.md").read_text(encoding="utf-8").split("\n## quantize\n")
    for text, fields in ((whole, Report().to_json()), (quantized, plain(QuantizeReport()))):
        rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert sorted(documented) == sorted(fields)
    for kind in (TensorRow, NodeRow, FidelityRow, Drawing):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in quantized, (kind.__name__, field.name)


def test_signatures_in_the_documentation_are_those_of_the_code() -> None:
    text = " ".join((ROOT / "docs/python.md").read_text(encoding="utf-8").split())
    found = re.findall(r"`(\w+)\(([^`]*)\)` (?:returns|takes|reads|writes|is)", text)
    assert {name for name, _ in found} >= {
        "optimize",
        "quantize",
        "export",
        "verify",
        "bench",
        "inspect",
        "explain",
        "load",
        "save",
    }
    for name, arguments in found:
        call = ast.parse(f"def f({arguments}): ...").body[0]
        assert isinstance(call, ast.FunctionDef)
        written = [a.arg for a in (*call.args.args, *call.args.kwonlyargs)]
        function = getattr(graphopt, name)
        # ``graphopt.verify`` and ``graphopt.bench`` are modules that can be called.
        real = inspect.signature(getattr(function, name, function)).parameters
        assert written == [key for key, one in real.items() if one.kind != one.VAR_POSITIONAL], name
        defaults = zip(call.args.kwonlyargs, call.args.kw_defaults, strict=True)
        for argument, default in defaults:
            if default is not None:
                assert ast.literal_eval(default) == real[argument.arg].default, f"{name}({argument.arg})"


# --- the page of the passes -------------------------------------------------------------------------------------------

BEGIN = "<!-- below: written by python -m tests.test_docs from the docstrings of the passes -->\n"


def passes_page() -> str:
    """``docs/passes.md`` as it should be: what was written by hand, then the passes in the order of the pipeline."""
    page = (ROOT / "docs/passes.md").read_text(encoding="utf-8")
    parts = [page.split(BEGIN)[0] + BEGIN]
    for name, cls in registry.passes().items():
        text = inspect.cleandoc(cls.__doc__ or "").replace("``", "`")
        text = re.sub(r"^Options:\n((?:    .*\n)+)", _option_list, text + "\n", flags=re.MULTILINE)
        parts.append(f"\n## {name}\n\n{text}")
    return "".join(parts)


def _option_list(match: re.Match[str]) -> str:
    lines = textwrap.dedent(match[1]).splitlines()
    return "Options:\n\n" + "".join(re.sub(r"^(\w+):", r"* `\1`:", line) + "\n" for line in lines)


def test_the_page_of_the_passes_is_fresh() -> None:
    written = (ROOT / "docs/passes.md").read_text(encoding="utf-8")
    assert written == passes_page(), "run python -m tests.test_docs"
    for name in registry.passes():
        assert f"\n## {name}\n" in written


if __name__ == "__main__":
    (ROOT / "docs/passes.md").write_text(passes_page(), encoding="utf-8")

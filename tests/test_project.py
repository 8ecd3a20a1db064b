"""The rules of the house, read from the source: who may import what, one version, links, no machine's own paths."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKS = ("passes", "runtime_ops", "models")


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One imported name, absolute and dotted; `from a import b` is `a.b`."""

    name: str
    line: int

    def within(self, *prefixes: str) -> bool:
        """True if the name is one of the prefixes or lies below one."""
        return any(self.name == prefix or self.name.startswith(prefix + ".") for prefix in prefixes)


def imports(source: str, module: str, *, package: bool = False) -> list[Import]:
    """Everything that `source` imports when it runs, inside functions too; imports for type checkers are left out."""
    found: list[Import] = []
    parents = module.split(".") if package else module.split(".")[:-1]

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.extend(Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def modules() -> Iterator[tuple[str, Path, list[Import]]]:
    """Every module of the package by dotted name, found through the links as an installation finds it."""
    for folder, _, files in os.walk(ROOT / "graphopt", followlinks=True):
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix == ".py":
                parts = path.relative_to(ROOT).with_suffix("").parts
                package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if package else parts)
                yield name, path, imports(path.read_text(encoding="utf-8"), name, package=package)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """The files under version control; skips where there is none (an unpacked source archive)."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


# --- who may import what ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """`forbidden` names may not be imported by modules for which `applies` holds."""

    why: str
    applies: Callable[[str], bool]
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...] = ()

    def broken_by(self, module: str, imported: list[Import]) -> list[Import]:
        if not self.applies(module):
            return []
        return [one for one in imported if one.within(*self.forbidden) and not one.within(*self.allowed)]


def _outside(*names: str) -> Callable[[str], bool]:
    return lambda module: not any(re.fullmatch(name, module) for name in names)


def _inside(*names: str) -> Callable[[str], bool]:
    return lambda module: any(re.fullmatch(name, module) for name in names)


def _house(*rooms: str) -> tuple[str, ...]:
    return tuple(f"graphopt.{room}" for room in rooms)


RULES = [
    Rule(
        "only model.py touches protobuf; schemas (onnx.defs) are not protobuf",
        _outside(r"graphopt\.model(_\w+)?"),
        ("onnx", "google.protobuf", "onnx_ir.serde"),
        ("onnx.defs",),
    ),
    Rule("only runtime.py calls onnxruntime", _outside(r"graphopt\.runtime"), ("onnxruntime",)),
    Rule(
        "torch is an extra: export, train and models only",
        _outside(r"graphopt\.(torch_)?export(\..*)?", r"graphopt\.train(\..*)?", r"graphopt\.models(\..*)?"),
        ("torch", "onnxscript", "sklearn"),
    ),
    Rule(
        "facts only know: they neither plan nor edit nor print",
        _inside(r"graphopt\.facts(\..*)?"),
        _house("plan", "rewrite", "passes", "pipeline", "registry", "verify", "bench", "runtime", "cli"),
    ),
    Rule(
        "a plan decides from facts and does not edit",
        _inside(r"graphopt\.plan(\..*)?"),
        _house("rewrite", "passes", "pipeline", "registry", "cli"),
    ),
    Rule(
        "edits do not know which pass asks for them",
        _inside(r"graphopt\.rewrite(\..*)?"),
        _house("passes", "pipeline", "registry", "cli"),
    ),
    Rule("a pass does not know the pipeline", _inside(r"graphopt\.passes(\..*)?"), _house("pipeline", "cli")),
    Rule(
        "calibration is about numbers: graphs are only run, and seen where a part of one is cut out",
        _inside(r"graphopt\.calibrate(\..*)?"),
        _house(
            "facts", "plan", "rewrite", "passes", "pipeline", "registry", "rounds", "context", "quantization", "cli"
        ),
        _house("facts.constants", "rewrite.unused"),
    ),
    Rule(
        "solvers, histograms and roundings see no graph at all",
        _inside(
            r"graphopt\.calibrate\.(accumulator|adaround|balance|clipping|density|discrete|entropy|gptq|grid|histogram|"
            r"minmax|moments|parameters|patches|percentile|rounding|rows|search|solve)"
        ),
        ("onnx_ir", *_house("model", "runtime", "samples", "datafiles")),
    ),
    Rule(
        "what optimizes knows nothing of quantization but its state",
        _outside(
            r"graphopt\.quantization(\..*)?",
            r"graphopt\.passes\.quantize(\..*)?",
            r"graphopt\.train\.quantize(\..*)?",
            r"graphopt\.cli(\..*)?",
            r"graphopt\.demo",
            r"graphopt\.pipeline",
            r"graphopt",
        ),
        _house("quantization"),
    ),
    Rule(
        "what optimizes and quantizes knows nothing of training",
        _outside(
            r"graphopt\.train(\..*)?",
            r"graphopt\.models(\..*)?",
            r"graphopt\.cli(\..*)?",
            r"graphopt\.demo",
        ),
        _house("train"),
    ),
    Rule(
        "what methods share does not know the methods, but for recipes and runs, which name them",
        _inside(
            r"graphopt\.train(\.(agreement|checkpoint|data|distributed|fake|family|fields|hooks|order|schedules|settings|"
            r"task|trainer))?"
        ),
        _house("train.prune", "train.quantize", "train.binary", "train.recipe", "train.run"),
    ),
    Rule("quantization does not know the commands", _inside(r"graphopt\.quantization(\..*)?"), _house("cli")),
    Rule(
        "nothing but the commands knows the commands",
        _outside(r"graphopt\.cli(\..*)?", r"graphopt\.__main__"),
        _house("cli"),
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=[rule.why for rule in RULES])
def test_imports_go_one_way(rule: Rule) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{one.line} imports {one.name}"
        for module, path, imported in modules()
        for one in rule.broken_by(module, imported)
    ]
    assert not broken, f"{rule.why}:\n" + "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "source", "breaks"),
    [
        ("graphopt.facts.walk", "import onnx", True),
        ("graphopt.facts.walk", "def f():\n    from onnx import helper", True),
        ("graphopt.facts.walk", "import onnx_ir as ir", False),
        ("graphopt.facts.walk", "from onnx import defs", False),
        ("graphopt.model", "import onnx", False),
        ("graphopt.models", "import onnx", True),
        ("graphopt.facts.walk", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx", False),
        ("graphopt.verify", "import onnxruntime as ort", True),
        ("graphopt.runtime", "import onnxruntime as ort", False),
        ("graphopt.pipeline", "import torch.nn", True),
        ("graphopt.models.resnet", "import torch.nn", False),
        ("graphopt.facts.ops.conv", "from ...rewrite import builder", True),
        ("graphopt.facts.ops.conv", "from ..rewrite import builder", False),  # graphopt.facts.rewrite: another module
        ("graphopt.facts.walk", "from graphopt import plan", True),
        ("graphopt.facts.walk", "from graphopt import planets", False),
        ("graphopt.plan.classes", "from graphopt.facts import walk", False),
        ("graphopt.rewrite.driver", "from graphopt.passes.tidy import Tidy", True),
        ("graphopt.pipeline", "from graphopt.passes.tidy import Tidy", False),
        ("graphopt.calibrate.collect", "from graphopt.context import Context", True),
        ("graphopt.calibrate.collect", "import onnx_ir as ir", False),
        ("graphopt.calibrate.gptq", "import onnx_ir as ir", True),
        ("graphopt.facts.walk", "from graphopt.quantization import steps", True),
        ("graphopt.pipeline", "from graphopt.quantization.pipeline import Way", False),
        ("graphopt.pipeline", "from graphopt.train.trainer import Trainer", True),
        ("graphopt.quantization.qdq", "from graphopt import train", True),
        ("graphopt.cli.training", "from graphopt.train import recipe", False),
        ("graphopt.models.mlp_digits.family", "from graphopt.train.family import Family", False),
        ("graphopt.train.trainer", "from graphopt.train.prune import prune", True),
        ("graphopt.train.run", "from graphopt.train.prune import prune", False),
    ],
)
def test_the_rules_see_what_they_should(module: str, source: str, breaks: bool) -> None:
    imported = imports(source, module)
    assert any(rule.broken_by(module, imported) for rule in RULES) == breaks


def test_help_is_light() -> None:
    """`--help` answers at once: none of the heavy packages is imported for it."""
    script = (
        "import sys; sys.argv = ['graphopt', '--help']\n"
        "from graphopt.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('HEAVY', *sorted({'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "optimize" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]


# --- what is installed ------------------------------------------------------------------------------------------------

# import name -> distribution name, where they differ
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "google": "protobuf"}


def _declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("-", "_") for requirement in requirements}


def test_every_import_is_declared() -> None:
    """`pip install .` brings what the package imports: a dependency is declared, or belongs to an extra."""
    table = project()["project"]
    own = {"dev", "docs", "peers"}  # for work on graphopt, not for its users
    extras = [one for name, needed in table["optional-dependencies"].items() if name not in own for one in needed]
    declared = _declared(table["dependencies"] + extras)
    ours = {"graphopt"}
    missing = {
        f"{path.relative_to(ROOT)}:{one.line} imports {one.name}"
        for _, path, imported in modules()
        for one in imported
        if (top := one.name.split(".")[0]) not in sys.stdlib_module_names
        and top not in ours
        and DISTRIBUTION.get(top, top).lower().replace("-", "_") not in declared
    }
    assert not missing, "not declared in pyproject.toml:\n" + "\n".join(sorted(missing))


def test_declared_reads_requirement_names() -> None:
    assert _declared(["onnx>=1.23", "pyright[nodejs]>=1", "scikit-learn"]) == {"onnx", "pyright", "scikit_learn"}


def test_torch_is_not_a_dependency() -> None:
    assert not _declared(project()["project"]["dependencies"]) & {"torch", "onnxscript", "scikit_learn"}


@pytest.mark.parametrize("name", LINKS)
def test_links_are_links(name: str) -> None:
    link = ROOT / "graphopt" / name
    assert link.is_symlink(), f"graphopt/{name} must be a committed symlink to ../{name}"
    assert os.readlink(link) == f"../{name}"
    assert link.is_dir()


def test_version_is_written_once() -> None:
    """pyproject.toml reads the version from graphopt/__init__.py; apart from there only the change log names it."""
    import graphopt

    version = graphopt.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    assert [one["input"] for one in project()["tool"]["dynamic-metadata"]] == ["graphopt/__init__.py"]
    assert project()["project"]["dynamic"] == ["version"]
    literal = re.compile(rf"""(?i)\b_*version_*\s*(:\s*str\s*)?=\s*["']{re.escape(version)}["']""")
    named = [path for path in tracked() if path.suffix in {".py", ".toml", ".txt"} and literal.search(_text(path))]
    assert [str(path.relative_to(ROOT)) for path in named] == ["graphopt/__init__.py"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- what is tracked --------------------------------------------------------------------------------------------------

# A folder of one person's machine at the start of a path, not the middle of an address or a relative path.
MACHINE_PATH = re.compile(r"(?<![\w.\-/*])/(?:work|root|home|Users|tmp|opt)/\w")


def _text(path: Path) -> str:
    """The text of a tracked file; empty for links, binary files and files deleted but not yet committed."""
    if path.is_symlink() or not path.is_file():
        return ""
    data = path.read_bytes()
    return "" if b"\0" in data[:4096] else data.decode("utf-8", errors="replace")


def test_no_paths_of_a_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path != Path(__file__).resolve()
        for number, line in enumerate(_text(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "paths that exist on one machine only:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_machine"),
    [
        ("open('/home/ann/model.onnx')", True),
        ("see /tmp/out.onnx", True),
        ("https://example.org/home/ann", False),
        ("../shared/work/x", False),
        ("/usr/bin/env bash", False),
    ],
)
def test_machine_paths_are_recognised(line: str, is_machine: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) == is_machine


def test_no_rooms_without_a_name() -> None:
    """A module called utils says nothing about what is in it."""
    vague = re.compile(r"(?i)(^|_)(utils?|helpers?|managers?|misc|common)$")
    assert not [str(path) for _, path, _ in modules() if vague.search(path.stem)]
    assert vague.search("shape_utils")
    assert not vague.search("utilization")


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make test")


def test_readme_begins_with_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:12]
    assert head[0] == "# graphopt"
    assert "make demo" in head
    assert "make test" in head


def test_license_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert project()["project"]["license"] == "Apache-2.0"

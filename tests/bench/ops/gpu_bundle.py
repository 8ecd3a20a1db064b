"""What a machine with a GPU lacks, gathered in one folder on a machine that has a network: ``make gpu-bundle``.

usage: python -m tests.bench.ops.gpu_bundle FOLDER --library FILE [--onnxruntime ARCHIVE] [--python 3.12] [--most MB]

In it: ``libgraphopt_ops.so`` with CUDA kernels, ``site/`` with the packages that are seldom there, ``networks/`` with
the networks of the check, optimized and quantized, and, if one is named, an archive of onnxruntime-gpu (its folder
``onnxruntime`` at the top), which is unpacked where it is used. The sources of the library are remembered: one that is
older than the tree is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.bench.ops.gpu_needs import ROOT, lower_bounds

CARRIED = ("onnx_ir", "onnx-shape-inference")
"""What machines with torch and onnx mostly lack, or have in an older version; they are Python alone."""

_SUFFIXES = {".cc", ".cu", ".h", ".inc"}
_LIBRARY, _ABOUT, _ARCHIVE = "libgraphopt_ops.so", "about.json", "onnxruntime.tar"


def compiled() -> list[Path]:
    """What the library is compiled from."""
    every = sorted((ROOT / "runtime_ops").rglob("*"))
    return [path for path in every if path.suffix in _SUFFIXES or path.name == "CMakeLists.txt"]


def sources() -> str:
    """A digest of what the library is compiled from."""
    digest = hashlib.sha256()
    for path in compiled():
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def enter(folder: Path) -> list[str]:
    """Let this process's children use a bundle: PYTHONPATH, GRAPHOPT_OPS_LIBRARY; return what is wrong with it."""
    folder = folder.resolve()
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{folder} is no bundle ({error}): make gpu-bundle makes one"]
    if about["sources"] != sources():
        return ["the library of the bundle is older than the sources: make gpu-bundle again"]
    paths = [str(folder / "site")]
    for archive in folder.glob(f"{_ARCHIVE}*"):
        unpacked = folder / "onnxruntime"
        if not unpacked.is_dir():
            new = folder / "onnxruntime.new"
            shutil.rmtree(new, ignore_errors=True)
            with tarfile.open(archive) as all_files:
                all_files.extractall(new, filter="data")
            new.rename(unpacked)
        paths.append(str(unpacked))
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [before])])
    os.environ["GRAPHOPT_OPS_LIBRARY"] = str(folder / _LIBRARY)
    return []


def travels(folder: Path) -> int:
    """Bytes of the tree (what git does not ignore) and the bundle."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    tree = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return sum(path.stat().st_size for path in (*tree, *folder.rglob("*")) if path.is_file())


def main(arguments: list[str]) -> int:
    """Make a bundle; 1 if it is too large."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ops.gpu_bundle")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--onnxruntime", type=Path, help="an archive of onnxruntime-gpu: .tar.xz, .tar.gz")
    parser.add_argument("--python", default="3.12", help="of the other machine")
    parser.add_argument("--most", type=float, default=60, help="MB that it and the tree may have together")
    asked = parser.parse_args(arguments)
    if asked.onnxruntime is not None and not asked.onnxruntime.is_file():
        print(f"gpu-bundle: there is no {asked.onnxruntime}", file=sys.stderr)
        return 1
    digest, built = sources(), asked.library.stat().st_mtime
    if newer := [path.name for path in compiled() if path.stat().st_mtime > built]:
        print(f"gpu-bundle: {', '.join(newer[:5])} changed while the library was built: again", file=sys.stderr)
        return 1
    from tests.bench.ops import gpu_network

    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    least = lower_bounds()
    wheels = [f"{one}>={least[one.replace('-', '_')]}" for one in CARRIED]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-compile",
         "--only-binary=:all:", "--python-version", asked.python, "--target", str(asked.folder / "site"), *wheels],
        check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"gpu-bundle: pip could not bring {', '.join(wheels)}", file=sys.stderr)
        return 1
    shutil.copy2(asked.library, asked.folder / _LIBRARY)
    if asked.onnxruntime is not None:
        suffix = asked.onnxruntime.name.split(".tar", 1)[-1]
        shutil.copyfile(asked.onnxruntime, asked.folder / f"{_ARCHIVE}{suffix}")
    for name in gpu_network.NAMES:
        print(f"{name}: optimized and quantized", flush=True)
        gpu_network.save(name, asked.folder)
    about = {"sources": digest, "python": asked.python, "packages": wheels}
    (asked.folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    size = travels(asked.folder) / 1e6
    print(f"{asked.folder}: with the tree {size:.1f} MB")
    if size > asked.most:
        print(f"gpu-bundle: that is more than {asked.most:g} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

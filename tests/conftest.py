"""What every test shares: one thread a process, hypothesis profiles, and the folder of shared data where it exists."""

from __future__ import annotations

import os

# Before numpy, torch or onnxruntime are imported anywhere: the tests run in several processes, and each is to use one
# core. These also make sums come out in the same order on every machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Test output is compared as text; a terminal's width and colours must not reach it.
os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("TERM", "dumb")
os.environ.setdefault("COLUMNS", "120")

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# Sessions in onnxruntime make single examples slow and uneven, so no deadline; what a test may cost is set by its
# number of examples and by pytest's timeout. 'default' draws the same examples on every run: a red run is red for
# everybody.
_shared = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("default", settings(**_shared), derandomize=True, max_examples=100, database=None)
settings.register_profile("long", settings(**_shared), max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Keeps torch, where a test has imported it, to one thread."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads") and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `../shared/data` (trained weights, CIFAR-10 images, text); without it the test is skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data beside the repository (trained weights, images, text), which is absent here")
    return folder

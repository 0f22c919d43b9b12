"""The tests of the GPU kernels run on a GPU where there is one, and else in Triton's interpreter (see `ops/conftest.py`)."""

import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

collect_ignore = ["sanitized.py"]  # a plugin for `make test-ttsem`, whose ttsem no other test needs


@pytest.fixture(autouse=True)
def _on_the_gpu():
    if not torch.cuda.is_available():
        yield
        return
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


def pytest_terminal_summary(terminalreporter):
    """Where FALLOFF_TEST_REPORT names a file: what ran and how it ended, for a machine that keeps nothing else."""
    path = os.environ.get("FALLOFF_TEST_REPORT")
    if path is None:
        return
    ended = {how: [report.nodeid for report in terminalreporter.stats.get(how, [])] for how in ("passed", "failed", "error")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "interpreter"
    counts = {how: len(names) for how, names in ended.items()}
    report = {"device": device, "torch": torch.__version__, **counts, "not_passed": ended["failed"] + ended["error"]}
    Path(path).write_text(json.dumps(report, indent=1) + "\n")

"""The notebook of examples/ runs from top to bottom, and shows what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[1] / "examples" / "tour.ipynb"
# In a process of its own, whose warnings are not falloff's. Over files, not over open ports.
EXECUTE = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, km=AsyncKernelManager(kernel_name="python3", transport="ipc"), timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""


def cells_of(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The outputs of each cell of code."""
    done = tmp_path_factory.mktemp("tour") / "done.ipynb"
    ran = subprocess.run(
        [sys.executable, "-c", EXECUTE, TOUR, done], cwd=done.parent, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [cell["outputs"] for cell in cells_of(done)]


def shown(output, kind):
    return "".join("".join(part["data"][kind]) for part in output if kind in part.get("data", {}))


def printed(output):
    return "".join("".join(part["text"]) for part in output if part.get("name") == "stdout")


def test_every_cell_shows_what_the_text_before_it_says(outputs):
    assert all(output for output in outputs)
    scheme, curves, properties, pairs, attended, form, own, wrong, exercise, fused = outputs
    assert "bucket 2: offsets 2-3" in shown(scheme, "text/html")
    assert len(shown(curves, "image/png")) > 10000
    assert "t5       monotone: False, reach: 113" in printed(properties)
    assert "The offset is the same, the bias is not" in printed(pairs)
    assert shown(attended, "text/plain") == "(torch.Size([1, 8, 256, 32]), torch.Size([32, 8]))"
    assert "<strong>Strip</strong>" in shown(form, "text/html")
    assert "-strength_h * ln(1 + |n|)" in shown(own, "text/html")
    assert "WrongCell(query=4, key=1, offset=3, found=1, expected=2)" in shown(wrong, "text/plain")
    assert "right=True" in shown(exercise, "text/plain")
    assert "fused: 6 T5Attention" in shown(fused, "text/html")


def test_it_is_stored_without_outputs():
    """They would change with every version of a library."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells_of(TOUR))

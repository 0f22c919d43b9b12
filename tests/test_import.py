import subprocess
import sys

import falloff

EXTRAS = ("typer", "rich", "matplotlib", "plotly", "accelerate", "safetensors", "datasets", "transformers", "jaxtyping")


def test_import_pulls_in_no_extra():
    code = f"import sys, falloff; print([name for name in {EXTRAS} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_exist():
    assert all(hasattr(falloff, name) for name in falloff.__all__)

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_traced_without_shape_checks():
    """torch.compile cannot trace jaxtyping's wrappers: traced.py runs in a process without them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name("traced.py")]
    environment = os.environ | {"FALLOFF_SHAPE_CHECKS": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]

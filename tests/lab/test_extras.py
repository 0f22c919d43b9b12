import subprocess
import sys

import pytest

from falloff.lab.extras import require


@pytest.mark.parametrize("module", ["accelerate", "safetensors.torch", "plotly.graph_objects", "rich.table"])
def test_missing_extras_say_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"is not installed: pip install 'falloff\[lab\]'"):
        require(module)


def test_configuring_a_run_loads_none_of_them():
    code = (
        "import sys, falloff.cli, falloff.cli.comparing, falloff.lab.config, falloff.lab.model, falloff.lab.text.corpus;"
        "print([name for name in ('accelerate', 'plotly', 'datasets', 'safetensors', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

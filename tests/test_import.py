import importlib
import pkgutil
import subprocess
import sys

import falloff

EXTRAS = (
    "typer",
    "rich",
    "matplotlib",
    "plotly",
    "accelerate",
    "safetensors",
    "datasets",
    "tokenizers",
    "transformers",
    "dash",
    "jaxtyping",
)


def test_import_pulls_in_no_extra():
    code = f"import sys, falloff; print([name for name in {EXTRAS} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_import_takes_no_compiler_of_torch():
    """`torch._dynamo` takes as long to import as the rest of torch."""
    code = "import sys, falloff; print('torch._dynamo' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_public_names_exist():
    assert all(hasattr(falloff, name) for name in falloff.__all__)


def test_every_module_is_importable_by_its_dotted_name():
    """No function or class takes the place of the module that holds it: `import a.b.c as c` reads attributes."""
    shadowed = []
    for module in pkgutil.walk_packages(falloff.__path__, "falloff."):
        if module.name.rpartition(".")[2].startswith("_") or ".kernels" in module.name or module.name == "falloff.bench.gpu":
            continue
        importlib.import_module(module.name)
        found = falloff
        for part in module.name.split(".")[1:]:
            found = getattr(found, part)
        if found is not sys.modules[module.name]:
            shadowed.append(module.name)
    assert shadowed == []

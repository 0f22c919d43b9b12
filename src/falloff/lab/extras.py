"""The lab's dependencies beyond falloff's own, imported where they are used."""

from importlib import import_module
from types import ModuleType

_EXTRAS = {
    "accelerate": "lab",
    "datasets": "datasets",
    "huggingface_hub": "datasets",
    "plotly": "lab",
    "ray": "ray",
    "rich": "lab",
    "safetensors": "lab",
    "scipy": "lab",
    "tokenizers": "tokenizers",
}


def require(module: str) -> ModuleType:
    """Import a module of an extra.

    Raises:
        ImportError: if it is missing, with the command that installs it.

    >>> require("rich.table").__name__
    'rich.table'
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is installed, but one of its own dependencies is not
        wanted = f"'falloff[{_EXTRAS[package]}]'" if package in _EXTRAS else package
        raise ImportError(f"{package} is not installed: pip install {wanted}") from None

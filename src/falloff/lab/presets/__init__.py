"""The presets of `falloff compare`, one file for each published protocol: a `Preset` in a file of this folder is found."""

import pkgutil
from importlib import import_module

from falloff.lab.presets.base import Paper, Preset

DEFAULT_PRESET = "small"


def _presets() -> dict[str, Preset]:
    """The presets in the files of this folder: those by size first."""
    modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    found = [preset for module in modules for preset in vars(module).values() if isinstance(preset, Preset)]
    return {preset.name: preset for preset in sorted(found, key=lambda preset: preset.paper is not None)}


PRESETS: dict[str, Preset] = _presets()
"""Every preset by its name on the command line."""


def paper_of(preset: str) -> Paper | None:
    """The paper whose protocol a preset is; None for a preset by size, and for a name that stands for none."""
    return PRESETS[preset].paper if preset in PRESETS else None


__all__ = ["DEFAULT_PRESET", "PRESETS", "Paper", "Preset", "paper_of"]

"""What config.json says of a comparison: everything that decides its numbers, and what a reader needs to judge them."""

import hashlib
from dataclasses import asdict
from typing import Any

import torch

from falloff import environment
from falloff.lab import processes
from falloff.lab.config import Settings
from falloff.lab.model import build_scheme
from falloff.lab.store.folder import FORMAT
from falloff.lab.store.results import MEASURES
from falloff.lab.tasks import Task
from falloff.lab.text.corpus import Text
from falloff.named import is_own, known_class, source_of
from falloff.schemes.settings import title_of

MODEL_NOTES = (
    "Pre-norm decoder with RMSNorm, GELU and an output head of its own (not tied to the embedding).",
    "One bias is shared by all layers, as in T5; scores are scaled by 1/sqrt(D), with disentangled by its own 1/sqrt(3 D).",
    "Initial weights and batches are the same for all schemes; a scheme's own parameters have another random stream.",
    "The scheme's own parameters learn at bias_learning_rate and without weight decay: in a run this short, a bias that "
    "starts near 0 would stay there at the model's rate.",
    "RoPE: base 10,000, no interpolation. None: no position at all.",
)
"""Facts that a reader needs to judge the numbers."""


def scheme_notes(settings: Settings) -> list[str]:
    """The schemes with their settings, as a note for the report.

    Raises:
        ValueError: for a scheme that cannot be made, or whose code has not run: see `build_scheme`.
    """
    with torch.random.fork_rng(devices=[]):
        sizes = (settings.heads, settings.train_length, settings.width // settings.heads)
        made = {name: build_scheme(name, *sizes) for name in settings.schemes}
    titles = {name: title_of(scheme) for name, scheme in made.items() if scheme is not None}
    return ["; ".join(f"{name}: {title}" if is_own(name) else title for name, title in titles.items())] if titles else []


def code_of(schemes: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 of the file of each scheme of the user's own."""
    files = {name: source_of(known_class(name)) for name in schemes if is_own(name)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file is not None}


def describe(settings: Settings, text: Text | None, tasks: dict[str, Task], notes: list[str]) -> dict[str, Any]:
    """The content of config.json."""
    code = code_of(settings.schemes)
    return {
        "format": FORMAT,
        "settings": settings.to_json(),
        "lengths": list(settings.lengths),
        "tail": settings.tail,
        "tasks": {
            name: {
                "summary": task.summary,
                "needs_text": task.needs_text,
                "vocabulary": task.vocabulary,
                "measures": [asdict(measure) for measure in task.measures],
                "chance": [task.chance(length) for length in settings.lengths],
            }
            for name, task in tasks.items()
        },
        "text": None if text is None else text.describe(),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "machine": environment.machine(settings.device) | {"processes": processes.count()},
        "model": [*MODEL_NOTES, *notes],
        "measures": MEASURES,
    } | ({"code": code} if code else {})

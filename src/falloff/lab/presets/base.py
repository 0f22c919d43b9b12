"""What a preset is: the settings that `Settings.of_preset` starts from, and where those of a published protocol stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """A published protocol.

    Args:
        reference: authors, year, title, arXiv number.
        sources: for each setting that a source states, where it stands.
        chosen: for each other setting of the preset, what is known of it and why it was chosen so.
        differs: what falloff's model, training and test do otherwise.
        text: what the paper trained and tested on, in words.
        tokens: its tokenizer, in words.
        vocabulary: of that tokenizer, for a plan without one.
    """

    reference: str
    sources: Mapping[str, str]
    chosen: Mapping[str, str]
    differs: tuple[str, ...]
    text: str
    tokens: str
    vocabulary: int


@dataclass(frozen=True)
class Preset:
    """Settings with a name.

    Args:
        name: on the command line.
        summary: one sentence for help.
        settings: of `falloff.lab.config.Settings`, by name.
        needs_gpu: whether it would take weeks on a CPU.
        paper: the published protocol, if it is one.
    """

    name: str
    summary: str
    settings: Mapping[str, Any]
    needs_gpu: bool = False
    paper: Paper | None = None

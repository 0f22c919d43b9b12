"""The text that models are trained and tested on: tokens, split into a train and a held-out part."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from falloff.lab.config import Settings
from falloff.lab.text.dataset_text import DatasetText
from falloff.lab.text.file_text import HELD_OUT_SHARE, FileText
from falloff.lab.text.text_cache import CachedTokens
from falloff.lab.text.text_files import files_of, standard_library
from falloff.lab.text.token_file import Contents, Tokens, open_tokens, text_sha256
from falloff.lab.text.tokenizing import Tokenizer, tokenizer_of

IN_MEMORY = 128_000_000
"""A text of bytes stays in memory up to this size; a longer one, and one with a tokenizer, is in a file of the cache."""


@dataclass(frozen=True)
class Text:
    """The text of a run.

    Args:
        train, held_out: token ids; files follow one another without anything in between. Arrays, or files mapped to memory.
        source: where it comes from, in words.
        contents: how it was split, how much was read, and what was left out.
        sha256: of the tokens of both parts, and of the tokenizer.
        vocabulary: the number of token ids.
        unit: what a token is called: "byte" or "token".
        tokenizer_sha256: of the tokenizer's file; None for bytes.
    """

    train: Tokens
    held_out: Tokens
    source: str
    contents: Contents
    sha256: str
    vocabulary: int = 256
    unit: str = "byte"
    tokenizer_sha256: str | None = None

    @property
    def split(self) -> str:
        """How it was split, in words."""
        return self.contents.split

    @property
    def files(self) -> int:
        """The number of files or rows that were read."""
        return self.contents.files

    @property
    def complete(self) -> bool:
        """False if the limit cut it short."""
        return self.contents.complete

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was left out, one line for each reason."""
        return self.contents.left_out

    @property
    def bytes_per_token(self) -> float:
        """Of the held-out part: a loss per token, divided by it, is one per byte."""
        return self.contents.held_out_bytes / max(len(self.held_out), 1)

    def describe(self) -> dict[str, Any]:
        """As stored in config.json: all but the tokens, with their hash."""
        return {
            "source": self.source,
            "split": self.split,
            "files": self.files,
            "complete": self.complete,
            "left_out": list(self.left_out),
            "bytes": self.contents.train_bytes + self.contents.held_out_bytes,
            "train_bytes": self.contents.train_bytes,
            "held_out_bytes": self.contents.held_out_bytes,
            "unit": self.unit,
            "vocabulary": self.vocabulary,
            "train_tokens": len(self.train),
            "held_out_tokens": len(self.held_out),
            "bytes_per_token": self.bytes_per_token,
            "tokenizer_sha256": self.tokenizer_sha256,
            "sha256": self.sha256,
        }


def read_text(settings: Settings, note: Callable[[str], None] = lambda line: None) -> Text:
    """Read the text that the settings name, split it, and make tokens of it.

    Args:
        settings: which text, and which tokenizer.
        note: called with a line before tokens of a long text are made.

    Raises:
        ValueError: for text that is missing, not readable, binary, or too short for the longest test length; for a file that
            is no tokenizer.
        ImportError: for a dataset or a tokenizer, if its extra is not installed.
        OSError: if the tokens cannot be written to the cache, naming the file.
    """
    tokenizer = tokenizer_of(settings.tokenizer)
    found, source = _source_of(settings, tokenizer)
    if tokenizer.sha256 is None and found.most_bytes <= IN_MEMORY:
        parts, contents, digest = _in_memory(found, tokenizer)
    else:
        parts, contents, digest = _in_cache(found, source, tokenizer, note)
    text = Text(*parts, source, contents, digest, tokenizer.vocabulary, tokenizer.unit, tokenizer.sha256)
    check_length(text, settings)
    return text


def _source_of(settings: Settings, tokenizer: Tokenizer) -> tuple[FileText | DatasetText, str]:
    """Where the text comes from, also in words."""
    if settings.dataset is not None:
        return DatasetText(settings.dataset, settings.text_limit), f"dataset {settings.dataset}"
    files = files_of([Path(path) for path in settings.text]) if settings.text else standard_library()
    source = ", ".join(settings.text) if settings.text else "source of Python's standard library"
    return FileText(files, settings.text_limit, characters=tokenizer.sha256 is not None), source


def _in_memory(found: FileText | DatasetText, tokenizer: Tokenizer) -> tuple[tuple[Tokens, Tokens], Contents, str]:
    file = BytesIO()
    contents = found.write(tokenizer, file)
    digest = text_sha256(file, contents, 1, tokenizer.sha256)
    tokens = np.frombuffer(file.getbuffer(), np.uint8)
    tokens.flags.writeable = False
    return (tokens[slice(*contents.train)], tokens[slice(*contents.held_out)]), contents, digest


def _in_cache(
    found: FileText | DatasetText, source: str, tokenizer: Tokenizer, note: Callable[[str], None]
) -> tuple[tuple[Tokens, Tokens], Contents, str]:
    identity = found.identity()
    # Of an unknown content, two texts that are read at once must not be in one file: one would open what the other wrote.
    key = [source, found.most_bytes] if identity is None else identity
    cached = CachedTokens([type(found).__name__, key], tokenizer)

    def write(tokenizer: Tokenizer, file: BufferedIOBase) -> Contents:
        if found.most_bytes > IN_MEMORY:
            note(f"making tokens of up to {found.most_bytes:,} bytes of text, kept in {cached.folder}")
        return found.write(tokenizer, file)

    contents, digest = cached.get(write, reuse=identity is not None)
    train, held_out = (open_tokens(cached.path, tokenizer.dtype, *part) for part in (contents.train, contents.held_out))
    return (train, held_out), contents, digest


def check_length(text: Text, settings: Settings) -> None:
    """Raise ValueError if the train or held-out part is too short for the longest test length."""
    needed = settings.least_tokens
    if min(len(text.train), len(text.held_out)) >= needed:
        return
    argument = "text" if settings.dataset is None else "dataset"
    total = len(text.train) + len(text.held_out)
    raise ValueError(
        f"{argument}: got {total:,} {text.unit}s, of them {len(text.train):,} to train on and {len(text.held_out):,} held "
        f"out ({text.split}); expected at least {needed:,} in each part to test at length {max(settings.lengths):,}: give a "
        f"smaller train_length than {settings.train_length}, or more text (about {int(needed / HELD_OUT_SHARE):,} "
        f"{text.unit}s)"
    )

"""The text that models are trained and tested on: bytes as tokens, split into a train and a held-out part."""

import hashlib
import os
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from falloff.lab.config import Settings
from falloff.lab.dataset_text import read_dataset

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

HELD_OUT_SHARE = 0.1
_LEAST_FILES = 20
"""Below so many files a split by file could leave either part with next to nothing."""
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class Text:
    """The text of a run.

    Args:
        train, held_out: bytes; files follow one another without anything in between.
        source: where it comes from, in words.
        split: how it was split, in words.
        files: how many files or rows were read.
        complete: False where the limit of what is read cut it short.
    """

    train: Bytes
    held_out: Bytes
    source: str
    split: str
    files: int
    complete: bool

    def describe(self) -> dict[str, Any]:
        """As stored in config.json: all but the bytes, and their hash."""
        digest = hashlib.sha256(self.train.tobytes())
        digest.update(b"held out")
        digest.update(self.held_out.tobytes())
        return {
            "source": self.source,
            "split": self.split,
            "files": self.files,
            "complete": self.complete,
            "bytes": len(self.train) + len(self.held_out),
            "train_bytes": len(self.train),
            "held_out_bytes": len(self.held_out),
            "sha256": digest.hexdigest(),
        }


def read_text(settings: Settings) -> Text:
    """Read the text that the settings name, and split it.

    Raises:
        ValueError: for text that is missing, not readable, or too short for the longest test length.
        ImportError: for a dataset where the extra `datasets` is not installed.
    """
    if settings.dataset is not None:
        train, held_out, complete = read_dataset(settings.dataset, settings.text_limit)
        split = "the dataset's own held-out split"
        if held_out is None:
            train, held_out = _split_rows(train)
            split = "by position, the last tenth of the rows held out"
        rows = len(train) + len(held_out)
        text = Text(_joined(train), _joined(held_out), f"dataset {settings.dataset}", split, rows, complete)
    elif settings.text:
        text = _split_files(_files_of([Path(path) for path in settings.text]), ", ".join(settings.text), settings.text_limit)
    else:
        root = Path(sysconfig.get_path("stdlib"))
        files = [(path, name) for path, name in _walk(root, _LEFT_OUT) if name.endswith(".py")]
        text = _split_files(files, "source of Python's standard library", settings.text_limit)
    check_length(text, settings)
    return text


def check_length(text: Text, settings: Settings) -> None:
    """Refuse a text whose train or held-out part is too short for the longest test length."""
    needed = settings.least_bytes
    if min(len(text.train), len(text.held_out)) >= needed:
        return
    argument = "text" if settings.dataset is None else "dataset"
    total = len(text.train) + len(text.held_out)
    raise ValueError(
        f"{argument}: got {total:,} bytes, of them {len(text.train):,} to train on and {len(text.held_out):,} held out "
        f"({text.split}); expected at least {needed:,} in each part to test at length {max(settings.lengths):,}: give a "
        f"smaller train_length than {settings.train_length}, or more text (about {int(needed / HELD_OUT_SHARE):,} bytes)"
    )


def _walk(root: Path, left_out: frozenset[str]) -> Iterable[tuple[Path, str]]:
    """All regular files below a folder with their relative names, sorted; hidden folders are left out."""
    names = []

    def refuse(error: OSError) -> None:
        raise ValueError(f"text: got {error.filename}, expected a readable folder: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    return ((root / name, name) for name in sorted(names) if (root / name).is_file())


def _files_of(paths: list[Path]) -> list[tuple[Path, str]]:
    """The files that paths name, each with the name that decides on which side of the split it falls."""
    found: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_dir():
            inside = list(_walk(path, frozenset({"__pycache__"})))
            if not inside:
                raise ValueError(f"text: got {path}, a folder without files, expected files or folders with text")
            found += inside
        elif path.is_file():
            found.append((path, path.name))
        else:
            state = "which is neither a file nor a folder" if path.exists() else "which does not exist"
            raise ValueError(f"text: got {path}, {state}, expected readable files or folders")
    if len({path.resolve() for path, _ in found}) < len(found):
        raise ValueError("text: got the same file twice, expected each once: it could be on both sides of the split")
    return found


def _split_files(files: list[tuple[Path, str]], source: str, limit: int) -> Text:
    by_file = len(files) >= _LEAST_FILES
    train: list[bytes] = []
    held_out: list[bytes] = []
    left, read = limit, 0
    for path, name in files:
        if left <= 0:
            break
        content = _content(path, left)
        if b"\0" in content[:8192] and len(files) > 1:
            continue  # a binary file among others
        left -= len(content)
        read += 1
        if by_file:
            (held_out if _falls(name) < HELD_OUT_SHARE else train).append(content)
        else:
            cut = len(content) - int(len(content) * HELD_OUT_SHARE)
            train.append(content[:cut])
            held_out.append(content[cut:])
    split = "by file, about a tenth held out by the hash of its name"
    if not by_file:
        split = f"by position, the last tenth of {'the file' if len(files) == 1 else 'each file'} held out"
    return Text(_joined(train), _joined(held_out), source, split, read, left > 0)


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ValueError(f"text: got {path}, expected a readable file: {error.strerror}") from None


def _falls(name: str) -> float:
    """A number from 0 to 1 that depends on the name alone, so that a file keeps its side whatever else is there."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8]) / 2**64


def _split_rows(rows: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    cut = len(rows) - max(int(len(rows) * HELD_OUT_SHARE), 1)
    return rows[:cut], rows[cut:]


def _joined(parts: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(parts), dtype=np.uint8)

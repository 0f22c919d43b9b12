"""The text that models are trained and tested on: its tokens are bytes, split into a train and a held-out part."""

import hashlib
import os
import re
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
"""With fewer files, a split by file could leave one part almost empty."""
_REPEATED = 64
"""Rows up to this many bytes repeat by chance, and may be on both sides of the split."""
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


_COMPRESSED = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
}
"""The first bytes of compressed files: a short one may contain no NUL."""


@dataclass(frozen=True)
class Text:
    """The text of a run.

    Args:
        train, held_out: bytes; files follow one another without anything in between.
        source: where it comes from, in words.
        split: how it was split, in words.
        files: the number of files or rows that were read.
        complete: False if the limit cut it short.
        left_out: what was left out, one line for each reason.
    """

    train: Bytes
    held_out: Bytes
    source: str
    split: str
    files: int
    complete: bool
    left_out: tuple[str, ...] = ()
    vocabulary: int = 256
    unit: str = "byte"

    def describe(self) -> dict[str, Any]:
        """As stored in config.json: all but the bytes, with their hash."""
        digest = hashlib.sha256(self.train.tobytes())
        digest.update(b"held out")
        digest.update(self.held_out.tobytes())
        return {
            "source": self.source,
            "split": self.split,
            "files": self.files,
            "complete": self.complete,
            "left_out": list(self.left_out),
            "bytes": len(self.train) + len(self.held_out),
            "train_bytes": len(self.train),
            "held_out_bytes": len(self.held_out),
            "sha256": digest.hexdigest(),
        }


def read_text(settings: Settings) -> Text:
    """Read the text that the settings name, and split it.

    Raises:
        ValueError: for text that is missing, not readable, binary, or too short for the longest test length.
        ImportError: for a dataset, if the extra `datasets` is not installed.
    """
    if settings.dataset is not None:
        train, held_out, complete = read_dataset(settings.dataset, settings.text_limit)
        split = "the dataset's own held-out split"
        if held_out is None:
            train, held_out = _split_rows(train)
            split = "by position, the last tenth of the rows held out"
        for rows in (train, held_out):
            if (kind := _binary(b"".join(rows[:1000]))) is not None:
                raise ValueError(f"dataset: got {settings.dataset!r} with {kind} in its rows, expected text")
        train, left_out = _without_held_out(train, held_out)
        source, count = f"dataset {settings.dataset}", len(train) + len(held_out)
        text = Text(_joined(train), _joined(held_out), source, split, count, complete, left_out)
    elif settings.text:
        text = _split_files(_files_of([Path(path) for path in settings.text]), ", ".join(settings.text), settings.text_limit)
    else:
        root = Path(sysconfig.get_path("stdlib"))
        files = [_File(path, name) for path, name in _walk(root, _LEFT_OUT) if name.endswith(".py")]
        text = _split_files(files, "source of Python's standard library", settings.text_limit)
    check_length(text, settings)
    return text


def check_length(text: Text, settings: Settings) -> None:
    """Raise ValueError if the train or held-out part is too short for the longest test length."""
    needed = settings.least_tokens
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
    """All regular files below a folder with their relative names, sorted; without hidden files and folders."""
    names = []

    def refuse(error: OSError) -> None:
        raise ValueError(f"text: got {error.filename}, expected a readable folder: {error.strerror}")

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        names += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
    return ((root / name, name) for name in sorted(names) if (root / name).is_file())


@dataclass(frozen=True)
class _File:
    """A file to read. Its name decides its side of the split. `asked`: whether the user gave this path itself."""

    path: Path
    name: str
    asked: bool = False


def _files_of(paths: list[Path]) -> list[_File]:
    """The files that paths name."""
    found: list[_File] = []
    for path in paths:
        if path.is_dir():
            inside = [_File(*entry) for entry in _walk(path, frozenset({"__pycache__"}))]
            if not inside:
                raise ValueError(f"text: got {path}, a folder without files, expected files or folders with text")
            found += inside
        elif path.is_file():
            found.append(_File(path, path.name, asked=True))
        else:
            state = "which is neither a file nor a folder" if path.exists() else "which does not exist"
            raise ValueError(f"text: got {path}, {state}, expected readable files or folders")
    if len({file.path.resolve() for file in found}) < len(found):
        raise ValueError("text: got the same file twice, expected each once: it could be on both sides of the split")
    return found


def _split_files(files: list[_File], source: str, limit: int) -> Text:
    by_file = len(files) >= _LEAST_FILES
    sides: tuple[list[bytes], list[bytes]] = ([], [])  # train, held out
    first: dict[bytes, tuple[str, bool]] = {}  # by content: the first file that has it, and its side
    whole: list[bytes] = []
    binary: list[str] = []
    copies: list[str] = []
    left, read = limit, 0
    for file in files:
        if left <= 0:
            break
        content = _content(file.path, left)
        kind = _binary(content)
        if kind is not None:
            if file.asked or len(files) == 1:
                raise ValueError(f"text: got {file.path}, {kind}, expected a file of text")
            binary.append(f"{file.name} ({kind})")
            continue
        if content and len(content) == left and any(before.startswith(content) for before in whole):
            copies.append(f"{file.name} (its beginning, up to the limit)")
            continue
        whole.append(content)
        if by_file:
            held_out = _hash_fraction(file.name) < HELD_OUT_SHARE
            original, side = first.setdefault(hashlib.sha256(content).digest(), (file.name, held_out))
            if content and side != held_out:
                copies.append(f"{file.name} (as {original})")
                continue
            sides[held_out].append(content)
        else:
            cut = len(content) - int(len(content) * HELD_OUT_SHARE)
            sides[0].append(content[:cut])
            sides[1].append(content[cut:])
        left -= len(content)
        read += 1
    split = "by file, about a tenth held out by the hash of its name"
    if not by_file:
        split = f"by position, the last tenth of {'the file' if len(files) == 1 else 'each file'} held out"
    left_out = (*_counted(binary, "binary"), *_counted(copies, "identical to one on the other side of the split"))
    return Text(_joined(sides[0]), _joined(sides[1]), source, split, read, left > 0, left_out)


def _counted(names: list[str], what: str) -> tuple[str, ...]:
    """A line on how many files were left out and why, with the first three names; no line for no files.

    >>> _counted(["a", "b", "c", "d"], "binary")
    ('4 files are binary and left out: a, b, c, ...',)
    """
    if not names:
        return ()
    count = "1 file is" if len(names) == 1 else f"{len(names)} files are"
    return (f"{count} {what} and left out: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",)


def _binary(content: bytes) -> str | None:
    """The kind of a content that is not text, from its first bytes; None for text in any encoding without NUL."""
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", content):  # a text may begin with "BZh"
        return "a bzip2 file"
    for mark, kind in _COMPRESSED.items():
        if content.startswith(mark):
            return kind
    return "a binary file (it has NUL bytes)" if b"\0" in content[:8192] else None


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ValueError(f"text: got {path}, expected a readable file: {error.strerror}") from None


def _hash_fraction(name: str) -> float:
    """A hash of the name, from 0 to 1: it decides a file's side of the split, whatever other files there are."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8]) / 2**64


def _without_held_out(train: list[bytes], held_out: list[bytes]) -> tuple[list[bytes], tuple[str, ...]]:
    """The train rows without those that are held out too. Short rows stay: they repeat by chance."""
    tested = {row for row in held_out if len(row) > _REPEATED}
    kept = [row for row in train if row not in tested]
    count = len(train) - len(kept)
    if not count:
        return train, ()
    rows = "1 row of the train split is" if count == 1 else f"{count:,} rows of the train split are"
    return kept, (f"{rows} held out too, and left out of the training",)


def _split_rows(rows: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    cut = len(rows) - max(int(len(rows) * HELD_OUT_SHARE), 1)
    return rows[:cut], rows[cut:]


def _joined(parts: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(parts), dtype=np.uint8)

"""Text from files: looked through once to split it, then read again piece by piece to make tokens of it."""

import codecs
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from falloff.lab.text.binary import SEEN, binary_kind
from falloff.lab.text.pieces import PIECE, character_start, pieces_of
from falloff.lab.text.text_files import TextFile, hash_fraction
from falloff.lab.text.token_file import Contents
from falloff.lab.text.tokenizing import Tokenizer

HELD_OUT_SHARE = 0.1
_LEAST_FILES = 20
"""With fewer files, a split by file could leave one part almost empty."""


@dataclass(frozen=True)
class _Part:
    """The bytes of a file from `start` to `stop`, and their hash when the text was looked through."""

    path: Path
    start: int
    stop: int
    sha256: bytes


class FileText:
    """The text of some files, split into a train and a held-out part.

    With many files, each is on one side as a whole; with few, the last tenth of each is held out. A file that has the same
    content as one on the other side is left out.

    Args:
        files: in the order in which they follow one another.
        limit: the most bytes to take; None for all.
        characters: whether no character of UTF-8 is cut in two, as a tokenizer needs it.

    Raises:
        ValueError: for a file that cannot be read, or that the user named and that is no text.
    """

    def __init__(self, files: list[TextFile], limit: int | None, *, characters: bool) -> None:
        self._characters = characters
        self._train: list[_Part] = []
        self._held_out: list[_Part] = []
        self._binary: list[str] = []
        self._copies: list[str] = []
        self._no_utf8: list[str] = []
        by_file = len(files) >= _LEAST_FILES
        first: dict[bytes, tuple[str, bool]] = {}  # by content: the first file that has it, and its side
        whole: list[tuple[Path, int]] = []
        left = sys.maxsize if limit is None else limit
        self._files = 0
        for file in files:
            if left <= 0:
                break
            with _reading(file.path) as opened:
                size = min(os.fstat(opened.fileno()).st_size, left)
                kind = binary_kind(opened.read(min(SEEN, size)))
            if kind is not None:
                if file.asked or len(files) == 1:
                    raise ValueError(f"text: got {file.path}, {kind}, expected a file of text")
                self._binary.append(f"{file.name} ({kind})")
                continue
            if 0 < size == left and any(before >= size and _same(path, file.path, size) for path, before in whole):
                self._copies.append(f"{file.name} (its beginning, up to the limit)")
                continue
            whole.append((file.path, size))
            stop = self._cut(file.path, size)
            if by_file:
                held_out = hash_fraction(file.name) < HELD_OUT_SHARE
                part = self._part(file, 0, stop)
                original, side = first.setdefault(part.sha256, (file.name, held_out))
                if stop and side != held_out:
                    self._copies.append(f"{file.name} (as {original})")
                    continue
                (self._held_out if held_out else self._train).append(part)
            else:
                middle = self._cut(file.path, stop - int(stop * HELD_OUT_SHARE))
                self._train.append(self._part(file, 0, middle))
                self._held_out.append(self._part(file, middle, stop))
            left -= size
            self._files += 1
        self._complete = left > 0
        self._split = "by file, about a tenth held out by the hash of its name"
        if not by_file:
            self._split = f"by position, the last tenth of {'the file' if len(files) == 1 else 'each file'} held out"

    @property
    def most_bytes(self) -> int:
        """The bytes of text."""
        return _size(self._train) + _size(self._held_out)

    def identity(self) -> list[Any]:
        """What decides the tokens, beside the tokenizer: the content of the files."""
        sides = [[(part.sha256.hex(), part.stop - part.start) for part in side] for side in (self._train, self._held_out)]
        return [*sides, self._split, self._files, self._complete, self._left_out()]

    def write(self, tokenizer: Tokenizer, file: BufferedIOBase) -> Contents:
        """Write the tokens: the train part, then the held-out part.

        Raises:
            ValueError: for a file that cannot be read any more, or that has changed.
        """
        counts = [_write(file, tokenizer, side) for side in (self._train, self._held_out)]
        return Contents(
            (0, counts[0]),
            (counts[0], sum(counts)),
            _size(self._train),
            _size(self._held_out),
            self._split,
            self._files,
            self._complete,
            self._left_out(),
        )

    def _cut(self, path: Path, position: int) -> int:
        """A position to cut the file at: this one, or the start of the character there."""
        if not self._characters:
            return position
        with _reading(path) as file:
            before = max(position - 3, 0)
            file.seek(before)
            return before + character_start(file.read(4), position - before)

    def _part(self, file: TextFile, start: int, stop: int) -> _Part:
        digest = hashlib.sha256()
        decoder = codecs.getincrementaldecoder("utf-8")()
        decodes = self._characters
        for chunk in _chunks(file.path, start, stop):
            digest.update(chunk)
            decodes = decodes and _decodes(decoder, chunk)
        if self._characters and not (decodes and _decodes(decoder, b"", final=True)) and file.name not in self._no_utf8:
            self._no_utf8.append(file.name)
        return _Part(file.path, start, stop, digest.digest())

    def _left_out(self) -> tuple[str, ...]:
        return (
            *_counted(self._binary, "binary and left out"),
            *_counted(self._copies, "identical to one on the other side of the split and left out"),
            *_counted(self._no_utf8, "no UTF-8 and read with U+FFFD for what is none"),
        )


def _write(file: BufferedIOBase, tokenizer: Tokenizer, parts: list[_Part]) -> int:
    """Write the tokens of parts of files. Returns their number."""
    count = 0
    for tokens in tokenizer.encode(piece for part in parts for piece in pieces_of(_unchanged(part))):
        file.write(tokens.data)
        count += len(tokens)
    return count


def _unchanged(part: _Part) -> Iterator[bytes]:
    """The content of a part, which must be the one that decided the split."""
    digest = hashlib.sha256()
    for chunk in _chunks(part.path, part.start, part.stop):
        digest.update(chunk)
        yield chunk
    if digest.digest() != part.sha256:
        raise ValueError(f"text: got {part.path}, which has changed while it was read, expected one that stays as it is")


def _chunks(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with _reading(path) as file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(stop - start, PIECE))):
            start += len(chunk)
            yield chunk


@contextmanager
def _reading(path: Path) -> Iterator[BufferedIOBase]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"text: got {path}, expected a readable file: {error.strerror}") from None


def _same(path: Path, other: Path, size: int) -> bool:
    """Whether two files have the same first bytes."""
    return all(mine == theirs for mine, theirs in zip(_chunks(path, 0, size), _chunks(other, 0, size), strict=True))


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _size(parts: Iterable[_Part]) -> int:
    return sum(part.stop - part.start for part in parts)


def _counted(names: list[str], what: str) -> tuple[str, ...]:
    """A line on how many files are so, with the first three names; no line for no files.

    >>> _counted(["a", "b", "c", "d"], "binary and left out")
    ('4 files are binary and left out: a, b, c, ...',)
    """
    if not names:
        return ()
    count = "1 file is" if len(names) == 1 else f"{len(names)} files are"
    return (f"{count} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",)

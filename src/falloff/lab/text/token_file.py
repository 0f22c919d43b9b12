"""A file of tokens: what lies where in it, its hash, and its tokens as an array that is read from disk where it is used."""

import hashlib
from dataclasses import asdict, dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

Tokens = np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]
"""Token ids: uint8 for bytes; with a tokenizer the smallest of uint8, uint16 and uint32 that holds its vocabulary."""

_READ = 2**20


@dataclass(frozen=True)
class Contents:
    """What lies where in a file of tokens, and what it was made from.

    Args:
        train, held_out: the first token of each part, and the one behind its last.
        train_bytes, held_out_bytes: the bytes of text that each part was made from.
        split: how the text was split, in words.
        files: the number of files or rows that were read.
        complete: False if the limit cut the text short.
        left_out: what was left out, one line for each reason.
    """

    train: tuple[int, int]
    held_out: tuple[int, int]
    train_bytes: int
    held_out_bytes: int
    split: str
    files: int
    complete: bool
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can represent."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Contents":
        """The inverse of `to_json`."""
        contents: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**contents)


def text_sha256(file: BufferedIOBase, contents: Contents, itemsize: int, tokenizer: str | None) -> str:
    """The hash of a text: of its train part, the words "held out", and its held-out part, as they lie in the file.

    `tokenizer`: the SHA-256 of the tokenizer's file, which is hashed too.
    """
    digest = hashlib.sha256()
    for mark, (start, stop) in ((b"", contents.train), (b"held out", contents.held_out)):
        digest.update(mark)
        file.seek(start * itemsize)
        left = (stop - start) * itemsize
        while left and (chunk := file.read(min(left, _READ))):
            digest.update(chunk)
            left -= len(chunk)
    if tokenizer is not None:
        digest.update(b"tokenizer" + tokenizer.encode())
    return digest.hexdigest()


class _TokenFile(np.memmap[tuple[int], np.dtype[np.unsignedinteger[Any]]]):
    """The tokens from `start` to `stop` of a file. Pickled by its path, for workers of the same machine.

    What is read of it is a plain array.
    """

    reopen: tuple[Any, ...]

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not hasattr(self, "reopen"):  # made from the whole, such as by a comparison
            return np.asarray(self).__reduce_ex__(protocol)
        return open_tokens, self.reopen


def open_tokens(path: Path, dtype: str, start: int, stop: int) -> Tokens:
    """The tokens from `start` to `stop` of a file; the pages that are used are read from disk, and memory stays free."""
    if start == stop:
        return np.empty(0, dtype)  # an empty range cannot be mapped
    offset = start * np.dtype(dtype).itemsize
    tokens = _TokenFile(path, dtype, mode="r", offset=offset, shape=(stop - start,))
    tokens.reopen = (path, dtype, start, stop)
    return tokens

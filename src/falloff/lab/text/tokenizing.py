"""Text to tokens: bytes by default, or by a tokenizer.json of the library `tokenizers` (extra `tokenizers`)."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from falloff.lab.extras import require
from falloff.lab.text.pieces import pieces_of
from falloff.lab.text.token_file import Tokens

_BATCH = 2**20
"""About the bytes that are tokenized at once. The library takes some 50 bytes of memory for each."""


class Tokenizer:
    """Bytes as tokens. `TokenizerFile` overrides what differs with a tokenizer.

    Args:
        vocabulary: the number of token ids.
        unit: what one token is called.
        sha256: of the tokenizer's file; None for bytes.
        identity: what decides the tokens of a text.
    """

    vocabulary = 256
    unit = "byte"
    sha256: str | None = None
    identity: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Of token ids: little endian, on every machine.

        >>> Tokenizer().dtype
        '|u1'
        """
        size = next(size for size in (1, 2, 4) if self.vocabulary <= 256**size)
        return np.dtype(f"<u{size}").str

    def encode(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        """The tokens of each document."""
        for document in documents:
            yield np.frombuffer(document, np.uint8)


class TokenizerFile(Tokenizer):
    """A tokenizer.json. Each document is tokenized by itself, in pieces of `pieces_of`, without adding special tokens.

    Bytes that are no UTF-8 become U+FFFD. Truncation, padding and dropout, which the file may name, are turned off.

    Raises:
        ValueError: if it cannot be read, or has no vocabulary.
        ImportError: if the extra `tokenizers` is not installed.
    """

    unit = "token"

    def __init__(self, name: str) -> None:
        tokenizers = require("tokenizers")
        expected = "expected a tokenizer.json of the library tokenizers"
        self.name = name
        try:
            content = Path(name).read_bytes()
            self._tokenizer: Any = tokenizers.Tokenizer.from_buffer(content)
        except OSError as error:
            raise ValueError(f"tokenizer: got {name}, {expected}: {error.strerror}") from None
        except Exception as error:  # the library has no error class of its own
            raise ValueError(f"tokenizer: got {name}, {expected}: {_first_line(error)}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise ValueError(f"tokenizer: got {name}, which has no tokens, {expected}")
        self.vocabulary = max(ids) + 1  # there may be ids without a token
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.identity = (self.sha256, tokenizers.__version__)

    def encode(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        batch: list[bytes] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += len(document)
            if size >= _BATCH:
                yield from self._encoded(batch)
                batch, size = [], 0
        yield from self._encoded(batch)

    def _encoded(self, documents: list[bytes]) -> Iterator[Tokens]:
        cut = [[piece.decode(errors="replace") for piece in pieces_of([document])] for document in documents]
        try:
            encoded = iter(
                self._tokenizer.encode_batch_fast([piece for pieces in cut for piece in pieces], add_special_tokens=False)
            )
        except Exception as error:
            raise ValueError(
                f"tokenizer: got {self.name}, expected one that can tokenize this text: {_first_line(error)}"
            ) from None
        for pieces in cut:
            parts = [np.array(next(encoded).ids, self.dtype) for _ in pieces]
            yield np.concatenate(parts) if parts else np.empty(0, self.dtype)


def tokenizer_of(name: str | None) -> Tokenizer:
    """The tokenizer with this file, or that of bytes.

    >>> tokenizer_of(None).unit
    'byte'
    """
    return Tokenizer() if name is None else TokenizerFile(name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

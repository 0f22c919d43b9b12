"""Token files that are kept: made once, then opened by later runs and by other processes of the same machine."""

import hashlib
import json
import os
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from falloff.files import new_file, write_file
from falloff.lab.store.checksums import checked, with_checksum
from falloff.lab.store.locks import held
from falloff.lab.text.token_file import Contents, text_sha256
from falloff.lab.text.tokenizing import Tokenizer

_FORMAT = 1
"""Part of each key: to be raised when the same text would give other tokens, or the files change."""


def cache_folder() -> Path:
    """Where falloff keeps what it can make again: FALLOFF_CACHE, or falloff in XDG_CACHE_HOME, by default ~/.cache.

    Raises:
        ValueError: if there is no such folder, because the user has no home.
    """
    if chosen := os.environ.get("FALLOFF_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "falloff"
    except RuntimeError:
        raise ValueError("FALLOFF_CACHE: got no value and no home folder, expected a folder to keep tokens in") from None


class CachedTokens:
    """One token file of the cache: `tokens.bin`, and `text.json`, which says what is where in it and has its hash.

    text.json is written last: a killed process leaves none, and what it left behind is removed by the next one. One process
    at a time writes. The others wait, then open the same file. A file that is replaced stays open where it is in use.

    Args:
        identity: what decides the tokens; JSON must be able to represent it.
        tokenizer: what makes them.
    """

    def __init__(self, identity: list[Any], tokenizer: Tokenizer) -> None:
        written = json.dumps([_FORMAT, identity, tokenizer.identity])
        self.folder = cache_folder() / "texts" / hashlib.sha256(written.encode(errors="backslashreplace")).hexdigest()[:32]
        self.path = self.folder / "tokens.bin"
        self._described = self.folder / "text.json"
        self._tokenizer = tokenizer
        self._itemsize = int(tokenizer.dtype[-1])

    def get(self, write: Callable[[Tokenizer, BufferedIOBase], Contents], *, reuse: bool = True) -> tuple[Contents, str]:
        """What the file contains and its hash; it is written first if it does not exist or is damaged.

        Args:
            write: writes the tokens to a file, and says what is where in it.
            reuse: whether an existing file may be taken.

        Raises:
            OSError: naming the file, if it cannot be written.
        """
        if reuse and (stored := self._stored()):  # without the lock: the folder may be read-only
            return stored
        with held(self.folder / "lock"):
            if reuse and (stored := self._stored()):
                return stored
            self._described.unlink(missing_ok=True)
            with new_file(self.path) as file:
                contents = write(self._tokenizer, file)
            digest = self._digest(contents)
            described = with_checksum({"contents": contents.to_json(), "text_sha256": digest})
            write_file(self._described, json.dumps(described).encode())
            return contents, digest

    def _stored(self) -> tuple[Contents, str] | None:
        """What text.json says, if the tokens are as it says."""
        try:
            stored = checked(self._described.read_bytes())
            contents, digest = Contents.from_json(stored["contents"]), stored["text_sha256"]
            return (contents, digest) if self._digest(contents) == digest else None
        except (OSError, ValueError, TypeError, KeyError):  # missing or damaged
            return None

    def _digest(self, contents: Contents) -> str:
        with self.path.open("rb") as file:  # read, not mapped: what is mapped and touched counts as this process's memory
            return text_sha256(file, contents, self._itemsize, self._tokenizer.sha256)

"""Text from Hugging Face datasets (extra `datasets`): streamed, so that neither disk nor memory has to hold a dataset."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from falloff.lab.extras import require
from falloff.lab.text.binary import SEEN, binary_kind
from falloff.lab.text.file_text import HELD_OUT_SHARE
from falloff.lab.text.pieces import character_start
from falloff.lab.text.text_files import walk
from falloff.lab.text.token_file import Contents
from falloff.lab.text.tokenizing import Tokenizer

DEFAULT_LIMIT = 64_000_000
"""The most bytes of the train split unless a limit is set: a dataset on the hub may be terabytes."""

_FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_HELD_OUT_SPLITS = ("validation", "valid", "dev", "test")
_HELD_OUT_PART = 9  # the limit of the held-out split is a ninth of that of the train split
_SHORT_ROW = 64  # bytes; rows up to this repeat by chance, such as empty ones and headings


class DatasetText:
    """The rows of a dataset's text column, each ending in a line feed: a document each.

    The held-out part is the dataset's own held-out split, or the last tenth of the rows. Rows of the train split that are
    held out too are left out, except short ones.

    Args:
        name: a dataset on the Hugging Face hub, `NAME` or `NAME:CONFIGURATION`; or the path of a folder (of data files,
            or written by `save_to_disk`) or of a .json, .jsonl, .parquet, .csv or .txt file.
        limit: the most bytes to take of the train split, and a ninth of it of the held-out split.
    """

    def __init__(self, name: str, limit: int | None = None) -> None:
        self.name = name
        self._limit = DEFAULT_LIMIT if limit is None else limit
        self._held_out_limit = max(self._limit // _HELD_OUT_PART, 1)
        self._revision: str | None = None
        self._files: list[tuple[str, str]] | None = None

    @property
    def most_bytes(self) -> int:
        """At most so many bytes of text; how many is known only in the end."""
        return self._limit + self._held_out_limit

    def identity(self) -> list[Any] | None:
        """What decides the tokens, beside the tokenizer: the content of the files, or the commit on the hub.

        None if it cannot be known, because the hub does not answer.

        Raises:
            ValueError: for files that cannot be read.
        """
        version = require("datasets").__version__
        if Path(self.name).exists():
            self._files = _hashes(Path(self.name))
            return [self._files, self._limit, version]
        try:
            self._revision = require("huggingface_hub").HfApi().dataset_info(self.name.partition(":")[0]).sha
        except Exception:  # any error of the HTTP client
            return None
        return [self.name, self._revision, self._limit, version]

    def write(self, tokenizer: Tokenizer, file: BufferedIOBase) -> Contents:
        """Write the tokens: all rows, if the last tenth is held out; or else the held-out split, then the train split.

        Raises:
            ValueError: if it cannot be loaded, has several splits and no train split, has no column of text, or rows that
                are no text; if its files have changed since `identity` was called.
            ImportError: if the extra `datasets` is not installed.
        """
        contents = self._write(tokenizer, file)
        if self._files is not None and _hashes(Path(self.name)) != self._files:
            raise ValueError(f"dataset: got {self.name!r}, which has changed while it was read, expected one that does not")
        return contents

    def _write(self, tokenizer: Tokenizer, file: BufferedIOBase) -> Contents:
        splits = _load(self.name, self._revision)
        if "train" not in splits and len(splits) > 1:
            raise ValueError(
                f"dataset: got {self.name!r} with splits {', '.join(splits)}, expected one called train, or a single one"
            )
        first = "train" if "train" in splits else next(iter(splits))
        own = next((split for split in _HELD_OUT_SPLITS if split in splits and split != first), None)
        characters = tokenizer.sha256 is not None
        train = _Rows(self.name, splits[first], self._limit, characters=characters)
        if own is None:
            tokens = _write(file, tokenizer, train)
            cut = max(train.count - max(int(train.count * HELD_OUT_SHARE), 1), 0)
            return Contents(
                (0, tokens[cut]),
                (tokens[cut], tokens[-1]),
                train.ends[cut],
                train.ends[-1] - train.ends[cut],
                "by position, the last tenth of the rows held out",
                train.count,
                train.complete,
                (),
            )
        held_out = _Rows(self.name, splits[own], self._held_out_limit, characters=characters)
        tested: set[bytes] = set()
        held_out_tokens = _write(file, tokenizer, held_out.remembered(tested))[-1]
        train_tokens = _write(file, tokenizer, train.without(tested))[-1]
        return Contents(
            (held_out_tokens, held_out_tokens + train_tokens),
            (0, held_out_tokens),
            train.ends[-1],
            held_out.ends[-1],
            "the dataset's own held-out split",
            train.count + held_out.count,
            train.complete and held_out.complete,
            train.left_out(),
        )


def _load(name: str, revision: str | None) -> dict[str, Iterable[dict[str, Any]]]:
    """The splits by their names."""
    datasets = require("datasets")
    path = Path(name)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if path.is_dir() and any((path / mark).exists() for mark in ("dataset_info.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(path))
        elif path.is_file():
            if path.suffix not in _FILE_FORMATS:
                known = ", ".join(_FILE_FORMATS)
                raise ValueError(f"dataset: got {name!r}, expected a file that ends in one of {known}, a folder or a name")
            loaded = datasets.load_dataset(_FILE_FORMATS[path.suffix], data_files=str(path), streaming=True)
        else:
            title, _, configuration = (name, "", "") if path.exists() else name.partition(":")
            # Streamed, so that no more is downloaded than the limit.
            loaded = datasets.load_dataset(title, configuration or None, streaming=True, revision=revision)
    except ValueError as error:
        raise error if str(error).startswith("dataset:") else _refusal(name, error) from None
    except Exception as error:  # datasets lets any error of its file systems and HTTP client through
        raise _refusal(name, error) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()
    return dict(loaded.items()) if isinstance(loaded, dict) else {"train": loaded}


def _refusal(name: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(f"dataset: got {name!r}, expected a dataset that can be loaded: {reason}")


class _Rows:
    """The rows of a split, up to a limit. After an iteration it knows how many there were.

    Args:
        name: of the dataset.
        split: its rows.
        limit: the most bytes to take.
        characters: whether the limit may not cut a character of UTF-8 in two.
    """

    def __init__(self, name: str, split: Iterable[dict[str, Any]], limit: int, *, characters: bool) -> None:
        self._name, self._split, self._limit, self._characters = name, split, limit, characters
        self.ends = array("Q", [0])  # the bytes up to the end of each row
        self.complete = True
        self._dropped = 0

    @property
    def count(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return self.without(set())

    def remembered(self, hashes: set[bytes]) -> Iterator[bytes]:
        """The rows; the hash of each is added to the set."""
        for row in self:
            if len(row) > _SHORT_ROW:
                hashes.add(_row_hash(row))
            yield row

    def without(self, hashes: set[bytes]) -> Iterator[bytes]:
        """The rows whose hash is not in the set, and short ones."""
        beginning = b""
        for row in self._rows():
            if len(beginning) < SEEN:
                beginning += row[:SEEN]
                if (kind := binary_kind(beginning)) is not None:
                    raise ValueError(f"dataset: got {self._name!r} with {kind} in its rows, expected text")
            if hashes and len(row) > _SHORT_ROW and _row_hash(row) in hashes:
                self._dropped += 1
                continue
            self.ends.append(self.ends[-1] + len(row))
            yield row

    def left_out(self) -> tuple[str, ...]:
        """A line on how many rows were left out."""
        if not self._dropped:
            return ()
        rows = "1 row of the train split is" if self._dropped == 1 else f"{self._dropped:,} rows of the train split are"
        return (f"{rows} held out too, and left out of the training",)

    def _rows(self) -> Iterator[bytes]:
        left, column = self._limit, None
        iterator = iter(self._split)
        while True:
            try:
                row = next(iterator)
            except StopIteration:
                break
            except Exception as error:  # a streamed split is parsed only here
                raise _refusal(self._name, error) from None
            if left <= 0:
                self.complete = False
                break
            if column is None:
                column = _column(self._name, row)
            value = row.get(column)
            content = (value + "\n").encode(errors="replace") if isinstance(value, str) else b""
            end = left
            if len(content) > left:
                self.complete = False
                if self._characters:
                    end = character_start(content, left)
            left -= len(content)
            if content[:end]:
                yield content[:end]


def _column(name: str, row: dict[str, Any]) -> str:
    """The column of text: `text`, or the first one."""
    texts = [key for key, value in row.items() if isinstance(value, str)]
    if not texts:
        columns = ", ".join(map(str, row)) or "none"
        raise ValueError(f"dataset: got {name!r} with columns {columns}, expected a column of text")
    return "text" if "text" in texts else texts[0]


def _write(file: BufferedIOBase, tokenizer: Tokenizer, rows: Iterable[bytes]) -> Sequence[int]:
    """Write the tokens of the rows. Returns the tokens up to the end of each row."""
    ends = array("Q", [0])
    for tokens in tokenizer.encode(rows):
        file.write(tokens.data)
        ends.append(ends[-1] + len(tokens))
    return ends


def _row_hash(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=16).digest()


def _hashes(path: Path) -> list[tuple[str, str]]:
    """The name and the hash of a file, or of each file of a folder."""
    found = []
    for file, name in walk(path, frozenset(), "dataset") if path.is_dir() else [(path, path.name)]:
        try:
            with file.open("rb") as opened:
                found.append((name, hashlib.file_digest(opened, "sha256").hexdigest()))
        except OSError as error:
            raise ValueError(f"dataset: got {file}, expected a readable file: {error.strerror}") from None
    return found

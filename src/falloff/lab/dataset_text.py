"""Text from Hugging Face datasets (extra `datasets`)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from falloff.lab.extras import require

_FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_HELD_OUT_SPLITS = ("validation", "valid", "dev", "test")
_HELD_OUT_PART = 9  # the limit of the held-out split is a ninth of that of the train split


def read_dataset(name: str, limit: int) -> tuple[list[bytes], list[bytes] | None, bool]:
    """The rows of a dataset's text column, each ending in a line feed, up to `limit` bytes.

    Args:
        name: a dataset on the Hugging Face hub, `NAME` or `NAME:CONFIGURATION`; or the path of a folder (of data files,
            or written by `save_to_disk`) or of a .json, .jsonl, .parquet, .csv or .txt file.
        limit: the most bytes to take.

    Returns:
        The rows of the train split (or of the only split), those of the dataset's own held-out split or None, and whether
        this is the complete dataset.

    Raises:
        ValueError: if it cannot be loaded, has several splits and no train split, or has no column of text.
        ImportError: if the extra `datasets` is not installed.
    """
    splits = _load(name)
    if "train" not in splits and len(splits) > 1:
        raise ValueError(
            f"dataset: got {name!r} with splits {', '.join(splits)}, expected one called train, or a single one"
        )
    first = "train" if "train" in splits else next(iter(splits))
    held_out_name = next((split for split in _HELD_OUT_SPLITS if split in splits and split != first), None)
    train, all_of_train = _rows(name, splits[first], limit)
    if held_out_name is None:
        return train, None, all_of_train
    held_out, all_held_out = _rows(name, splits[held_out_name], max(limit // _HELD_OUT_PART, 1))
    return train, held_out, all_of_train and all_held_out


def _load(name: str) -> dict[str, Iterable[dict[str, Any]]]:
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
            loaded = datasets.load_dataset(title, configuration or None, streaming=True)
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


def _rows(name: str, split: Iterable[dict[str, Any]], limit: int) -> tuple[list[bytes], bool]:
    rows: list[bytes] = []
    left, column = limit, None
    iterator = iter(split)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            break
        except Exception as error:  # a streamed split is parsed only here
            raise _refusal(name, error) from None
        if left <= 0:
            return rows, False
        if column is None:
            texts = [key for key, value in row.items() if isinstance(value, str)]
            if not texts:
                raise ValueError(
                    f"dataset: got {name!r} with columns {', '.join(map(str, row)) or 'none'}, expected a column of text"
                )
            column = "text" if "text" in texts else texts[0]
        value = row.get(column)
        content = (value + "\n").encode(errors="replace")[:left] if isinstance(value, str) else b""
        left -= len(content)
        if content:
            rows.append(content)
    return rows, True

import json
from io import BytesIO
from types import SimpleNamespace

import datasets
import pytest

from falloff.lab.text import corpus
from falloff.lab.text.corpus import read_text
from falloff.lab.text.dataset_text import DatasetText
from falloff.lab.text.tokenizing import Tokenizer, TokenizerFile

ROWS = [f"row {index}: " + "some words of text " * 20 for index in range(60)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def _read(name, limit=10**6):
    """The bytes of a dataset's rows, and what is said of them."""
    file = BytesIO()
    contents = DatasetText(str(name), limit).write(Tokenizer(), file)
    return file.getvalue(), contents


def _joined(rows):
    return "".join(row + "\n" for row in rows).encode()


def test_saved_to_disk(toy, tmp_path):
    path = tmp_path / "saved"
    datasets.Dataset.from_dict({"number": list(range(60)), "text": ROWS}).save_to_disk(path)
    text = read_text(toy(dataset=str(path)))
    assert text.train.tobytes() == _joined(ROWS[:54])
    assert text.held_out.tobytes() == _joined(ROWS[54:])
    assert text.source == f"dataset {path}"
    assert text.files == 60


def test_own_held_out_split(toy, tmp_path):
    path = tmp_path / "saved"
    splits = {
        "test": datasets.Dataset.from_dict({"text": ROWS[:20]}),
        "train": datasets.Dataset.from_dict({"text": ROWS[20:]}),
    }
    datasets.DatasetDict(splits).save_to_disk(path)
    text = read_text(toy(dataset=str(path)))
    assert text.held_out.tobytes() == _joined(ROWS[:20])
    assert text.train.tobytes() == _joined(ROWS[20:])
    assert text.split == "the dataset's own held-out split"


def test_first_column_of_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"id": index, "content": row, "other": "x"}) + "\n" for index, row in enumerate(ROWS))
    )
    content, contents = _read(path)
    assert content == _joined(ROWS)
    assert contents.split == "by position, the last tenth of the rows held out"
    assert contents.complete


def test_parquet_folder_and_limit(tmp_path):
    datasets.Dataset.from_dict({"text": ROWS}).to_parquet(tmp_path / "train.parquet")
    content, contents = _read(tmp_path, 1000)
    assert content == _joined(ROWS)[:1000]
    assert not contents.complete


def test_refusals(tmp_path):
    (tmp_path / "numbers.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"dataset: got .*numbers.jsonl' with columns a, expected a column of text"):
        _read(tmp_path / "numbers.jsonl")
    (tmp_path / "broken.jsonl").write_text("{not json")
    with pytest.raises(ValueError, match=r"dataset: got .*broken.jsonl', expected a dataset that can be loaded"):
        _read(tmp_path / "broken.jsonl")
    (tmp_path / "song.mp3").write_text("la")
    with pytest.raises(ValueError, match=r"dataset: got .*song.mp3', expected a file that ends in"):
        _read(tmp_path / "song.mp3")
    with pytest.raises(ValueError, match=r"dataset: got 'falloff/no-such-dataset', expected a dataset that can be loaded"):
        _read("falloff/no-such-dataset")


def test_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"datasets is not installed: pip install 'falloff\[datasets\]'"):
        _read("anything")


def test_rows_of_both_splits_are_not_trained_on(toy, tmp_path):
    """Short rows, such as empty ones and headings, may come again."""
    splits = {
        "train": datasets.Dataset.from_dict({"text": [*ROWS[10:], *ROWS[:5], "= heading ="]}),
        "test": datasets.Dataset.from_dict({"text": ["= heading =", *ROWS[:10]]}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    text = read_text(toy(dataset=str(tmp_path / "saved")))
    assert text.train.tobytes() == _joined([*ROWS[10:], "= heading ="])
    assert text.held_out.tobytes() == _joined(["= heading =", *ROWS[:10]])
    assert text.left_out == ("5 rows of the train split are held out too, and left out of the training",)


def test_rows_that_are_no_text_are_refused(toy, tmp_path):
    datasets.Dataset.from_dict({"text": ["\0" + row for row in ROWS]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"dataset: got .*saved' with a binary file .* in its rows, expected text"):
        read_text(toy(dataset=str(tmp_path / "saved")))


def test_no_split_is_taken_for_the_train_split(tmp_path):
    """The first of several was trained on without a word."""
    splits = {name: datasets.Dataset.from_dict({"text": ROWS}) for name in ("test", "validation")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"dataset: got .* with splits test, validation, expected one called train"):
        _read(tmp_path / "saved")


@pytest.fixture
def rows_path(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    return path


def test_rows_are_tokenized_one_by_one(toy, rows_path, tokenizer_path):
    text = read_text(toy(dataset=str(rows_path), tokenizer=str(tokenizer_path)))
    expected = list(TokenizerFile(str(tokenizer_path)).encode((row + "\n").encode() for row in ROWS))
    assert text.train.tobytes() == b"".join(tokens.tobytes() for tokens in expected[:54])
    assert text.held_out.tobytes() == b"".join(tokens.tobytes() for tokens in expected[54:])
    assert text.bytes_per_token == len(_joined(ROWS[54:])) / len(text.held_out)
    assert text.describe()["held_out_bytes"] == len(_joined(ROWS[54:]))


def test_own_held_out_split_with_a_tokenizer(toy, tmp_path, tokenizer_path):
    splits = {"test": datasets.Dataset.from_dict({"text": ROWS[:20]}), "train": datasets.Dataset.from_dict({"text": ROWS})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    settings = toy(dataset=str(tmp_path / "saved"), tokenizer=str(tokenizer_path))
    encoded = [tokens.tobytes() for tokens in TokenizerFile(str(tokenizer_path)).encode((r + "\n").encode() for r in ROWS)]
    for text in (read_text(settings), read_text(settings)):  # made, then opened
        assert text.held_out.tobytes() == b"".join(encoded[:20])
        assert text.train.tobytes() == b"".join(encoded[20:])
        assert text.left_out == ("20 rows of the train split are held out too, and left out of the training",)
        assert text.files == 60


def test_other_rows_are_made_anew(toy, rows_path, monkeypatch):
    monkeypatch.setattr(corpus, "IN_MEMORY", 1000)
    settings = toy(dataset=str(rows_path))
    said = []
    texts = [read_text(settings, said.append), read_text(settings, said.append)]
    assert len(said) == 1
    rows_path.write_text(rows_path.read_text().replace("words", "lines"))
    texts.append(read_text(settings, said.append))
    assert len(said) == 2
    assert texts[0].sha256 == texts[1].sha256 != texts[2].sha256
    assert b"lines of text" in texts[2].train.tobytes()


def test_a_dataset_of_the_hub_is_known_by_its_commit(toy, monkeypatch):
    """Rows of another commit are made anew, and so are all if the hub does not say which commit it has."""
    monkeypatch.setattr(corpus, "IN_MEMORY", 1000)
    hub = {"commit": "abc"}
    loaded = []

    def info(api, name):
        if hub["commit"] is None:
            raise ConnectionError("no network")
        return SimpleNamespace(sha=hub["commit"])

    def load(name, configuration, *, streaming, revision):
        loaded.append((name, configuration, revision))
        return {"train": [{"text": row} for row in ROWS]}

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = toy(dataset="owner/name:english")
    for commit, times in (("abc", 1), ("abc", 1), ("def", 2), (None, 3), (None, 4), ("abc", 4)):
        hub["commit"] = commit
        assert read_text(settings).files == 60
        assert len(loaded) == times
    assert loaded[:3] == [
        ("owner/name", "english", "abc"),
        ("owner/name", "english", "def"),
        ("owner/name", "english", None),
    ]


def test_the_limit_cuts_no_character_for_a_tokenizer(tmp_path, tokenizer_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "é" * 100}) + "\n")
    contents = DatasetText(str(tmp_path / "rows.jsonl"), 101).write(TokenizerFile(str(tokenizer_path)), BytesIO())
    assert contents.held_out_bytes + contents.train_bytes == 100
    assert _read(tmp_path / "rows.jsonl", 101)[0] == ("é" * 100).encode()[:101]
    assert not contents.complete


def test_rows_that_change_while_they_are_read_are_refused(rows_path):
    found = DatasetText(str(rows_path))
    found.identity()
    rows_path.write_text(rows_path.read_text().replace("words", "lines"))
    with pytest.raises(ValueError, match=r"dataset: got .*rows.jsonl', which has changed while it was read"):
        found.write(Tokenizer(), BytesIO())

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from falloff.lab.tasks.text import LanguageModelling
from falloff.lab.text import corpus
from falloff.lab.text.corpus import read_text
from falloff.lab.text.text_cache import cache_folder
from falloff.lab.training import TrainingItems


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(corpus, "IN_MEMORY", 1000)


@pytest.fixture
def settings(toy, text_path):
    return toy(text=(str(text_path),))


def _files(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.name != "lock")


def _entry(cache):
    (folder,) = (cache / "texts").iterdir()
    return folder


def test_a_file_of_the_cache_has_what_would_be_in_memory(settings, monkeypatch, cache):
    cached = read_text(settings)
    monkeypatch.setattr(corpus, "IN_MEMORY", 10**6)
    held = read_text(settings)
    assert [path.name for path in _files(cache)] == ["text.json", "tokens.bin"]
    assert np.array_equal(cached.train, held.train)
    assert np.array_equal(cached.held_out, held.held_out)
    assert cached.describe() == held.describe()


def test_written_once(settings, cache):
    said = []
    first = read_text(settings, said.append)
    before = [(path, path.stat().st_mtime_ns) for path in _files(cache)]
    again = read_text(settings, said.append)
    assert [(path, path.stat().st_mtime_ns) for path in _files(cache)] == before
    assert again.describe() == first.describe()
    (line,) = said
    assert line.endswith(str(_entry(cache)))


def test_other_content_is_another_file(toy, tmp_path, cache):
    """Of the same name, size and time."""
    path = tmp_path / "text.txt"
    found = []
    for letter in "ab":
        path.write_text(letter * 5000)
        os.utime(path, (0, 0))
        text = read_text(toy(text=(str(path),)))
        found.append((text.sha256, text.train[0]))
    assert [token for _, token in found] == [ord("a"), ord("b")]
    assert len({digest for digest, _ in found}) == len(list((cache / "texts").iterdir())) == 2


def test_datasets_of_unknown_content_do_not_share_a_file(toy, tmp_path, cache, monkeypatch):
    """Of two runs at once, one would open what the other has written."""
    pytest.importorskip("datasets")
    monkeypatch.setattr("falloff.lab.text.dataset_text.DatasetText.identity", lambda self: None)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{name} line of text\n" * 500)
        read_text(toy(dataset=str(tmp_path / f"{name}.txt")))
    assert len(list((cache / "texts").iterdir())) == 2


def test_another_tokenizer_is_another_file(toy, text_path, tokenizer_path, tmp_path, cache):
    stored = json.loads(tokenizer_path.read_text())
    stored["model"]["merges"] = stored["model"]["merges"][:-50]
    (tmp_path / "other.json").write_text(json.dumps(stored))
    texts = [
        read_text(toy(text=(str(text_path),), tokenizer=str(path))) for path in (tokenizer_path, tmp_path / "other.json")
    ]
    assert texts[0].sha256 != texts[1].sha256
    assert len(texts[0].train) < len(texts[1].train)
    assert len(list((cache / "texts").iterdir())) == 2


def _damage_tokens(folder):
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[100] ^= 1
    (folder / "tokens.bin").write_bytes(content)


def _damage_description(folder):
    stored = json.loads((folder / "text.json").read_text())
    stored["contents"]["train"][1] -= 1
    (folder / "text.json").write_text(json.dumps(stored))


@pytest.mark.parametrize(
    "damage",
    [
        _damage_tokens,
        _damage_description,
        lambda folder: os.truncate(folder / "tokens.bin", 3000),
        lambda folder: (folder / "tokens.bin").unlink(),
        lambda folder: (folder / "text.json").unlink(),
        lambda folder: (folder / "text.json").write_text("{"),
        lambda folder: (folder / "text.json").write_text("[]"),
    ],
)
def test_what_is_damaged_is_made_again(settings, cache, damage):
    before = read_text(settings)
    expected = before.train.tobytes()
    files = {path: path.read_bytes() for path in _files(cache)}
    damage(_entry(cache))
    after = read_text(settings)
    assert after.train.tobytes() == expected
    assert after.describe() == before.describe()
    assert {path: path.read_bytes() for path in _files(cache)} == files


PREPARE = """
import sys, time
from falloff.lab.text import corpus
from falloff.lab.text import tokenizing
from falloff.lab.config import Settings
corpus.IN_MEMORY = 1000
encode = tokenizing.Tokenizer.encode
def slowly(self, documents):
    for tokens in encode(self, documents):
        yield tokens
        print("writing", flush=True)
        time.sleep(float(sys.argv[2]))
tokenizing.Tokenizer.encode = slowly
settings = Settings.of_preset("quick", train_length=16, device="cpu", text=(sys.argv[1],))
print(corpus.read_text(settings).sha256)
"""


def _prepare(path, seconds):
    return subprocess.Popen([sys.executable, "-c", PREPARE, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_leaves_is_not_taken(settings, text_path, cache):
    process = _prepare(text_path, 60)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (part,) = _files(cache)
    assert part.name.endswith(".part")
    text = read_text(settings)
    assert text.train.tobytes() + text.held_out.tobytes() == text_path.read_bytes()
    assert [path.name for path in _files(cache)] == ["text.json", "tokens.bin"]


def test_of_two_processes_one_writes_and_the_other_waits(settings, text_path, cache):
    processes = [_prepare(text_path, 1), _prepare(text_path, 1)]
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0]
    assert lines.count("writing") == 2  # the train part and the held-out part, once
    assert [line for line in lines if line != "writing"] == [read_text(settings).sha256] * 2
    assert [path.name for path in _files(cache)] == ["text.json", "tokens.bin"]


def test_a_text_that_is_open_survives_a_new_file(settings, cache):
    text = read_text(settings)
    content = text.train.tobytes()
    (_entry(cache) / "text.json").unlink()
    read_text(settings)
    assert text.train.tobytes() == content


def test_a_full_disk_names_the_file(toy, tmp_path, cache):
    """A process that may write files of 64 kB alone, which fails where a full disk does: in the midst of a write."""
    (tmp_path / "text.txt").write_text("a line of text\n" * 20_000)
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit + PREPARE, str(tmp_path / "text.txt"), "0"], capture_output=True, text=True, check=False
    )
    assert f"OSError: [Errno 27] File too large: '{_entry(cache) / 'tokens.bin'}'" in done.stderr
    assert _files(cache) == []


def test_a_folder_that_cannot_be_made_is_named(settings, cache):
    cache.write_text("a file")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught:
        read_text(settings)
    assert str(caught.value.filename).startswith(str(cache))


def test_read_without_a_right_to_write(settings, cache, monkeypatch):
    expected = read_text(settings).describe()

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    assert read_text(settings).describe() == expected


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FALLOFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "falloff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "falloff"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ValueError, match="FALLOFF_CACHE: got no value and no home folder"):
        cache_folder()


def test_training_reads_the_file_in_this_process_and_in_spawned_ones(settings, monkeypatch):
    cached = read_text(settings)
    assert len(pickle.dumps(cached)) < 3000
    monkeypatch.setattr(corpus, "IN_MEMORY", 10**6)
    items = [TrainingItems(LanguageModelling(settings, text), settings, 0, 0) for text in (cached, read_text(settings))]
    loaded = list(DataLoader(items[0], batch_size=4, num_workers=1, multiprocessing_context="spawn"))
    assert len(loaded) == settings.steps
    for inputs, targets in loaded:
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    expected = [items[1][index] for index in range(len(items[1]))]
    assert torch.equal(torch.cat([inputs for inputs, _ in loaded]), torch.stack([inputs for inputs, _ in expected]))


def test_windows_at_both_ends(settings):
    """Every place where a window fits is drawn, and none beyond."""
    text = read_text(settings)
    size = settings.train_length + 1
    short = dataclasses.replace(text, train=text.train[: size + 1])
    drawn = {LanguageModelling(settings, short).training_item(0, index)[0].numpy().tobytes() for index in range(40)}
    expected = {short.train[start : start + size - 1].astype(np.int64).tobytes() for start in (0, 1)}
    assert drawn == expected

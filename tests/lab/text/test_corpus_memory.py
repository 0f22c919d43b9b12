"""Memory stays small however long a text is. A text that was held at once would exceed these limits several times."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import pytest

from falloff.lab.text import corpus
from falloff.lab.text.corpus import read_text

MB = 10**6
ROW = "some words of text that fill a row, and more of them " * 20


@pytest.fixture(autouse=True)
def _in_files(monkeypatch):
    monkeypatch.setattr(corpus, "IN_MEMORY", 1000)


def _peak(settings):
    tracemalloc.start()
    try:
        text = read_text(settings)
        return tracemalloc.get_traced_memory()[1], text
    finally:
        tracemalloc.stop()


def test_of_bytes(toy, tmp_path):
    with (tmp_path / "text").open("w") as file:
        for index in range(20_000):
            file.write(f"{index} {ROW}\n")
    peak, text = _peak(toy(text=(str(tmp_path / "text"),)))
    assert len(text.train) > 18 * MB
    assert peak < 6 * MB


def test_of_rows(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    rows = [f"{index} {ROW}" for index in range(20_000)]
    splits = {"train": datasets.Dataset.from_dict({"text": rows}), "test": datasets.Dataset.from_dict({"text": rows[:2000]})}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    peak, text = _peak(toy(dataset=str(tmp_path / "saved")))
    assert len(text.train) > 18 * MB
    assert text.left_out == ("2,000 rows of the train split are held out too, and left out of the training",)
    assert peak < 6 * MB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
def test_of_a_tokenizer(tmp_path, tokenizer_path):
    """What the library itself holds: for all of this text at once, over 100 MB."""
    (tmp_path / "text").write_text("0123 4567 89XY ZWVU\n" * 100_000)
    code = f"""
import re
from pathlib import Path
from falloff.lab.text import tokenizing
from falloff.lab.config import Settings
from falloff.lab.text.corpus import read_text
def peak():  # kB; the peak of getrusage begins with that of the process that started this one
    return int(re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().replace("\t", " "))[1])
tokenizing._BATCH = 2**16
settings = Settings.of_preset("quick", device="cpu", text=({str(tmp_path / "text")!r},), tokenizer={str(tokenizer_path)!r})
tokenizing.tokenizer_of(settings.tokenizer)
before = peak()
text = read_text(settings)
print(peak() - before, text.contents.train_bytes + text.contents.held_out_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grew, size = map(int, done.stdout.split())
    assert size == 2 * MB
    assert grew * 1024 < 80 * MB

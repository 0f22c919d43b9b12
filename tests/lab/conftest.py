"""Toy sizes: a whole run of one scheme in a fraction of a second."""

import random

import pytest

from falloff.lab.config import Settings


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tests beside this one leave no core free: threads that wait for each other would only slow both down."""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The cache of this test alone."""
    monkeypatch.setenv("FALLOFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _toy_settings(**changes):
    sizes = {"train_length": 16, "steps": 3, "batch_size": 4, "layers": 1, "width": 16, "heads": 2, "windows": 8}
    return Settings.of_preset("quick", **{"resamples": 100, "device": "cpu", **sizes, **changes})


@pytest.fixture(scope="session")
def toy():
    """Settings of toy size, with changes."""
    return _toy_settings


@pytest.fixture(scope="session")
def text_path(tmp_path_factory):
    """A file of 40 kB of words that repeat."""
    words = ["bucket", "offset", "slope", "query", "key", "head", "strip", "bias", "reach"]
    content = " ".join(random.Random(0).choices(words, k=7000))
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(content)
    return path


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory, text_path):
    """A tokenizer.json of some 300 tokens, which also asks for truncation, padding and special tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(alphabet), special_tokens=["<s>", "<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator([text_path.read_text()], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8, pad_id=1, pad_token="<pad>")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path

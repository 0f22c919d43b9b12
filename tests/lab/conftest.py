"""Toy sizes: a whole run of one scheme in a fraction of a second."""

import math
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


@pytest.fixture(scope="session")
def results():
    """Lines of results.jsonl, with the keys that the report reads. All schemes have the same differences between windows, so
    that the order of schemes is certain."""

    def losses(perplexity):
        return [math.log(perplexity) + 0.1 * window for window in (-1, 0, 1)]

    def line(scheme, kind, length, measure, perplexity):
        return {
            "task": "text",
            "protocol": "last-k",
            "scheme": scheme,
            "kind": kind,
            "seed": 0,
            "train_length": 16,
            "length": length,
            "measure": measure,
            "value": perplexity,
            "low": perplexity - 0.5,
            "high": perplexity + 0.5,
            "items": losses(perplexity),
            "depths": None,
            "together": 1,
            "parameters": 1234,
            "bias_parameters": 10,
            "seconds_per_step": 0.0215,
            "tokens_per_second": 2976.7,
            "peak_memory_mb": 16.55,
            "test_batch": 4,
            "test_seconds": 0.01,
            "test_tokens_per_second": 400 * length,
            "test_peak_memory_mb": 3.25,
            "sha256": "0" * 64,
        }

    kinds = {"rope": "baseline", "t5": "learned", "alibi": "heuristic", "fire": "learned"}
    tails = {"rope": (5.0, 50.0), "t5": (4.0, 7.0), "alibi": (6.0, 6.0), "fire": (5.0, 6.5)}
    return [
        line(name, kinds[name], length, measure, tail + more)
        for name in kinds
        for length, tail in zip((16, 32), tails[name], strict=True)
        for measure, more in (("tail", 0.0), ("all", 1.0))
    ]

import hashlib
import json
import os

import numpy as np
import pytest

from falloff.lab.text import tokenizing
from falloff.lab.text.pieces import PIECE, pieces_of
from falloff.lab.text.tokenizing import Tokenizer, TokenizerFile, tokenizer_of

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def plain(tokenizer_path):
    """The library's own tokenizer, without truncation and padding."""
    plain = tokenizers.Tokenizer.from_file(str(tokenizer_path))
    plain.no_truncation()
    plain.no_padding()
    return plain


def _ids(plain, text):
    return plain.encode(text, add_special_tokens=False).ids


def test_bytes_by_default():
    tokenizer = tokenizer_of(None)
    assert (tokenizer.vocabulary, tokenizer.unit, tokenizer.dtype, tokenizer.sha256) == (256, "byte", "|u1", None)
    assert [tokens.tolist() for tokens in tokenizer.encode([b"a\xff", b""])] == [[97, 255], []]


def test_documents_are_tokenized_whole(tokenizer_path, plain, text_path):
    tokenizer = TokenizerFile(str(tokenizer_path))
    documents = [text_path.read_text(), "", "slope é 𝄞\n\n", "<s>"]
    assert len(documents[0]) < PIECE
    encoded = list(tokenizer.encode(document.encode() for document in documents))
    assert [tokens.tolist() for tokens in encoded] == [_ids(plain, document) for document in documents]
    assert {tokens.dtype.str for tokens in encoded} == {"<u2"}
    assert len(encoded[0]) > 1000  # not truncated
    assert tokenizer.sha256 == hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()
    assert (tokenizer.vocabulary, tokenizer.unit) == (plain.get_vocab_size(), "token")


def test_long_documents_are_tokenized_in_pieces(tokenizer_path, plain, text_path):
    document = "\n".join([text_path.read_text()] * 3).encode()
    (tokens,) = TokenizerFile(str(tokenizer_path)).encode([document])
    pieces = list(pieces_of([document]))
    assert len(pieces) > 1
    assert tokens.tolist() == [token for piece in pieces for token in _ids(plain, piece.decode())]


@pytest.mark.parametrize("batch", [1, 100, 5000])
def test_batches_change_no_token(tokenizer_path, text_path, monkeypatch, batch):
    rows = [row.encode() for row in text_path.read_text().split(" ")[:400]] + [b"\xff\xfe", b""]
    expected = [tokens.tolist() for tokens in TokenizerFile(str(tokenizer_path)).encode(rows)]
    monkeypatch.setattr(tokenizing, "_BATCH", batch)
    assert [tokens.tolist() for tokens in TokenizerFile(str(tokenizer_path)).encode(rows)] == expected


@pytest.mark.parametrize(("vocabulary", "dtype"), [(256, "|u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_the_smallest_dtype_that_holds_the_vocabulary(vocabulary, dtype):
    tokenizer = Tokenizer()
    tokenizer.vocabulary = vocabulary
    assert tokenizer.dtype == dtype
    assert np.array(vocabulary - 1).astype(dtype) == vocabulary - 1


def test_dropout_is_turned_off(tokenizer_path, plain, tmp_path, text_path):
    content = json.loads(tokenizer_path.read_text())
    content["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tokens,) = TokenizerFile(str(tmp_path / "tokenizer.json")).encode([text_path.read_bytes()])
    assert tokens.tolist() == _ids(plain, text_path.read_text())


def test_ids_may_have_holes(tmp_path):
    model = tokenizers.models.WordLevel({"a": 0, "b": 70000}, unk_token="a")
    tokenizers.Tokenizer(model).save(str(tmp_path / "words.json"))
    tokenizer = TokenizerFile(str(tmp_path / "words.json"))
    assert (tokenizer.vocabulary, tokenizer.dtype) == (70001, "<u4")
    assert next(tokenizer.encode([b"b"])).tolist() == [70000]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "EOF"),
        (lambda path: path.write_bytes(os.urandom(100)), "."),
        (lambda path: path.write_text('{"a": 1}'), "."),
        (lambda path: tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path)), "which has no tokens"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, write, reason):
    write(tmp_path / "tokenizer.json")
    with pytest.raises(
        ValueError, match=r"^tokenizer: got .*tokenizer.json.* expected a tokenizer.json of the library"
    ) as e:
        TokenizerFile(str(tmp_path / "tokenizer.json"))
    assert reason in str(e.value)
    assert "\n" not in str(e.value)


def test_a_missing_extra_says_what_to_install(monkeypatch, tokenizer_path):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"tokenizers is not installed: pip install 'falloff\[tokenizers\]'"):
        tokenizer_of(str(tokenizer_path))

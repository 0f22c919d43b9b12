from io import BytesIO

import pytest

from falloff.lab.text.file_text import FileText
from falloff.lab.text.text_files import files_of
from falloff.lab.text.tokenizing import Tokenizer, TokenizerFile

LINE = "Straße €5 𝄞, señor\n"


def _of(*paths, limit=None, characters=True):
    return FileText(files_of(list(paths)), limit, characters=characters)


def _write(found, tokenizer):
    file = BytesIO()
    return file, found.write(tokenizer, file)


@pytest.mark.parametrize("extra", range(8))
def test_no_character_is_cut_by_the_split_or_the_limit(tmp_path, extra):
    """The end of the train part and the limit fall on every byte of a character."""
    content = ("x" * extra + LINE * 60).encode()
    (tmp_path / "text").write_bytes(content)
    for limit in (None, 1000):
        file, contents = _write(_of(tmp_path / "text", limit=limit), Tokenizer())
        taken = file.getvalue()
        cut = contents.train[1]
        assert taken[:cut].decode() + taken[cut:].decode() == taken.decode()
        assert content.startswith(taken)
        assert len(taken) > (len(content) if limit is None else limit) - 4
        assert contents.complete == (limit is None)
        assert contents.left_out == ()


def test_bytes_are_cut_exactly(tmp_path):
    (tmp_path / "text").write_bytes("€".encode() * 1000)
    file, contents = _write(_of(tmp_path / "text", limit=1001, characters=False), Tokenizer())
    assert (contents.train, contents.held_out) == ((0, 901), (901, 1001))
    assert (contents.train_bytes, contents.held_out_bytes, len(file.getvalue())) == (901, 100, 1001)


def test_what_is_no_utf8_is_said(tmp_path, tokenizer_path):
    (tmp_path / "a").write_bytes(b"caf\xe9 and more words \n" * 200)
    (tmp_path / "b").write_text(LINE * 200)
    found = _of(tmp_path / "a", tmp_path / "b")
    file, contents = _write(found, TokenizerFile(str(tokenizer_path)))
    assert contents.left_out == ("1 file is no UTF-8 and read with U+FFFD for what is none: a",)
    assert len(file.getvalue()) == 2 * contents.held_out[1]
    assert _of(tmp_path / "a", characters=False).write(Tokenizer(), BytesIO()).left_out == ()


@pytest.mark.parametrize("change", [b"b" * 5000, b"a" * 4999, b"a" * 100])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, change):
    (tmp_path / "text").write_bytes(b"a" * 5000)
    found = _of(tmp_path / "text")
    (tmp_path / "text").write_bytes(change)
    with pytest.raises(ValueError, match=r"text: got .*text, which has changed while it was read"):
        found.write(Tokenizer(), BytesIO())


def test_a_file_that_grows_is_taken_as_it_was(tmp_path):
    (tmp_path / "log").write_bytes(b"a" * 5000)
    found = _of(tmp_path / "log")
    with (tmp_path / "log").open("ab") as log:
        log.write(b"b")
    file, _ = _write(found, Tokenizer())
    assert file.getvalue() == b"a" * 5000


def test_identity_is_of_content_and_split(tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 5000)
    (tmp_path / "b").write_bytes(b"b" * 5000)
    (tmp_path / "c").write_bytes(b"a" * 5000)
    a, b = tmp_path / "a", tmp_path / "b"
    identities = [found.identity() for found in (_of(a), _of(b), _of(a, b), _of(b, a), _of(a, b, limit=7000))]
    assert len({str(identity) for identity in identities}) == 5
    assert _of(tmp_path / "c").identity() == identities[0]

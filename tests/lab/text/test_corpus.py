import bz2
import gzip
import hashlib
import lzma
import os

import numpy as np
import pytest

from falloff.lab.text.corpus import read_text


def _write(folder, count, size=2000):
    for index in range(count):
        path = folder / f"part{index % 3}" / f"{index}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([index]) * size)
    return folder


def test_default_is_the_standard_library_by_file(toy):
    text = read_text(toy())
    assert 0.05 < len(text.held_out) / (len(text.train) + len(text.held_out)) < 0.2
    assert text.files > 100
    assert text.complete
    everything = text.train.tobytes() + text.held_out.tobytes()
    assert b"class OrderedDict" in everything  # collections/__init__.py
    assert b"class ForkingMixIn" in everything  # socketserver.py
    assert b"class TestCase(unittest.TestCase)" not in everything
    assert read_text(toy()).describe() == text.describe()


def test_one_file_is_split_by_position(toy, tmp_path):
    content = bytes(range(1, 256)) * 20  # text in some encoding
    (tmp_path / "one.txt").write_bytes(content)
    text = read_text(toy(text=(str(tmp_path / "one.txt"),)))
    assert text.train.tobytes() + text.held_out.tobytes() == content
    assert len(text.held_out) == len(content) // 10
    assert "last tenth of the file" in text.split
    digest = hashlib.sha256(text.train.tobytes() + b"held out" + text.held_out.tobytes()).hexdigest()
    assert text.describe()["sha256"] == digest


def test_many_files_are_split_by_the_hash_of_their_names(toy, tmp_path):
    text = read_text(toy(text=(str(_write(tmp_path, 60)),)))
    assert "by file" in text.split
    assert not set(np.unique(text.train)) & set(np.unique(text.held_out))
    (tmp_path / "part0" / "new.txt").write_bytes(b"\xff" * 100)
    again = read_text(toy(text=(str(tmp_path),)))
    assert set(np.unique(text.train)) <= set(np.unique(again.train))  # no file changes sides


def test_folders_leave_out_what_is_hidden_or_binary(toy, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"h" * 5000)
    (tmp_path / "picture").write_bytes(b"\0p" * 5000)
    (tmp_path / "text").write_bytes(b"t" * 5000)
    (tmp_path / "packed").write_bytes(gzip.compress(b"t" * 5000))
    text = read_text(toy(text=(str(tmp_path),)))
    assert set(np.unique(text.train)) == {ord("t")}
    line = "2 files are binary and left out: packed (a gzip file), picture (a binary file (it has NUL bytes))"
    assert text.left_out == (line,)
    assert text.describe()["left_out"] == [line]


def test_a_text_may_begin_like_an_archive(toy, tmp_path):
    (tmp_path / "text.txt").write_text("BZhou wrote this. " * 3000)
    assert read_text(toy(text=(str(tmp_path / "text.txt"),))).train.size > 0


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"text " * 9000, 9), "a gzip file"),
        (bz2.compress(b"text " * 9000), "a bzip2 file"),
        (lzma.compress(b"text " * 9000), "an xz file"),
        (b"PK\x03\x04" + b"text" * 9000, "a zip file"),
        (("text " * 9000).encode("utf-16"), "a binary file"),
        (b"weights\0" * 9000, "a binary file"),
    ],
)
def test_a_binary_file_that_was_asked_for_is_refused(toy, tmp_path, content, kind):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    (tmp_path / "more.txt").write_text("text " * 9000)
    for paths in ((path,), (path, tmp_path / "more.txt")):
        with pytest.raises(ValueError, match=f"text: got .*text.txt, {kind}.*, expected a file of text"):
            read_text(toy(text=tuple(map(str, paths))))


def test_identical_files_are_never_on_both_sides_of_the_split(toy, tmp_path):
    """60 names, 20 contents: each content's names fall on both sides somewhere."""
    for index in range(60):
        (tmp_path / f"{index}.txt").write_bytes(bytes([65 + index % 20]) * 2000)
    text = read_text(toy(text=(str(tmp_path),)))
    assert len(text.held_out) > 0
    assert not set(np.unique(text.train)) & set(np.unique(text.held_out))
    assert text.files < 60
    (line,) = text.left_out
    assert line.startswith(f"{60 - text.files} files are identical to one on the other side of the split and left out: ")


def test_a_copy_that_the_limit_cuts_is_left_out(toy, tmp_path):
    """Its last tenth, held out, would lie in what the whole copy trains on."""
    content = os.urandom(12000).replace(b"\0", b"a")
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(content)
    text = read_text(toy(text=(str(tmp_path),), text_limit=18000))
    assert text.held_out.tobytes() not in text.train.tobytes()
    assert text.train.tobytes() + text.held_out.tobytes() == content
    assert text.left_out == (
        "1 file is identical to one on the other side of the split and left out: b.txt (its beginning, up to the limit)",
    )


def test_several_paths_and_a_limit(toy, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"a" * 6000)
    second.write_bytes(b"b" * 6000)
    both = read_text(toy(text=(str(first), str(second))))
    assert both.complete
    assert both.train.tobytes() == b"a" * 5400 + b"b" * 5400
    cut = read_text(toy(text=(str(first), str(second)), text_limit=7000))
    assert not cut.complete
    assert len(cut.train) + len(cut.held_out) == 7000


def test_too_short_says_what_would_do(toy, tmp_path):
    (tmp_path / "short").write_bytes(b"abc" * 400)
    with pytest.raises(
        ValueError, match=r"text: got 1,200 bytes, .* 120 held out .* expected at least 241 .* smaller train_"
    ):
        read_text(toy(text=(str(tmp_path / "short"),)))
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="text: got 0 bytes"):
        read_text(toy(text=(str(tmp_path / "empty"),)))


def test_just_long_enough(toy, tmp_path):
    settings = toy(text=(str(tmp_path / "text"),))
    (tmp_path / "text").write_bytes(b"x" * (10 * settings.least_tokens))
    assert len(read_text(settings).held_out) == settings.least_tokens
    (tmp_path / "text").write_bytes(b"x" * (10 * settings.least_tokens - 1))
    with pytest.raises(ValueError, match="held out"):
        read_text(settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "which does not exist"),
        (lambda path: path.mkdir(), "a folder without files"),
        (lambda path: os.mkfifo(path), "neither a file nor a folder"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "which does not exist"),
    ],
)
def test_refuses_paths(toy, tmp_path, make, message):
    make(tmp_path / "thing")
    with pytest.raises(ValueError, match=f"text: got .*thing, .*{message}"):
        read_text(toy(text=(str(tmp_path / "thing"),)))


def test_refuses_the_same_file_twice(toy, text_path):
    with pytest.raises(ValueError, match="same file twice"):
        read_text(toy(text=(str(text_path), str(text_path.parent))))


def test_unreadable_files_are_refused_with_the_reason(toy, text_path, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    settings = toy(text=(str(text_path),))
    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(ValueError, match=r"text: got .*words.txt, expected a readable file: Permission denied"):
        read_text(settings)

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falloff.lab.text.pieces import character_start, pieces_of


def _chunks(content, sizes):
    chunks = []
    for size in sizes:
        chunks.append(content[:size])
        content = content[size:]
    return [*chunks, content]


@given(
    st.one_of(st.text(alphabet="ab \né𝄞", max_size=120).map(str.encode), st.binary(max_size=120)),
    st.lists(st.integers(0, 40), max_size=8),
    st.integers(4, 24),
)
def test_pieces_depend_on_the_document_alone(content, sizes, most):
    pieces = list(pieces_of(_chunks(content, sizes), most))
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= most for piece in pieces)
    assert pieces == list(pieces_of([content], most))


@given(st.text(alphabet="ab \né𝄞", max_size=120), st.integers(4, 24))
def test_no_character_is_cut(text, most):
    assert "".join(piece.decode() for piece in pieces_of([text.encode()], most)) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"short", [b"short"]),
        (b"", []),
        (b"two\nlines of text", [b"two\n", b"lines", b" of text"]),
        (b"one two three", [b"one two", b" three"]),
        (b"x" * 20, [b"x" * 8, b"x" * 8, b"x" * 4]),
        ("é".encode() * 5, ["éééé".encode(), "é".encode()]),
        ("xéééé".encode(), ["xééé".encode(), "é".encode()]),
    ],
)
def test_where_pieces_end(content, expected):
    assert list(pieces_of([content], 8)) == expected


def test_character_start_agrees_with_python():
    text = "".join(random.Random(0).choices("aé€𝄞", k=50))
    content = text.encode()
    starts = {len(text[:index].encode()) for index in range(len(text) + 1)}
    for position in range(len(content) + 1):
        assert character_start(content, position) == max(start for start in starts if start <= position)

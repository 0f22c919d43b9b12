"""Documents in pieces: a tokenizer sees at most one piece at a time, so that memory stays small however long a text is."""

from collections.abc import Iterable, Iterator

PIECE = 2**16
"""The most bytes of a piece: a document of at most so many is tokenized as a whole."""


def pieces_of(chunks: Iterable[bytes], most: int = PIECE) -> Iterator[bytes]:
    """Cut a document into pieces at ends of lines.

    A piece ends behind the last line feed within its first `most` bytes; in a longer line before the last space, or else
    between two characters of UTF-8. So the pieces depend on the document alone, not on the chunks that it is read in.

    >>> list(pieces_of([b"one line", b"\\nanother\\n"], most=12))
    [b'one line\\n', b'another\\n']
    """
    rest = b""
    for chunk in chunks:
        rest += chunk
        while len(rest) > most:
            end = _end(rest, most)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _end(content: bytes, most: int) -> int:
    line = content.rfind(b"\n", 0, most) + 1
    return line or max(content.rfind(b" ", 0, most), 0) or character_start(content, most) or most


def character_start(content: bytes, position: int) -> int:
    """Where the character of UTF-8 begins that this position lies in.

    >>> [character_start("aé".encode(), position) for position in (0, 1, 2, 3)]
    [0, 1, 1, 3]
    """
    start = position
    while start > max(position - 3, 0) and start < len(content) and content[start] & 0xC0 == 0x80:
        start -= 1
    return start

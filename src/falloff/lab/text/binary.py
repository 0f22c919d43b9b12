"""What is no text: compressed files, and files with NUL bytes."""

import re

SEEN = 8192
"""The bytes at the beginning that decide."""

_COMPRESSED = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
}
"""The first bytes of compressed files: a short one may contain no NUL."""


def binary_kind(beginning: bytes) -> str | None:
    """The kind of a content that is not text, from its first bytes; None for text in any encoding without NUL.

    >>> binary_kind(b"BZhou wrote this."), binary_kind(b"PK\\x03\\x04...")
    (None, 'a zip file')
    """
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", beginning):  # a text may begin with "BZh"
        return "a bzip2 file"
    for mark, kind in _COMPRESSED.items():
        if beginning.startswith(mark):
            return kind
    return "a binary file (it has NUL bytes)" if b"\0" in beginning[:SEEN] else None

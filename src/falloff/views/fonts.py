"""Fonts for labels in any script: of those installed, one that has what matplotlib's own lacks."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_BASE = "DejaVu Sans"  # matplotlib's own, which it always has
# Fonts of many scripts; others are not opened, since a machine may have thousands.
_WIDE = re.compile(
    r"CJK|Noto Sans|Noto Emoji|Unicode|Gothic|YaHei|Heiti|SimHei|PingFang|Hiragino|Malgun|WenQuanYi|Symbol|FreeSans",
    re.IGNORECASE,
)
_MOST_OPENED = 60


def families_for(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """The font families to draw texts with, in order, and the characters that none of them has."""
    families = [_BASE]
    missing = {sign for text in texts for sign in text if ord(sign) > 32} - _signs_of_base()
    for name, path in _wide_fonts() if missing else ():
        found = missing & _signs(path)
        if found:
            families.append(name)
            missing -= found
        if not missing:
            break
    return families, missing


def spelled_out(text: str, missing: set[str]) -> str:
    """A text with the code points of characters that no font has, instead of empty boxes.

    >>> spelled_out("a\u65e5", {"\u65e5"})
    'aU+65E5'
    """
    return "".join(f"U+{ord(sign):04X}" if sign in missing else sign for sign in text)


@lru_cache(maxsize=1)
def _signs_of_base() -> frozenset[str]:
    from matplotlib.font_manager import findfont

    return _signs(Path(findfont(_BASE)))


@lru_cache(maxsize=1)
def _wide_fonts() -> tuple[tuple[str, Path], ...]:
    from matplotlib.font_manager import fontManager

    found = {font.name: Path(font.fname) for font in fontManager.ttflist if _WIDE.search(font.name)}
    return tuple(sorted(found.items()))[:_MOST_OPENED]


@lru_cache(maxsize=_MOST_OPENED + 1)
def _signs(path: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(str(path)).get_charmap()))
    except (OSError, RuntimeError):  # a font that cannot be read, or one of colour bitmaps
        return frozenset()

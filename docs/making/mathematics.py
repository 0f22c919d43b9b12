"""Mathematics: `$...$` and `$$...$$` in a page become MathML when the site is built, so that no script runs in the reader's
browser. A font for mathematics, cut down to the characters in use, makes it look the same on every machine."""

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

_INLINE = r"(?<![\\$\w])\$(?![\s$])([^$\n]+?)(?<!\s)\$(?![\w$])"
_DISPLAY = re.compile(r"^( *)\$\$\n(.*?)\n\1\$\$$", re.MULTILINE | re.DOTALL)

_BARS = re.compile(r"<mo>&#x0007C;</mo>(.*?)<mo>&#x0007C;</mo>")
_FENCE = '<mo stretchy="false" fence="true" form="{}">&#x0007C;</mo>'
_FUNCTION = re.compile(r"<mi>(ln|cos|exp)</mi>(?=<(?:mi|msub|mfrac)>)")


def _mathml(latex: str, display: str) -> str:
    """A formula, with what the converter leaves out: that bars are brackets, and the space behind the name of a function."""
    made = convert(latex, display=display)
    made = _BARS.sub(lambda found: _FENCE.format("prefix") + found[1] + _FENCE.format("postfix"), made)
    return _FUNCTION.sub(r'\g<0><mspace width="0.167em"/>', made)


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Any, int, int]:  # noqa: N802
        return self.md.htmlStash.store(_mathml(m.group(1), "inline")), m.start(0), m.end(0)


class _Display(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return _DISPLAY.sub(self._stored, "\n".join(lines)).split("\n")

    def _stored(self, found: re.Match[str]) -> str:
        made = _mathml(found.group(2), "block")
        # Where it is too wide for the page it scrolls, by keys too.
        return found.group(1) + self.md.htmlStash.store(f'<div class="formula" tabindex="0">{made}</div>')


class Mathematics(Extension):
    """The extension of Python-Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(_Display(md), "display-mathematics", 24)  # after fenced code, which is put aside at 25
        md.inlinePatterns.register(_Inline(_INLINE, md), "mathematics", 189)  # after `code`, at 190


def makeExtension(**settings: Any) -> Mathematics:  # noqa: N802
    """What Python-Markdown calls."""
    return Mathematics(**settings)


def write_font(path: Path) -> None:
    """Write STIX Two Math (SIL Open Font License) with Latin, Greek and mathematical characters alone."""
    import ziamath
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    font = TTFont(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")
    subset = Subsetter(Options(layout_features=["ssty", "dtls"], notdef_outline=True))
    subset.populate(
        unicodes=[
            *range(0x20, 0x7F),
            *range(0xA0, 0x100),
            *range(0x300, 0x370),  # accents
            *range(0x370, 0x400),  # Greek
            *range(0x2000, 0x2070),
            *range(0x2070, 0x20A0),
            *range(0x2100, 0x2400),  # arrows, operators, brackets and their parts
            *range(0x27C0, 0x2800),
            *range(0x1D400, 0x1D468),  # bold and italic letters
            *range(0x1D6A8, 0x1D71C),  # and Greek ones
        ]
    )
    subset.subset(font)
    font.flavor = "woff"
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)

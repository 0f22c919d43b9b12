"""Checks of the built site that Zensical does not make: every link and image leads somewhere, nothing is loaded from another
host, no formula is left as LaTeX, and every public name has its entry."""

import importlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

PUBLIC = ("falloff", "falloff.distributed", "falloff.hf", "falloff.views")
_LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "src"), ("iframe", "src")}
_NOT_LOADED = {"canonical", "prev", "next", "alternate"}  # kinds of <link> that fetch nothing


class _Page(HTMLParser):
    """Links, loaded files, ids and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.without_alt: list[str] = []
        self.text = ""
        self._inside_code = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.ids.add(named.get("id", ""))
        self._inside_code += tag in ("code", "script", "style", "annotation")
        for name, value in named.items():
            if (tag, name) in _LOADED and named.get("rel") not in _NOT_LOADED:
                self.loaded.append(value)
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag == "img" and not named.get("alt"):
            self.without_alt.append(named.get("src", ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside_code -= tag in ("code", "script", "style", "annotation")

    def handle_data(self, data: str) -> None:
        if not self._inside_code:
            self.text += data


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a built site, a line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{name}: loads {address} from another host"
            elif urlsplit(address).scheme != "data" and not (path.parent / unquote(urlsplit(address).path)).exists():
                yield f"{name}: loads {address}, which does not exist"
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{name}: links to {address}, which does not exist"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{name}: links to {address}, which has no such place"
        for image in page.without_alt:
            yield f"{name}: image {image} has no text for those who cannot see it"
        if "\\frac" in page.text or "$$" in page.text or "--8<--" in page.text:
            yield f"{name}: shows its source: a formula or an inclusion was not replaced"
    entries = {one for page in pages.values() for one in page.ids}
    for module in PUBLIC:
        for public in importlib.import_module(module).__all__:
            if f"{module}.{public}" not in entries:
                yield f"{module}.{public} has no entry in the reference"

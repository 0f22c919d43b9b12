"""Open every page of the built site in Chromium, as wide as on a desk and as on a phone, and use the search.

Nothing may be fetched from another host, no error appear in the console, nothing be wider than the window, and axe-core find
no serious fault.

Screenshots of all pages go to build/docs/screens, to look at.
"""

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
SCREENS = ROOT / "build" / "docs" / "screens"
AXE = ROOT / "build" / "axe-core" / "package" / "axe.min.js"
WIDTHS = (1200, 390)
_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Wide tables scroll in a box that the theme's script makes; browsers let keys scroll it, which axe-core does not know.
_SERIOUS = """axe.run({rules: {"scrollable-region-focusable": {enabled: false}}}).then(found => found.violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .map(one => `${one.id}: ${one.nodes[0].html.slice(0, 120)}`))"""


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Without a line for each request."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of the folder on this machine; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def look(page: Page, address: str, path: Path, wrong: list[str]) -> list[str]:
    """Open a page; what is wrong with it. `wrong` is what console and network say of it."""
    wrong.clear()
    width = page.viewport_size["width"] if page.viewport_size else 0
    name = path.relative_to(SITE).with_suffix("")
    page.goto(f"{address}/{path.relative_to(SITE)}")
    if page.evaluate(_WIDER) > 0:
        wrong.append(f"is {page.evaluate(_WIDER)} pixels wider than the window")
    if AXE.exists():
        page.add_script_tag(path=AXE)
        wrong.extend(page.evaluate(_SERIOUS))
    page.screenshot(path=SCREENS / f"{str(name).replace('/', '-')}-{width}.png", full_page=True)
    return [f"{name} at {width} pixels: {one}" for one in wrong]


def search(page: Page, address: str) -> list[str]:
    """Search for a word; what is wrong."""
    page.goto(f"{address}/index.html")
    try:
        for _ in range(10):  # keys that are pressed before the page's script has begun are lost
            page.keyboard.press("Control+k")
            page.wait_for_timeout(500)
            if page.locator("input:focus").count():
                break
        page.keyboard.type("diagonal")
        page.get_by_text("The gradient of a strip").first.wait_for(timeout=10_000)
    except Exception as error:
        return [f"search: {str(error).splitlines()[0]}"]
    return []


def main() -> int:
    """Look at all pages; the exit status."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    wrong: list[str] = []
    pages = sorted(SITE.rglob("*.html"))
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with served(SITE) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900}, bypass_csp=True)
            page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
            for path in pages:
                faults += look(page, address, path, wrong)
        faults += search(browser.new_page(), address)
        browser.close()
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages)} pages at {' and '.join(map(str, WIDTHS))} pixels, {len(faults)} faults; screenshots in {SCREENS}")
    return 1 if faults or not pages else 0


if __name__ == "__main__":
    sys.exit(main())

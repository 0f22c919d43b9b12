"""A server of the page and a real browser for it. Without Chromium or Playwright, the tests say so and are skipped."""

import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "axe-core" / "package" / "axe.min.js"
WIDTHS = (1200, 390)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    pytest.importorskip("dash")
    from falloff.explore.app import make_server

    server = make_server("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


class Visit:
    """A tab at one page: what the console and the network saw is checked when it closes."""

    def __init__(self, browser, address, width, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True, bypass_csp=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.address = address
        self.wrong = []
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._see)
        self.asked = set()
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, lambda request: self.asked.discard(request))
        self.page.on("response", lambda got: self.wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)

    def _see(self, request):
        self.asked.add(request)
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.wrong.append(f"a request to another host: {request.url}")

    def open(self, path):
        self.page.goto(self.address + path)
        self.page.locator("main h1").wait_for()
        self.settle()
        return self.page

    def settle(self):
        """Wait until nothing is asked of the server any more and every figure is drawn."""
        # What was just typed or clicked is on its way, by the browser's own clock: on a busy machine it may stand still.
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 150)))")
        for _ in range(150):
            drawn = self.page.evaluate(
                "![...document.querySelectorAll('.dash-graph--pending')].some((plot) => plot.offsetParent)"
            )
            if not self.asked and drawn:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"still busy with {self.asked}")

    def faults(self):
        """What axe-core finds serious or critical, in short."""
        if not AXE.exists():
            pytest.skip("no axe-core: make axe (needs npm)")
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]


@pytest.fixture
def visit(browser, address):
    opened = []

    def start(width=1200, **more):
        opened.append(Visit(browser, address, width, **more))
        return opened[-1]

    yield start
    for tab in opened:
        tab.context.close()
    assert [line for tab in opened for line in tab.wrong] == []

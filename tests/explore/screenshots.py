"""Writes a picture of every page at both widths, as small PNG files: python tests/explore/screenshots.py FOLDER."""

import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from explore.conftest import ARGUMENTS, WIDTHS, Visit
from explore.runs import small_run
from falloff.explore.app import make_server

_HEIGHTS = {1200: 1700, 390: 2400}  # a picture is cut off there
_COLOURS = 128


def main(folder: Path) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = make_server("127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        os.chdir(scratch)  # so that the pictures show a short path
        Path("runs").mkdir()
        run = small_run(Path("runs/compare-quick"), ("t5", "fire", "alibi"), train_length=64, steps=150, seeds=(0, 1, 2))
        pages = {
            "scheme": "/?scheme=t5,fire",
            "attention": "/attention?scheme=alibi",
            "compare": f"/compare?checkpoint={run}",
            "checkpoint": f"/checkpoint?checkpoint={run}",
            "exercises": "/exercises?kind=grid&seed=3",
        }
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, path in pages.items():
            for width in WIDTHS:
                tab = Visit(browser, f"http://127.0.0.1:{server.port}", width, "dark" if name == "attention" else "light")
                page = tab.open(path)
                if name == "attention":
                    page.get_by_role("button", name="Count for these settings").click()
                tab.settle()
                drawn = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                drawn = drawn.crop((0, 0, width, min(drawn.height, _HEIGHTS[width])))
                target = folder / f"{name}-{width}.png"
                drawn.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
                print(target.name, f"{target.stat().st_size / 1000:.0f} kB", *tab.wrong)
                tab.context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Make the documentation: figures, drawings, tables and outputs, then the site, then checks of the site."""

import shutil
import subprocess
import sys
from pathlib import Path

from falloff import views
from falloff.views.figures import save_figure
from making import check, comparison, fences, results, schemes
from making.drawings import drawings
from making.figures import figures
from making.mathematics import write_font

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
GENERATED = PAGES / "generated"  # images and files that pages show or link to
SNIPPETS = ROOT / "build" / "docs"  # text that pages include
SITE = ROOT / "build" / "site"


def generate() -> None:
    """Write everything that pages include."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    SNIPPETS.mkdir(parents=True, exist_ok=True)
    (GENERATED / "results").mkdir(parents=True)
    write_font(GENERATED / "mathematics.woff")
    others = schemes.without_page(PAGES / "schemes")
    for name, figure in (*figures(), *schemes.figures(others)):
        save_figure(figure, GENERATED / f"{name}.svg")
    for name, svg in drawings():
        (GENERATED / f"{name}.svg").write_text(svg, encoding="utf-8")
    for picture in ("comparison.png", "report.png", "t5-grid.png"):
        shutil.copy(ROOT / "docs" / picture, GENERATED)
    shutil.copytree(ROOT / "docs/explore", GENERATED / "explore")
    for name in results.results():
        shutil.copy(results.FOLDER / name, GENERATED / "results")
    entries = "\n\n".join(f"::: falloff.views.{name}" for name in views.__all__)
    (SNIPPETS / "falloff.views.md").write_text(entries, encoding="utf-8")
    (SNIPPETS / "schemes.md").write_text(schemes.section(others), encoding="utf-8")
    (GENERATED / "comparison.html").write_text(comparison.report(), encoding="utf-8")
    (SNIPPETS / "comparison.md").write_text(comparison.section(), encoding="utf-8")
    (SNIPPETS / "speed.md").write_text(results.speed_page(), encoding="utf-8")
    fences.write_outputs(sorted(PAGES.rglob("*.md")))


def build() -> list[str]:
    """Build the site; return what went wrong, line by line."""
    command = [Path(sys.executable).parent / "zensical", "build", "--strict", "--clean"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    # Griffe's warnings about docstrings do not stop Zensical.
    warned = [line for line in run.stdout.splitlines() if line.startswith("griffe:")]
    if run.returncode:
        return [*warned, run.stdout]
    return [*warned, *check.faults(SITE)]


def main() -> int:
    """Make it all; the exit status."""
    generate()
    faults = build()
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(faults)} faults" if faults else f"The documentation is in {SITE / 'index.html'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

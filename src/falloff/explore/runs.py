"""The figures of a run of `falloff compare`: those of its report, in the page's colours."""

from pathlib import Path
from typing import Any

from dash import html

from falloff.explore.theme import Theme
from falloff.lab.charts import extrapolation_chart
from falloff.lab.config import Settings
from falloff.lab.folder import RunFolder
from falloff.lab.tables import old_lines

LEVEL = "The same bytes at every length: a level line means that longer context does no harm."
BARS = "Bars are 95% intervals. Solid: learned; dashed: heuristic; dotted: baseline."


def run_of(path: Path) -> tuple[RunFolder, dict[str, Any], list[dict[str, Any]]]:
    """The folder of a run, its config and its results.

    Raises:
        ValueError: if it is not one, or holds no result.
        OSError: if it cannot be read.
    """
    folder = RunFolder(path)
    config = folder.stored_config(device="cpu")
    if config is None:
        raise ValueError(f"run: got {str(path)!r}, expected the folder of a run of falloff compare, with its config.json")
    results = folder.results(config)
    if not results:
        raise ValueError(f"run: got {str(path)!r}, which holds no result yet, expected a run with a complete scheme")
    return folder, config, results


def charts(path: Path, theme: Theme) -> tuple[Any, Any, Any]:
    """Perplexity by test length, of the tail and of all bytes, and a line about the run."""
    folder, config, results = run_of(path)
    settings, results = Settings.from_json(config["settings"]), old_lines(results)
    figures = []
    for tail in (True, False):
        figure = extrapolation_chart(results, settings.train_length, tail=tail).to_dict()
        layout = figure["layout"]
        layout.pop("height", None)
        layout["font"]["color"] = theme.ink
        layout["legend"]["y"] = -0.22  # below the axis's title, in the smaller height of this page
        layout |= {"paper_bgcolor": theme.ground, "plot_bgcolor": theme.ground, "dragmode": False}
        for name in ("xaxis", "yaxis"):
            layout[name] |= {"gridcolor": theme.grid, "linecolor": theme.mark, "fixedrange": True, "automargin": True}
        for note in layout.get("annotations", ()):
            note["font"]["color"] = theme.soft
        figures.append(figure)
    names = list(dict.fromkeys(line["scheme"] for line in results))
    said = f"{folder.path.name}: {len(names)} schemes, trained at {settings.train_length} bytes for {settings.steps} steps."
    return figures[0], figures[1], html.P(said, className="note")

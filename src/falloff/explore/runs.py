"""The figures of a run of `falloff compare`: those of its report, in the page's colours."""

from pathlib import Path
from typing import Any

from falloff.explore.theme import Theme
from falloff.lab.figures.charts import length_chart
from falloff.lab.figures.rank_chart import rank_chart
from falloff.lab.figures.style import on_dark
from falloff.lab.findings.tables import TaskTable, interval_words, short_name, task_tables, unit_of
from falloff.lab.store.folder import RunFolder


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
        raise ValueError(f"run: got {str(path)!r}, which holds no result yet, expected a run with a complete trial")
    return folder, config, results


class Run:
    """What is shown of a run.

    Args:
        path: of its folder.

    Raises:
        ValueError, OSError: as `run_of` does.
    """

    def __init__(self, path: Path) -> None:
        folder, self.config, results = run_of(path)
        self.name = folder.path.name
        self.tables = task_tables(self.config, results)

    @property
    def measures(self) -> dict[str, str]:
        """What can be shown, by task and measure, each with its words."""
        several = len(self.tables) > 1
        return {
            f"{table.task}/{measure['name']}": (f"{table.task}: " if several else "") + short_name(measure)
            for table in self.tables
            for measure in table.measures
        }

    def figures(self, chosen: str, theme: Theme) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The chart by length, and the chart of ranks at the longest length, if there are several seeds.

        Args:
            chosen: one of `measures`.
            theme: of the page.
        """
        table, measure = self._chosen(chosen)
        unit = unit_of(self.config, table.task)
        by_length = length_chart(table, measure, self.config["settings"]["train_length"], unit)
        longest = max(length for name, length in table.columns if name == measure["name"])
        ranks = rank_chart(table, measure["name"], longest) if table.over == "seeds" else None
        return _in_theme(by_length, theme), ranks and _in_theme(ranks, theme)

    def said(self, chosen: str) -> str:
        """A few sentences about the run and its intervals."""
        table, measure = self._chosen(chosen)
        settings, unit = self.config["settings"], unit_of(self.config, table.task)
        seeds = f"{len(table.seeds)} seeds" if len(table.seeds) > 1 else f"seed {table.seeds[0]}"
        schemes = f"{len(table.rows)} {'scheme' if len(table.rows) == 1 else 'schemes'}"
        return (
            f"{self.name}: {schemes}, {seeds}, trained at {settings['train_length']:,} {unit}s for "
            f"{settings['steps']:,} steps. Shown: {measure['words']}. Bars: {interval_words(table)}."
        )

    def _chosen(self, chosen: str) -> tuple[TaskTable, dict[str, Any]]:
        for table in self.tables:
            for measure in table.measures:
                if f"{table.task}/{measure['name']}" == chosen:
                    return table, measure
        raise ValueError(f"measure: got {chosen!r}, expected one of {', '.join(self.measures)}")


def _in_theme(figure: Any, theme: Theme) -> dict[str, Any]:
    drawn: dict[str, Any] = figure.to_dict()
    layout = drawn["layout"]
    layout.pop("height", None)
    layout["font"]["color"] = theme.ink
    if "legend" in layout:
        layout["legend"]["y"] = -0.22  # below the axis's title, in the smaller height of this page
    layout |= {"paper_bgcolor": theme.ground, "plot_bgcolor": theme.ground, "dragmode": False}
    for name in ("xaxis", "yaxis"):
        layout[name] |= {"gridcolor": theme.grid, "linecolor": theme.mark, "fixedrange": True, "automargin": True}
    for note in layout.get("annotations", ()):
        note["font"]["color"] = theme.soft
    if theme.dark:
        likes = on_dark()
        for trace in drawn["data"]:
            for part in (trace[name] for name in ("line", "marker", "error_y") if name in trace):
                if "color" in part:
                    part["color"] = likes.get(part["color"], part["color"])
    return drawn

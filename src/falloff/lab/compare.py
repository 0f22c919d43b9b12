"""The run behind `falloff compare`: the same model once per scheme, task and seed, trained short, tested long."""

from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from falloff.lab import processes, sharing
from falloff.lab.cluster.start import check_cluster
from falloff.lab.config import SAVE_SECONDS, Settings
from falloff.lab.describing import describe, scheme_notes
from falloff.lab.extras import require
from falloff.lab.model import Decoder, build_model
from falloff.lab.presets import DEFAULT_PRESET
from falloff.lab.progress import Progress, Silent
from falloff.lab.published import section_for
from falloff.lab.report import report_page
from falloff.lab.running import run_trial
from falloff.lab.store.folder import RunFolder, check_same, deciding
from falloff.lab.store.results import result_lines
from falloff.lab.store.trials import Trial, trials_of
from falloff.lab.tasks import TASKS, Task
from falloff.lab.text.corpus import read_text
from falloff.lab.text.paper_text import check_text
from falloff.lab.trackers import check_trackers
from falloff.lab.training import cpu_threads


@dataclass(frozen=True)
class Comparison:
    """A complete run.

    Args:
        folder: of the run.
        config: as in config.json.
        results: as in results.jsonl, in the order of trials.
    """

    folder: RunFolder
    config: dict[str, Any]
    results: list[dict[str, Any]]


def compare_schemes(
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
    cluster: str | None = None,
    trackers: tuple[str, ...] = (),
    published: str | None = None,
    context_parallel: int = 1,
) -> Comparison:
    """Train and test one model for each task, scheme and seed, and write the folder of the run with its report.

    Under `torchrun` or `accelerate launch`, all processes call it with the same arguments and run each trial together.

    Args:
        settings: what to compare, and how.
        out: the output folder; new or empty, unless `resume`. Only the main process reads and writes it.
        resume: whether to continue the run in that folder. Complete trials are kept, and one under way continues from its
            last state. Run are trials that are missing or damaged, and those of the schemes, tasks and seeds that `settings`
            adds. The numbers equal those of a run without interruption.
        progress: called with the progress, and with notes on damaged files and text that was left out.
        save_seconds: how often the state of a training is stored; at least 0, which stores it after every step.
        cluster: None runs the trials in turn, in this process. "local" and an address run them on Ray (extra `ray`): see
            `falloff.lab.cluster.start.connected`. The numbers are the same.
        trackers: names of `falloff.lab.trackers.TRACKERS` that follow each trial; not on Ray.
        published: the preset of a paper whose figures stand beside the results in the report; by default those of the
            preset itself, if it is a paper's.
        context_parallel: so many of the processes share each window, by `falloff.distributed`; the others share batches.

    Raises:
        ValueError: for text, settings or a folder that cannot be used; if another run is at work in the folder; if `resume`
            finds the folder of another run; if processes have different texts, code or versions.
        ImportError: if an extra is missing.
        OSError: if a file cannot be written, naming it; `resume` continues from there.

    Each trial is stored before the next begins.
    """
    for module in ("accelerate", "safetensors.torch", "plotly", "scipy.stats"):
        require(module)  # fail before the work, not after it
    check_options(settings, save_seconds, cluster, trackers, context_parallel)
    section = section_for(settings.preset, published)
    folder = RunFolder(out)
    with processes.joined(), sharing.windows_shared(context_parallel), ExitStack() as held:
        progress = (progress or Progress()) if processes.is_main() else Silent()
        stored = processes.on_main(lambda: _usable(folder, resume))
        if stored is not None:
            settings = _joined(Settings.from_json(stored["settings"]), settings)
        threads = _threads(settings, stored, cluster)
        tasks, own, left_out = processes.everywhere(lambda: _described(settings, threads, progress), main_first=True)
        for line in left_out:
            progress.note(line)
        main = processes.on_main(lambda: own)
        processes.everywhere(lambda: _check_alike(main, own))
        processes.on_main(lambda: held.enter_context(folder.locked()))
        config = processes.on_main(lambda: _written(folder, stored, main))
        with cpu_threads(threads):
            results = run_trials(folder, config, tasks, progress, save_seconds, cluster, trackers)
        comparison = Comparison(folder, config, results)
        processes.on_main(lambda: write_report(comparison, section))
    return comparison


def check_options(
    settings: Settings, save_seconds: float, cluster: str | None, trackers: tuple[str, ...], context_parallel: int
) -> None:
    """Check what says how to run a comparison, not what it compares; see `compare_schemes`.

    Raises:
        ValueError, ImportError: as `compare_schemes` does.
    """
    # `not` around the comparison, so that NaN, with which nothing would be stored, is refused
    if isinstance(save_seconds, bool) or not isinstance(save_seconds, int | float) or not save_seconds >= 0:
        raise ValueError(f"save_seconds: got {save_seconds!r}, expected a number of seconds, at least 0")
    if cluster is not None:
        require("ray")
        check_cluster(cluster, settings)
    check_trackers(trackers)
    if cluster is not None and (trackers or processes.launched() > 1):
        alone = "no tracker" if trackers else f"one process, not {processes.launched()}"
        raise ValueError(f"cluster: got {cluster!r}, expected {alone} beside it: Ray starts processes of its own")
    if cluster is not None and context_parallel != 1:
        raise ValueError(
            f"context_parallel: got {context_parallel} with cluster, expected 1: there, trials are on one process"
        )


def _usable(folder: RunFolder, resume: bool) -> dict[str, Any] | None:
    """The config of the run that the folder holds and that is to be resumed; None for a folder in which one can begin."""
    folder.check_usable()
    stored = folder.stored_config() if resume else None
    if stored is None:
        folder.check_free()
    return stored


def _described(
    settings: Settings, threads: int | None, progress: Progress
) -> tuple[dict[str, Task], dict[str, Any], tuple[str, ...]]:
    """The tasks of a run, its config, and notes on text that was left out."""
    sharing.check_shares(settings)
    check_text(settings)
    notes = scheme_notes(settings)  # a wrong scheme of the user's own fails before the work too
    text = read_text(settings, progress.note) if any(TASKS[name].needs_text for name in settings.tasks) else None
    tasks = {name: TASKS[name](settings, text) for name in settings.tasks}
    with cpu_threads(threads):
        config = describe(settings, text, tasks, notes)
    return tasks, config, () if text is None else text.left_out


def _check_alike(main: dict[str, Any], own: dict[str, Any]) -> None:
    """Check that this process would compute what the main one does: processors may differ, but nothing else.

    Raises:
        ValueError: naming what differs.
    """
    theirs, ours = ({**deciding(config | {"machine": {}}), "code": config.get("code")} for config in (main, own))
    differing = [f"{name} {ours[name]!r}, not {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise ValueError(f"processes: got one with {'; '.join(differing)}, expected the same as on the main process")


def _written(folder: RunFolder, stored: dict[str, Any] | None, config: dict[str, Any]) -> dict[str, Any]:
    """The config of the run, written to its folder."""
    if folder.stored_config() != stored:
        raise ValueError(f"out: got {folder.path}, which another run has changed meanwhile, expected --resume again")
    if stored is not None:
        check_same(stored, config)
        config = _commits_kept(config, stored)
    folder.write_config(config)
    return config


def run_trials(
    folder: RunFolder,
    config: dict[str, Any],
    tasks: dict[str, Task],
    progress: Progress,
    save_seconds: float,
    cluster: str | None = None,
    trackers: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Run the trials of a run that are not complete, in turn or on a cluster, and write results.jsonl as they come.

    Returns:
        The lines of results.jsonl.
    """
    settings = Settings.from_json(config["settings"])
    trials = trials_of(settings)

    def results_before() -> list[dict[str, Any] | None]:
        done, lost = folder.completed(config)
        for line in lost:
            progress.note(line)
        for trial in done:
            folder.trial(trial, config).tidy()
        return [done.get(trial) for trial in trials]

    before = zip(trials, processes.on_main(results_before), strict=True)
    done = {trial: result for trial, result in before if result is not None}
    left = [trial for trial in trials if trial not in done]
    progress.start(len(trials), len(done), sum(settings.steps + tasks[trial.task].work() for trial in left))
    if cluster is None or not left:
        found = _in_turn(folder, config, left, tasks, progress, save_seconds, trackers)
    else:
        from falloff.lab.cluster.driver import on_cluster

        found = on_cluster(cluster, folder, config, left, tasks, progress, save_seconds)
    lines = _lines(trials, done)
    with closing(found):
        for trial, result in found:
            done[trial] = result
            lines = _lines(trials, done)
            processes.on_main(partial(folder.write_results, lines))
    if not left:
        processes.on_main(partial(folder.write_results, lines))
    return lines


def _lines(trials: list[Trial], done: dict[Trial, dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of results.jsonl, in the order of the trials, whichever was done first."""
    return [line for trial in trials if trial in done for line in result_lines(done[trial])]


def _in_turn(
    folder: RunFolder,
    config: dict[str, Any],
    left: list[Trial],
    tasks: dict[str, Task],
    progress: Progress,
    save_seconds: float,
    trackers: tuple[str, ...],
) -> Generator[tuple[Trial, dict[str, Any]]]:
    """Run trials one after the other."""
    settings = Settings.from_json(config["settings"])
    for trial in left:
        stored = folder.trial(trial, config)
        yield trial, run_trial(settings, trial, tasks[trial.task], stored, progress, save_seconds, trackers)


def _joined(before: Settings, now: Settings) -> Settings:
    """The settings of a resumed run: it keeps its schemes, tasks and seeds, and more may be added."""

    def joined(earlier: tuple[Any, ...], later: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys((*earlier, *later)))

    return now.changed(**{name: joined(getattr(before, name), getattr(now, name)) for name in ("schemes", "tasks", "seeds")})


def _threads(settings: Settings, stored: dict[str, Any] | None, cluster: str | None) -> int | None:
    """The threads of torch, which decide the last bits: those of the run that is resumed; on a cluster, one."""
    if settings.threads is not None:
        return settings.threads
    if stored is not None:
        return stored["machine"]["threads"]
    return None if cluster is None else 1


def resolve(preset: str | None, out: Path | None, *, resume: bool = False, **changes: Any) -> tuple[Settings, Path]:
    """The settings and the folder for the options of a command.

    Args:
        preset: by default "small"; with `resume`, that of the folder's run.
        out: by default runs/compare-<preset>.
        resume: whether to take settings that are not given from the run in that folder, if there is one.
        changes: the given settings; None for a setting that is not given.

    Raises:
        ValueError: as `Settings` does.

    >>> settings, out = resolve("quick", None, steps=5)
    >>> settings.steps, out.as_posix()
    (5, 'runs/compare-quick')
    """
    out = Path("runs") / f"compare-{preset or DEFAULT_PRESET}" if out is None else out
    stored = RunFolder(out).stored_config() if resume else None
    if stored is None:
        return Settings.of_preset(preset or DEFAULT_PRESET, **changes), out
    before = Settings.from_json(stored["settings"])
    if changes.get("text") is None and changes.get("dataset") is None:
        changes |= {"text": before.text, "dataset": before.dataset}
    else:  # a text takes the place of a dataset, and the other way round
        before = replace(before, text=(), dataset=None)
    if preset is None:
        return before.changed(**changes), out
    # A preset that is given again must agree with the run: `check_same` names the settings that differ.
    kept = {name: getattr(before, name) for name in ("schemes", "tasks", "seeds", "text_limit", "tokenizer")}
    return Settings.of_preset(preset, **{**kept, **_given(changes)}), out


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


def _commits_kept(config: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """The config of a resumed run: it keeps its first commit, and lists the commits at which it was resumed."""
    earlier = [stored["git_commit"], *stored.get("resumed_at_commits", [])]
    later = [commit for commit in dict.fromkeys([*earlier, config["git_commit"]]) if commit != earlier[0]]
    return {**config, "git_commit": earlier[0]} | ({"resumed_at_commits": later} if later else {})


def load_model(folder: RunFolder, config: dict[str, Any], trial: Trial) -> Decoder:
    """The trained model of a trial, on the CPU.

    Raises:
        ValueError: if the folder has no checkpoint of it, or one that does not fit.
    """
    settings = Settings.from_json(config["settings"])
    model = build_model(settings, trial.scheme, trial.seed, config["tasks"][trial.task]["vocabulary"])
    stored = folder.trial(trial, config)
    try:
        model.load_state_dict(stored.model())
    except RuntimeError as error:
        raise ValueError(f"out: got {stored.model_path}, expected the model of {trial}: {error}") from None
    return model.eval()


@torch.no_grad()
def write_report(comparison: Comparison, published: str | None = None) -> None:
    """Write report.html from the content of the folder, with a section of published figures if there is one.

    Biases are drawn of the first task and seed.
    """
    settings = Settings.from_json(comparison.config["settings"])
    shown = [Trial(settings.tasks[0], name, settings.seeds[0]) for name in settings.schemes]
    models = {trial.scheme: load_model(comparison.folder, comparison.config, trial) for trial in shown}
    # A bias that depends on what the tokens say has no values to draw.
    schemes = {name: model.scheme for name, model in models.items() if model.scheme and not model.scheme.needs_content}
    comparison.folder.write_report(report_page(comparison.config, comparison.results, schemes, published))

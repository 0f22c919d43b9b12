"""Comparing schemes by training: `falloff compare`."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from falloff.cli.choices import CHOICES, print_choices
from falloff.cli.planning import print_plan
from falloff.lab.config import KNOWN_SCHEMES, SAVE_SECONDS
from falloff.lab.gpus import GPUS, USUAL_UTILISATION
from falloff.lab.presets import PRESETS
from falloff.lab.protocols import PROTOCOLS
from falloff.lab.published import published_names
from falloff.lab.tasks import TASKS
from falloff.named import OWN_NAMES, is_own, scheme_class

_PANEL = "Overriding the preset"
_PLAN = "Before a long run"


def _whole(value: str | int) -> int:  # a default is a number already
    try:
        return int(value)
    except ValueError:
        raise typer.BadParameter(f"got {value!r}, expected a whole number") from None


def whole_numbers(argument: str, written: str) -> tuple[int, ...]:
    """Whole numbers from a list with ranges.

    Raises:
        ValueError: if it is none.

    >>> whole_numbers("seeds", "0..2,7")
    (0, 1, 2, 7)
    """
    found: list[int] = []
    for part in written.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:\.\.\s*(\d{1,18})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 100_000:
            raise ValueError(f"{argument}: got {written!r}, expected whole numbers such as 3, or 0,1,2, or 0..4")
        found += range(first, last + 1)
    return tuple(found)


def compare(
    more_text: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="More paths after --text.", show_default=False)
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="PATH...",
            help="Files or folders to train and test on; by default the source of Python's standard library.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="A Hugging Face dataset instead: NAME or NAME:CONFIGURATION on the hub, or a path (extra `datasets`).",
            show_default=False,
        ),
    ] = None,
    text_limit: Annotated[
        int | None,
        typer.Option(
            "--text-limit",
            parser=_whole,
            metavar="BYTES",
            help="The most bytes of text to read; by default all of --text, and 64,000,000 of --dataset.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    schemes: Annotated[
        list[str] | None,
        typer.Option(
            "--schemes",
            "--scheme",
            metavar="a,b,...",
            help=f"Which to compare: {', '.join(KNOWN_SCHEMES)}; by default all but those whose bias depends on what the "
            f"tokens say. Or {OWN_NAMES}, with its default settings.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="quick (2 minutes on 2 cores), small (the default; 6), gpu, or a published protocol: "
            f"{', '.join(name for name, preset in PRESETS.items() if preset.paper)}. --list presets says more.",
            show_default=False,
        ),
    ] = None,
    train_length: Annotated[
        int | None,
        typer.Option(
            "--train-length",
            parser=_whole,
            metavar="N",
            help="Tokens in a training window; tested at 1, 2, 4 and 8 times it, or at --lengths.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", parser=_whole, metavar="N", help="Training steps for each trial.", rich_help_panel=_PANEL),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            metavar="a,b,...",
            help=f"What is learned and tested: {', '.join(TASKS)}; by default text, language modelling. A small model needs "
            "more steps for some: see the documentation. --list tasks says more.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            "--seed",
            metavar="0..4",
            help="Of start weights and batches: every scheme is trained once for each. 3, or 0,1,2, or 0..4; by default 0.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help=f"How windows are cut from held-out text, and which tokens count: {', '.join(PROTOCOLS)}.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="1,2,4,8",
            help="Test lengths, in trained lengths.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="FILE",
            help="A tokenizer.json of the library `tokenizers` (extra `tokenizers`); by default, tokens are bytes.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Compile the model by torch.compile.", rich_help_panel=_PANEL),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate",
            parser=_whole,
            metavar="N",
            help="Train each batch in N parts that follow one another: less memory.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the plan only: tokens, parameters, memory of a step and hours. Needs no text and no network.",
            rich_help_panel=_PLAN,
        ),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help=f"With --dry-run: hours on {', '.join(GPUS)}; by default a step on this machine is measured.",
            rich_help_panel=_PLAN,
            show_default=False,
        ),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            "--utilisation",
            metavar="U",
            help=f"The share of that GPU's peak that is assumed; by default {USUAL_UTILISATION}.",
            rich_help_panel=_PLAN,
            show_default=False,
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="NAME",
            help=f"Show the figures of a paper in the report, as its own: {', '.join(published_names())}; by default those "
            "of the preset's paper.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="WHAT",
            help=f"Print the choices with a sentence each, and nothing else: {', '.join(CHOICES)}.",
            show_default=False,
        ),
    ] = None,
    save_seconds: Annotated[
        float,
        typer.Option("--save-every", min=0.0, metavar="S", help="Store a training under way every S seconds."),
    ] = SAVE_SECONDS,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="local|ADDRESS",
            help="Run several trials at once by Ray (extra `ray`): on the cores or GPUs of this machine, or of the cluster "
            "at HOST:PORT, whose nodes share DIR.",
            show_default=False,
        ),
    ] = None,
    context_parallel: Annotated[
        int,
        typer.Option(
            "--context-parallel",
            parser=_whole,
            metavar="K",
            help="Of the processes that torchrun or accelerate launch starts, K share each window: for lengths that one "
            "device cannot hold.",
            show_default=False,
        ),
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="D", help="cpu, cuda or cuda:N; by default the GPU if there is one.", show_default=False
        ),
    ] = None,
    trackers: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker",
            metavar="NAME",
            help="Follow the training in tensorboard, wandb or trackio; repeat it for several.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write; by default runs/compare-PRESET.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in that folder, if there is one; --schemes adds to it.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead, and nothing while it runs.")
    ] = False,
) -> None:
    """Train the same small model once per scheme, task and seed, and test it beyond the trained length.

    Writes to DIR: config.json, results.jsonl (one line per trial, length and measure), report.html, one page that needs no
    network, and trials/TASK/SCHEME/SEED with the trained model. A trial is stored when it is complete, and its training
    every minute. --resume continues, and runs damaged trials again; name a scheme of your own again, since this runs its
    code.

    On several processes or machines: torchrun --nproc-per-node 2 -m falloff compare ..., or accelerate launch -m falloff
    compare ...; they share every batch, by DDP, or by FSDP with --use_fsdp --fsdp_version 2; with --context-parallel,
    they share windows too.

    Keys of --json: out, report (paths), config (as config.json), results (list as results.jsonl: task, protocol, scheme,
    kind, seed, train_length, length, measure, value, low, high, items, depths, together, parameters, bias_parameters,
    seconds_per_step, tokens_per_second, peak_memory_mb, processes, context_parallel, test_batch, test_seconds,
    test_tokens_per_second, test_peak_memory_mb, sha256).

    Keys of --dry-run --json: preset, settings, vocabulary, steps, tokens_per_step, training_tokens and test_tokens of a
    trial, trials, schemes (list of scheme, parameters, bias_parameters, flops_per_step, flops and hours of a trial, and
    memory: the bytes of weights, optimizer, gradients, activations, logits, and peak), total_flops, total_hours,
    flops_per_second, speed (where that is from) and paper (null, or reference, text, tokens, sources, chosen, differs). Of
    --list --json: a list of name and summary.

    Example: falloff compare --preset quick --schemes t5,alibi,rope
    """
    from falloff.lab import processes  # here, so that --help is fast

    if listed is not None:
        print_choices(listed, as_json=as_json)
        return
    if (gpu is not None or utilisation is not None) and not dry_run:
        option = "gpu" if gpu is not None else "utilisation"
        raise ValueError(f"{option}: got it without --dry-run, expected both: it is for the plan")
    if more_text and text is None:
        raise ValueError(f"compare: got {more_text[0]!r}, expected options only: paths of text follow --text")
    named = _names(schemes)
    how: dict[str, Any] = {
        "save_seconds": save_seconds,
        "cluster": cluster,
        "trackers": tuple(trackers or ()),
        "published": published,
        "context_parallel": context_parallel,
    }
    given = {
        "text": None if text is None else (*text, *(more_text or [])),
        "dataset": dataset,
        "schemes": named,
        "train_length": train_length,
        "steps": steps,
        "tasks": _names(tasks),
        "seeds": None if seeds is None else whole_numbers("seeds", seeds),
        "protocol": protocol,
        "length_multiples": None if lengths is None else whole_numbers("lengths", lengths),
        "text_limit": text_limit,
        "tokenizer": tokenizer,
        "compile": compiled,
        "accumulate": accumulate,
        "device": device,
    }
    with processes.joined():
        processes.everywhere(lambda: _run_own_code(named))
        stored, path = processes.on_main(lambda: _resolved(preset, out, resume, given, dry_run=dry_run))
        if dry_run:
            _check_run(stored, **how)
            processes.on_main(lambda: print_plan(stored, gpu, utilisation, as_json=as_json))
            return
        _compare(stored, Path(path), resume, as_json, how)


def _names(parts: list[str] | None) -> tuple[str, ...] | None:
    return None if parts is None else tuple(name.strip() for part in parts for name in part.split(","))


def _run_own_code(schemes: tuple[str, ...] | None) -> None:
    for name in schemes or ():
        if is_own(name):
            scheme_class(name, "schemes")  # the only place that runs its code


def _resolved(
    preset: str | None, out: Path | None, resume: bool, given: dict[str, Any], *, dry_run: bool
) -> tuple[dict[str, Any], str]:
    """The settings, as JSON, and the folder."""
    from falloff.lab.compare import resolve

    settings, folder = resolve(preset, out, resume=resume, **given)
    chosen = given["device"] is not None or (resume and _holds_run(folder))
    needs_gpu = settings.preset in PRESETS and PRESETS[settings.preset].needs_gpu
    if needs_gpu and settings.device == "cpu" and not chosen and not dry_run:
        raise ValueError(
            f"preset: got {settings.preset!r} on a machine without a GPU that PyTorch knows, where it would take "
            "weeks; expected quick or small, or --device cpu to run it anyway"
        )
    return settings.to_json(), str(folder)


def _check_run(stored: dict[str, Any], published: str | None, **how: Any) -> None:
    """Refuse, before a plan is printed, options with which the run would not begin."""
    from falloff.lab.compare import check_options
    from falloff.lab.config import Settings
    from falloff.lab.published import section_for

    settings = Settings.from_json(stored)
    check_options(settings, **how)
    section_for(settings.preset, published)


def _compare(stored: dict[str, Any], folder: Path, resume: bool, as_json: bool, how: dict[str, Any]) -> None:
    """Run the comparison; `how` are arguments of `compare_schemes`."""
    from falloff.lab import processes
    from falloff.lab.compare import compare_schemes
    from falloff.lab.config import Settings
    from falloff.lab.progress import progress_for

    main, cluster = processes.is_main(), how["cluster"]
    try:
        with progress_for(silent=as_json or not main) as progress:
            comparison = compare_schemes(Settings.from_json(stored), folder, resume=resume, progress=progress, **how)
    except KeyboardInterrupt:
        if main:
            print(f"falloff: stopped; continue with: {_resume_command(folder, cluster)}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if not _holds_run(folder):
            raise
        reason = f"{error.strerror or error}; then continue with: {_resume_command(folder, cluster)}"
        raise OSError(error.errno, reason, error.filename or str(folder)) from error
    if not main:
        return
    if as_json:
        paths = {"out": str(folder), "report": str(comparison.folder.report_path)}
        print(json.dumps({**paths, "config": comparison.config, "results": comparison.results}, allow_nan=False))
        return
    _print_tables(comparison.config, comparison.results)
    print(f"Report: {comparison.folder.report_path}")


def _resume_command(folder: Path, cluster: str | None) -> str:
    """The command that continues a run. It names the schemes of the user's own again."""
    from falloff.lab.store.folder import RunFolder

    stored = RunFolder(folder).stored_config() if _holds_run(folder) else None
    own = [name for name in (stored["settings"]["schemes"] if stored else []) if is_own(name)]
    given = {"--out": str(folder), "--schemes": ",".join(own), "--cluster": cluster}
    return " ".join(
        ["falloff compare --resume", *(f"{option} {shlex.quote(value)}" for option, value in given.items() if value)]
    )


def _holds_run(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _print_tables(config: dict[str, Any], results: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from falloff.lab.terminal import terminal_tables

    console = Console(highlight=False)
    for table in terminal_tables(config, results, console.width):
        console.print(table)

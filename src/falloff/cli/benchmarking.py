"""Timing attention on this machine: `falloff bench`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from falloff.cli.settings import Json
from falloff.files import check_replaceable, write_file

if TYPE_CHECKING:
    from falloff.bench.progress import Progress


_SUITES = "cpu, memory, scaling, calls, short, long, content, context-parallel, hf, gpu or tiles."


def bench(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help=_SUITES)] = "cpu",
    impl: Annotated[str, typer.Option("--impl", metavar="NAME", help="Which implementation of falloff takes part.")] = "cpu",
    turns: Annotated[
        int | None,
        typer.Option(
            "--turns",
            min=1,
            max=10_000,
            help="Turns of each contestant; by default as many as fit into 6 seconds a case, 3 to 50.",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases", metavar="PART", help="Only the cases whose name contains this, such as short.", show_default=False
        ),
    ] = None,
    with_flex: Annotated[
        bool, typer.Option("--flex/--no-flex", help="Flex attention too, in a few cases: it compiles for 20 to 60 s each.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="PYTHON",
            help="Suites calls, short, long: a Python with an older falloff, which takes turns too.",
            show_default=False,
        ),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(
            "--isa", metavar="NAME", help="Instruction set of the CPU kernels; by default the best.", show_default=False
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="FILE", help="Suite scaling: draw a figure too: .png, .svg or .pdf.", show_default=False
        ),
    ] = None,
    as_model: Annotated[
        bool,
        typer.Option(
            "--model", help="Suite context-parallel: the estimate of a model for 8 to 1024 GPUs instead of a measurement."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the JSON to this file too, after each case.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the measurement in the file of --out, if it exists.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure falloff beside PyTorch's attention: verify first, then time in turns within one process.

    Every case is first checked against the definition in float64, output and gradients (a long one at N = 1024, and
    its last rows at full size); a wrong result is not reported. Exit status: 0, 1 for a wrong result, 2 for bad input.

    Suite cpu: inference and training with T5, FIRE, ALiBi and a band, N = 512 to 16384. Each case is timed for 6 seconds, or
    for three turns of each contestant if these take longer: 8 minutes on 2 cores with AVX-512, over 10 with AVX2, less with
    --turns or --cases. Suite memory: the memory of a training step beyond inputs and results, in a separate process. Suite
    scaling: time against length. Suite calls, on 2 threads: one query against 128 keys, the same while four other processes
    spin, how many operators of torch each call runs, and decoding. Suite short: N = 128 to 512 in batches of 8. Suite long:
    N = 2048 to 8192. These three compare with SDPA without bias, and with an older falloff by --against; targets are shown
    beside the measured values. Suite content: biases that depend on the content of the tokens (Inkling, Transformer-XL,
    FoX), beside falloff without bias and other ways to have them.

    To continue a measurement that was stopped, use the same options and --resume.

    Keys of --json: suite, impl, machine, versions, commit, threads, isa, peak_gflops and peak_measured_by ("fma" or
    "matmul"; null for memory), turns (as asked, or null), flex, against (falloff, torch, commit of the older one; or null)
    and cases: each with name, group, label, bias, dtype, causal, training, shape (batch, heads, key_heads, queries, keys,
    head_size), verified_at (queries, keys), errors (output, query, key, value,
    bias: RMS error of the output or gradient, ours, sdpa, budget), skipped (contestant: reason). Beside these, suites cpu
    and scaling: last_rows_error (at full size, over the RMS of the output; null where all was verified), turns,
    milliseconds (contestant: median, best), gflops, share_of_peak, ratio (contestant: its time over that of falloff); suites
    calls, short and long the same and targets (of ratio to SDPA, share_of_peak, busy, operators); calls also busy (turns,
    milliseconds, over_quiet: busy over quiet) and operators (forward without gradients; training, backward with). Suite
    content the same and targets (contestant: at least how many times as fast, and the aim). Suite memory: memory
    (contestant: growth, results, extra, inputs in bytes, and extra_over_inputs).

    Suite hf: whole models of Transformers with random weights, fused, beside their own attention implementations. Keys of
    its --json: suite, machine, versions, commit, threads, turns and cases: name, label, work (encode, train, prefill,
    decode), batch, length, and errors (over the largest entry, against eager), skipped, turns, milliseconds, ratio; or
    memory (bytes beyond the model; "no attention": with values in place of attention) and ratio.

    Suite gpu: on a GPU, in bfloat16, beside PyTorch's kernels; prints a line after each case. Suite tiles: candidates for
    the tiles of the GPU kernels. Keys of their --json: suite, device, versions, commit, matmul_tflops and cases: name,
    group, label, dtype, training, shape, and milliseconds, tflops, ratio, turns, skipped, errors, verified_at as above;
    peak_bytes (the longest texts); tiles (candidate: milliseconds, or why not); or wrong or failed (a reason).

    Suite context-parallel: attention by 2 and 4 processes that share a sequence, beside one. Keys of its --json: suite,
    measured, machine, versions, commit, layer, turns and cases: ranks, length, one_process, milliseconds, estimated (each in
    ms, by method), errors, bytes_per_second, latency. With --model it measures nothing, and prints what a model says of
    one layer on 8 to 1024 GPUs, 128k to 10M tokens: suite, measured, assumed, layer and cases: length, ranks, methods
    (method: sent and held in bytes, seconds, compute; null where it cannot serve).

    Example: falloff bench --cases short
    """
    # Imported here, so that --help is fast.
    from falloff.bench.suites import Options, run_suite
    from falloff.views.figures import check_image_path, save_figure

    for option, path in (("--out", out), ("--image", image)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ValueError(f"{option}: got {str(path)!r}, expected a file in a folder that exists")
        if path is not None:
            check_replaceable(path)
    if resume and out is None:
        raise ValueError("--resume: got no --out, expected the file to continue")
    if as_model and suite != "context-parallel":
        raise ValueError(f"--model: got the suite {suite!r}, expected 'context-parallel'")
    if suite == "context-parallel":
        others = (cases, against, isa, image)
        if any(other is not None for other in others) or resume or with_flex or impl != "cpu" or (as_model and turns):
            raise ValueError("--suite: got 'context-parallel', which takes only --model or --turns, --out and --json")
        _by_ranks(turns, out, as_model=as_model, as_json=as_json)
        return
    if suite in ("gpu", "tiles"):
        if (
            resume
            or turns is not None
            or with_flex
            or against is not None
            or isa is not None
            or image is not None
            or impl != "cpu"
        ):
            raise ValueError(f"--suite: got {suite!r}, which takes only --cases, --out and --json")
        _on_gpu(cases, out, tiles=suite == "tiles", as_json=as_json)
        return
    if suite == "hf":
        if with_flex or against is not None or isa is not None or image is not None or impl != "cpu":
            raise ValueError("--suite: got 'hf', which takes only --cases, --turns, --out, --resume and --json")
        _with_models(cases, turns, out, resume=resume, as_json=as_json)
        return
    options = Options(suite, impl, turns, cases, with_flex, against, isa)
    if image is not None:
        if suite != "scaling":
            raise ValueError(f"--image: the suite {suite!r} has no figure, expected the suite 'scaling'")
        check_image_path(image)
    with _measuring(as_json, out) as progress:
        result = run_suite(options, progress, out, resume=resume)
    if image is not None:
        from falloff.bench.figures import scaling_figure

        save_figure(scaling_figure(result), image)
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from falloff.bench.tables import tables

    _print(tables(result), [path for path in (out, image) if path is not None])


def _with_models(cases: str | None, turns: int | None, out: Path | None, *, resume: bool, as_json: bool) -> None:
    from falloff.bench import models

    with _measuring(as_json, out) as progress:
        result = models.run_suite(cases, turns, out, progress, resume=resume)
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    _print(models.tables(result), [out] if out is not None else [])


def _by_ranks(turns: int | None, out: Path | None, *, as_model: bool, as_json: bool) -> None:
    from falloff.bench import context_model, context_parallel

    if as_model:
        result = context_model.model()
        drawn = context_model.model_table(result)
    else:
        with _measuring(as_json, None) as progress:
            progress.begin("measuring", context_parallel.COUNT)
            result = context_parallel.run_suite(turns, progress.doing)
        drawn = context_parallel.table(result)
    if out is not None:
        write_file(out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    _print(drawn, [out] if out is not None else [])


@contextmanager
def _measuring(silent: bool, out: Path | None) -> Iterator["Progress"]:
    """Show progress while a suite runs. A wrong result exits with status 1; Ctrl-C prints how to continue."""
    from falloff.bench.progress import progress_for
    from falloff.bench.verify import WrongResultError

    try:
        with progress_for(silent=silent) as progress:
            yield progress
    except WrongResultError as error:
        print(f"falloff: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        if out is None:
            raise typer.Abort from None
        print(f"falloff: stopped; {out} has the cases so far; the same command with --resume continues", file=sys.stderr)
        raise typer.Exit(2) from None


def _on_gpu(cases: str | None, out: Path | None, *, tiles: bool, as_json: bool) -> None:
    from falloff.bench import gpu

    result = gpu.run_suite(cases, out, tiles=tiles, report=(lambda line: None) if as_json else print)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    if not gpu.all_well(result):
        raise typer.Exit(1)


def _print(parts: list[Any], written: list[Path]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for part in parts:
        console.print(part)
    for path in written:
        console.print(Text(f"Written to {path}"), soft_wrap=True)

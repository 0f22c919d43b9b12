"""The suite `content`: biases that depend on the content of the tokens, beside no bias and other ways to have them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from falloff.bench.cases import Case
from falloff.bench.contestants import BAND, EAGER, NAMES, NO_BIAS, OURS, PLAIN, figures_of, ours, without_bias
from falloff.bench.problem import Problem, problem_of
from falloff.bench.progress import Progress
from falloff.bench.targets import content_targets
from falloff.bench.timing import take_turns
from falloff.bench.turns import Run, run_of
from falloff.bench.verify import check_last_rows, check_rivals
from falloff.forms import Factored
from falloff.ops.api import attention

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = {PLAIN: "no bias", BAND: "band", NO_BIAS: "sdpa", EAGER: "eager"}


def time_all(
    cases: Sequence[Case], impl: str, turns: int | None, peak_gflops: float, progress: Progress
) -> Iterator[list[tuple[Case, dict[str, Any]]]]:
    """Time the cases one after another."""
    progress.begin("timing", len(cases))
    for case in cases:
        progress.doing(case.name)
        problem = problem_of(case)
        runs = _contestants(problem, impl)
        outputs = {name: run()[0].detach() for name, run in runs.items()}
        last_rows_error = check_last_rows(problem, outputs[OURS])
        check_rivals(case, [name for name in runs if name in (BAND, EAGER)], outputs)
        del outputs
        timed = take_turns(runs, turns, progress.share)
        yield [(case, figures_of(case, timed, peak_gflops, last_rows_error) | {"targets": content_targets(case)})]


def _contestants(problem: Problem, impl: str) -> dict[str, Run]:
    runs = {OURS: ours(problem, impl), PLAIN: _plain(problem, impl), NO_BIAS: without_bias(problem)}
    if problem.case.bias == "profiles":
        runs[BAND] = _band(problem, impl)
    if problem.case.bias == "transformer-xl":
        runs[EAGER] = _shifted(problem)
    return runs


def _plain(problem: Problem, impl: str) -> Run:
    """falloff without bias."""
    leaves = list(problem.inputs) if problem.case.training else []
    return run_of(lambda: attention(*problem.inputs, causal=problem.case.causal, impl=impl), leaves, problem.grad_out)


def _product(problem: Problem) -> Factored:
    form = problem.bias.for_call()
    assert isinstance(form, Factored)
    return form


def _band(problem: Problem, impl: str) -> Run:
    """falloff with the values of all offsets, (B, H, N, E), from a matrix product."""

    def forward() -> Tensor:
        return attention(*problem.inputs, _product(problem).to_band(), causal=problem.case.causal, impl=impl)

    return run_of(forward, list(problem.leaves.values()), problem.grad_out)


def _shifted(problem: Problem) -> Run:
    """Eager attention as Transformer-XL and Conformer have it: products with all relative positions, shifted into place."""
    query, key, value = problem.inputs

    def forward() -> Tensor:
        form = _product(problem)
        by_offset = (form.states @ form.table.mT).flip(-1)  # (B, H, N, N + M - 1), the largest offset first
        batch, heads, rows, width = by_offset.shape
        by_key = pad(by_offset, (1, 0)).view(batch, heads, width + 1, rows)[:, :, 1:].view(by_offset.shape)
        scores = query @ key.mT * problem.case.head_size**-0.5 + by_key[..., : key.shape[2]]
        hidden = problem.hidden()
        return torch.softmax(scores if hidden is None else scores + hidden, -1) @ value

    return run_of(forward, list(problem.leaves.values()), problem.grad_out)


def content_tables(result: dict[str, Any]) -> list[Any]:
    """A table with the targets in brackets, and notes."""
    from rich.text import Text

    notes = [
        "x: the other's median time over that of falloff; above 1 falloff is faster. [at least; aim].",
        "no bias, band: falloff too; a band from a product (B, H, N, E). sdpa: without bias. eager: shifted products.",
        "Inkling: 16 profiles of 1024 offsets. Transformer-XL: a table of all offsets, R = D. FoX: log gates of -0.05.",
    ]
    return [_table(result["cases"]), *(Text(note, style="dim") for note in notes)]


def _table(cases: list[dict[str, Any]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = "Biases that depend on content, float32"
    table = Table(
        title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left", title_style="bold"
    )
    table.add_column("")
    present = [name for name in NAMES if any(name in case["ratio"] for case in cases)]
    for heading in (f"{OURS}\nms", *(f"\n{_HEADINGS[name]}" for name in present)):
        table.add_column(heading, justify="right", no_wrap=True)
    for case in cases:
        cells = [f"{case['ratio'][name]:.2f}x{_aims(case, name)}" if name in case["ratio"] else "-" for name in present]
        table.add_row(case["label"], f"{case['milliseconds'][OURS]['median']:.3g}", *cells)
    return table


def _aims(case: dict[str, Any], name: str) -> str:
    if name not in case["targets"]:
        return ""
    least, aim = case["targets"][name]
    return f"\n[{least:g}; {aim:g}]"

"""Models of Transformers: `falloff hf check`."""

import dataclasses
from typing import Annotated, Any

import typer

from falloff.cli.json_keys import print_json
from falloff.cli.settings import Json

app = typer.Typer(name="hf", help="Models of Transformers: is a fused model the same?", rich_markup_mode="markdown")


@app.callback()
def _hf() -> None:
    """Models of Transformers: is a fused model the same?"""


@app.command()
def check(
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="Only this family, such as t5.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare fused models with Transformers' own attention, on small random models of every family, float32, CPU.

    Compared are logits and the gradients of every parameter (largest error over largest value) and the loss as Trainer
    computes it (error over loss), without padding and with padding on the left, on the right and between tokens; of models
    that generate, the logits of 64 steps, 200 greedy tokens, beams; in bfloat16, the error against float64 over that of
    Transformers' own attention. Nothing is downloaded. Exit status: 0, 1 if an error exceeds its budget, 2 for bad input.

    Keys of --json: versions, budgets (logits, gradients, bfloat16), and families: each with family, model, logits,
    gradients, worst_parameter, loss, generation, tokens, beams, bfloat16, green.

    Example: falloff hf check --family t5
    """
    from falloff.bench.progress import progress_for
    from falloff.environment import versions
    from falloff.hf import checking
    from falloff.hf.small_models import MODELS

    if family is not None and family not in MODELS:
        raise ValueError(f"--family: got {family!r}, expected one of {', '.join(MODELS)}")
    names = list(MODELS) if family is None else [family]
    found = []
    with progress_for(silent=as_json) as progress:
        progress.begin("checking", len(names))
        for name in names:
            progress.doing(name)
            found.append(checking.check(name))
            progress.share(1.0)
    result: dict[str, Any] = {
        "versions": versions("transformers"),
        "budgets": {"logits": checking.LOGITS, "gradients": checking.GRADIENTS, "bfloat16": checking.HALF},
        "families": [{**dataclasses.asdict(parity), "green": parity.green} for parity in found],
    }
    if as_json:
        print_json(result)
    else:
        _print(result)
    if not all(parity.green for parity in found):
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    versions, budgets = result["versions"], result["budgets"]
    of_versions = ", ".join(f"{name} {versions[name]}" for name in ("falloff", "torch", "transformers"))
    table = Table(
        padding=(0, 0), title="Fused models beside Transformers' own attention, CPU, float32", title_justify="left"
    )
    headings = ("family", "logits", "loss", "gradients", "64 steps", "tokens", "beams", "bfloat16", "")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("family", "") else "right")
    for found in result["families"]:
        table.add_row(
            found["family"],
            *("" if found[key] is None else f"{found[key]:.1e}" for key in ("logits", "loss", "gradients", "generation")),
            *({None: "", True: "same", False: "[red]differ[/]"}[found[key]] for key in ("tokens", "beams")),
            f"{found['bfloat16']:.2f}x",
            "[green]green[/]" if found["green"] else "[red]beyond budget[/]",
        )
    console.print(table)
    console.print(
        f"[dim]Budgets: logits and loss {budgets['logits']:.0e}, gradients {budgets['gradients']:.0e} of the largest value; "
        f"bfloat16 {budgets['bfloat16']:.0f}x the error of Transformers' own. {of_versions}[/]"
    )

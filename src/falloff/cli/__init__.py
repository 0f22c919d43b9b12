"""The command `falloff`: see `falloff --help`."""

from typing import Annotated

import typer

from falloff.cli import benchmarking, checking, comparing, exercising, explaining, exploring, hf, info, looking
from falloff.cli.errors import OneLineErrors
from falloff.cli.settings import SchemeCommand

app = typer.Typer(
    name="falloff",
    cls=OneLineErrors,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        from falloff import __version__

        print(f"falloff {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _falloff(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Attention with a relative positional bias: look at a bias before you bet a training run on it."""


for command, kind in (
    (comparing.compare, None),
    (looking.show, SchemeCommand),
    (looking.buckets, SchemeCommand),
    (checking.check, SchemeCommand),
    (checking.match, SchemeCommand),
    (explaining.explain, SchemeCommand),
    (exercising.exercise, None),
    (exploring.explore, None),
    (info.info, None),
    (benchmarking.bench, None),
):
    app.command(cls=kind)(command)
app.add_typer(hf.app)


def run(arguments: list[str] | None = None) -> None:
    """Run the command with these arguments, or with those of the process, and exit."""
    app(args=arguments, prog_name="falloff")

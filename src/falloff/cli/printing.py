"""Printing to the terminal."""

from rich.console import Console, RenderableType
from rich.text import Text


def console() -> Console:
    """The terminal, or the pipe."""
    return Console(highlight=False)


def print_view(view: RenderableType) -> None:
    """Print what a view draws."""
    console().print(view)


def print_note(note: str) -> None:
    """A line beside the matter, never broken."""
    console().print(Text(f"Note: {note}", style="dim"), soft_wrap=True)

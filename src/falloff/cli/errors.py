"""Errors on the command line: one line on stderr, exit status 2, no traceback."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import typer
from typer.core import TyperGroup

# Depending on its version, typer uses click or its own copy of click: so these classes are taken from typer's class.
_USAGE_ERROR, _CLICK_EXCEPTION = cast(tuple[type[Exception], type[Exception]], typer.BadParameter.__mro__[1:3])

_FIRST_HAS = 10.0
"""Seconds for the first of several processes to say what is wrong, before another one does."""


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line each.

    A command raises ValueError (for a wrong argument) or OSError (a file cannot be read or written). An option with an empty
    value is refused: it often comes from an unset shell variable.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        _write_any_character()
        given = list(sys.argv[1:] if args is None else args)
        try:
            _refuse_empty(given)
            status = super().main(
                given or ["--help"],
                prog_name=prog_name,
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            sys.stdout.flush()  # here, not at Python's exit, so that a full disk is reported as other errors
        except _CLICK_EXCEPTION as error:
            _fail(_usage_message(error))
        except OSError as error:
            name = error.filename or ("standard output" if error.errno else None)  # every file that is written is named
            _fail(f"{name}: {error.strerror}" if name and error.strerror else str(error))
        except (ValueError, ImportError) as error:
            _fail(str(error))
        except typer.Abort:
            _fail("stopped")
        sys.exit(status if isinstance(status, int) else 0)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse options with an empty value; an empty path would mean the current folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            empty = equals and not value.strip()
        else:
            option, value = before, argument
            empty = option.startswith("--") and not value.strip()
        if empty:
            raise ValueError(f"{option}: got {value!r}, expected a value (is a shell variable unset?)")


def _usage_message(error: Any) -> str:
    message = str(error.format_message())
    context = getattr(error, "ctx", None)
    if isinstance(error, _USAGE_ERROR) and context is not None:
        message = f"{message.rstrip('.')} (see {context.command_path} --help)"
    return message


def _fail(message: str) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes that fail alike, the first has the word
        time.sleep(_FIRST_HAS)  # a launcher ends all processes when one ends: after this time, the first has not failed
    line = " ".join(message.splitlines())
    # Escape control characters, which a terminal would obey, and characters that are not UTF-8.
    print("falloff:", "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line), file=sys.stderr)
    sys.exit(2)


def _write_any_character() -> None:
    """Let stdout print an escape for a character that its encoding lacks, instead of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")

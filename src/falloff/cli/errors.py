"""What goes wrong on the command line: one line on stderr, exit status 2, no traceback."""

import sys
from collections.abc import Sequence
from typing import Any, cast

import typer
from typer.core import TyperGroup

# typer comes with a click of its own or with the real one, after its version: its bases are found by way of its own name.
_USAGE_ERROR, _CLICK_EXCEPTION = cast(tuple[type[Exception], type[Exception]], typer.BadParameter.__mro__[1:3])


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line each.

    A command raises ValueError (it got what it cannot use) or OSError (a file cannot be read or written). No option
    means anything where it is empty, as an unset shell variable leaves it.
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
            sys.stdout.flush()  # here, and not when Python ends: a full disk is an error like others
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
    """Refuse options whose value is empty; a path that is empty would else be the current folder."""
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
    line = " ".join(message.splitlines())
    # What a name holds that a terminal would obey, or that is no UTF-8, stands there as an escape.
    print("falloff:", "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line), file=sys.stderr)
    sys.exit(2)


def _write_any_character() -> None:
    """A terminal that lacks a character of some token shows its code instead of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")

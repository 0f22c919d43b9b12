"""A scheme by its name: a published one, one of an installed package, or `module:Class` and `file.py:Class`: your own."""

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

from falloff.installed import NO_SCHEMES, Declared, declared, installed, written
from falloff.schemes import SCHEMES, Scheme
from falloff.schemes.settings import make, setting_parameters

OWN_NAMES = "module:Class or file.py:Class of your own"

_OWN: dict[str, type[Scheme]] = {}
"""The classes of your own that `scheme_class` has returned in this process, by name."""
_FILES: dict[tuple[Path, int, int], ModuleType] = {}
"""The modules of files that have run, by path, time and size: a file runs once, and again after a change."""


def is_own(name: str) -> bool:
    """Whether a name refers to code outside falloff: a file, a module, or what an installed package declares.

    >>> is_own("my.py:Mine"), is_own("t5")
    (True, False)
    """
    return ":" in name or installed(name) is not None


def scheme_class(name: str, argument: str = "name") -> type[Scheme]:
    """The class of a scheme by its name. **A name of your own, or of an installed package, runs the code behind it.**

    Pass only a name that the user wrote in this command or call. A name read from a file goes to `known_class`.

    Args:
        name: one of `SCHEMES`, or that of an installed package, in upper or lower case and with - or _; or `module:Class`,
            where the module is importable or in the current folder; or `file.py:Class`.
        argument: the argument that errors name.

    Raises:
        ValueError: for an unknown name; for a file, module or class that does not exist; for a class that is no scheme; if
            the import fails.

    >>> scheme_class("Kerple_Log").__name__
    'KerpleLog'
    """
    if not is_own(name):
        return known_class(name, argument)
    if ":" not in name and (found_there := installed(name)) is not None:
        _OWN[written(name)] = _declared_class(found_there, argument)
        return _OWN[written(name)]
    where, _, wanted = name.rpartition(":")
    if where.endswith(".py"):
        module = _run_file(Path(where), name, argument)
    elif re.fullmatch(r"\w+(\.\w+)*", where):
        module = _import(where, name, argument)
    else:
        _refuse(argument, name, f"expected {OWN_NAMES}")
    found = getattr(module, wanted, None)
    if found is None:
        there = [own for own, value in vars(module).items() if _is_scheme(value) and value.__module__ == module.__name__]
        has = f"it has {', '.join(there)}" if there else "it has no scheme"
        _refuse(argument, name, f"expected a class of {where}: {has}")
    if not _is_scheme(found):
        _refuse(argument, name, f"expected a class derived from falloff.Scheme: {wanted} is not")
    _OWN[name] = found
    return found


def known_class(name: str, argument: str = "name") -> type[Scheme]:
    """The class of a published scheme, or of a name of your own that `scheme_class` has loaded before. Runs no code.

    Raises:
        ValueError: for any other name.
    """
    if is_own(name):
        key = name if ":" in name else written(name)
        if key not in _OWN:
            _refuse(argument, name, f"whose code runs only if you write its name, expected {argument} {name} here too")
        return _OWN[key]
    try:
        return SCHEMES[written(name)]
    except KeyError:
        names = [*SCHEMES, *(one.name for one in declared() if one.refused is None)]
        _refuse(argument, name, f"expected one of {', '.join(names)}, or {OWN_NAMES}{_hint(name, names)}")


def make_own(cls: type[Scheme], argument: str, num_heads: int, settings: dict[str, Any]) -> Scheme:
    """`make` for a class from outside falloff: any error in it becomes a ValueError of one line.

    Raises:
        ValueError: if the class cannot be made with these settings, or its number of heads is unknown because `at` fails.
    """
    try:
        scheme = make(cls, num_heads, settings)
        _ = scheme.num_heads
    except Exception as error:
        if isinstance(error, ValueError) and str(error).partition(":")[0] in ("num_heads", *setting_parameters(cls)):
            raise  # it already names the argument
        _refuse(argument, cls.__name__, f"expected a scheme that can be made: {_summary(error, cls.__module__)}")
    return scheme


def source_of(cls: type[Scheme]) -> Path | None:
    """The file that defines a class, or None."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return None if file is None else Path(file)


def _declared_class(scheme: Declared, argument: str) -> type[Scheme]:
    """The class that a package declares."""
    whose = f"which {scheme.package} declares as {scheme.point.value}"
    try:
        found = scheme.point.load()
    except (Exception, SystemExit) as error:
        _refuse(
            argument, scheme.name, f"{whose}, expected a class that can be imported: {_summary(error, scheme.point.module)}"
        )
    if not _is_scheme(found):
        _refuse(argument, scheme.name, f"{whose}, expected a class derived from falloff.Scheme")
    return found


def _run_file(path: Path, name: str, argument: str) -> ModuleType:
    if not path.is_file():
        _refuse(argument, name, f"expected a file that exists: {path} does not")
    path = path.resolve()
    found = path.stat()
    stamp = (path, found.st_mtime_ns, found.st_size)
    if stamp in _FILES:
        return _FILES[stamp]
    module_name = f"falloff_own_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"  # a stem is not unique
    loader = _Fresh(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, loader.path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module  # dataclasses and pickle look it up there
    try:
        with _importable_from(path.parent):
            loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name)
        if before is not None:
            sys.modules[module_name] = before
        _refuse(argument, name, f"expected a file that can be imported: {_summary(error, module_name)}")
    _FILES[stamp] = module
    return module


def _import(where: str, name: str, argument: str) -> ModuleType:
    try:
        with _importable_from(Path.cwd()):
            return importlib.import_module(where)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{where}.".startswith(f"{missing}."):
            _refuse(argument, name, f"expected a module that is installed or in this folder: there is no {missing}")
        _refuse(argument, name, f"expected a module that can be imported: {_summary(error, where)}")


class _Fresh(SourceFileLoader):
    """Loads a file without the bytecode cache, which takes a file changed within the same second for the old one."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Put a folder on Python's path, as Python does for a script and for `python -m`."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _is_scheme(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Scheme)


def _summary(error: BaseException, module: str) -> str:
    """An error in one line, with the last line number in the module that it came from."""
    line = error.lineno if isinstance(error, SyntaxError) else _line_of(error, module)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}{f': {text}' if text else ''}{'' if line is None else f' (line {line})'}"


def _line_of(error: BaseException, module: str) -> int | None:
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_globals.get("__name__") == module]
    return lines[-1] if lines else None


def _hint(name: str, names: list[str]) -> str:
    """What somebody may have meant who wrote this name."""
    if name.endswith(".py"):
        return f" ({name}:Class)"
    wanted = written(name)
    if wanted in NO_SCHEMES:
        return f" ({wanted} is no bias: `falloff explain {wanted}`)"
    refused = next((one for one in declared() if one.name == wanted and one.refused is not None), None)
    if refused is not None:
        return f" ({wanted} of {refused.package} is not taken: {refused.refused})"
    by_class = {cls.__name__.lower(): known for known, cls in SCHEMES.items()}
    meant = [by_class[wanted]] if wanted in by_class else [known for known in names if known.startswith(f"{wanted}-")]
    meant = meant or difflib.get_close_matches(wanted, names, n=3)
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def _refuse(argument: str, name: str, expected: str) -> NoReturn:
    raise ValueError(f"{argument}: got {name!r}, {expected}")

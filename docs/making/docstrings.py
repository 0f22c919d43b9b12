"""Docstrings for the site: examples that begin with >>> become blocks of code, which Markdown would take for quotations."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)  # up to the next empty line
_FIELD = re.compile(r"^(Paper|Source): ", re.MULTILINE)


class Examples(Extension):
    """An extension of Griffe, which reads the docstrings."""

    def on_object(self, *, obj: Object, **more: Any) -> None:
        """Called for every object that is loaded."""
        if obj.docstring:
            fenced = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```", obj.docstring.value)
            obj.docstring.value = _FIELD.sub(r"**\1:** ", fenced)

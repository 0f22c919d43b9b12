"""The result of a suite so far, in the file of `--out`: written after each case; `--resume` continues it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from falloff.files import write_file


class PartialResult:
    """The result of a suite, case by case.

    Args:
        header: the keys common to all cases; they come first in the result.
        abouts: for each case in order, the first keys of its entry, which describe it; `name` is among them.
        out: the file that is rewritten after each case, or None.
        resume: whether to take over the cases in this file, if it exists.

    Raises:
        ValueError: if `resume` finds a damaged file or one of another measurement, naming what differs.
    """

    def __init__(self, header: dict[str, Any], abouts: Sequence[dict[str, Any]], out: Path | None, *, resume: bool) -> None:
        self.out, self.total = out, len(abouts)
        self.result: dict[str, Any] = {**header, "cases": []}
        if resume and out is not None and out.exists():
            self._take_over(out, header, {about["name"]: about for about in abouts})

    @property
    def done(self) -> set[str]:
        """The names of the cases that have been measured."""
        return {case["name"] for case in self.result["cases"]}

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add measured cases, and rewrite the file."""
        self.result["cases"] += entries
        if self.out is not None:
            write_file(self.out, (json.dumps(self.result, indent=1, allow_nan=False) + "\n").encode())

    def _take_over(self, out: Path, header: dict[str, Any], abouts: dict[str, dict[str, Any]]) -> None:
        def refuse(got: str, expected: str) -> None:
            raise ValueError(f"--resume: got {out}, {got}, expected {expected}; or another --out")

        try:
            found = json.loads(out.read_bytes())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("cases"), list):
            refuse("which is no result of falloff bench", "one that was stopped")
            return
        later = ("peak_gflops", "peak_measured_by")  # None in the header until the suite has measured the peak
        differing = [key for key, value in header.items() if key not in found or (key not in later and found[key] != value)]
        if differing:
            got = ", ".join(f"{key} {json.dumps(found.get(key))[:80]}" for key in differing)
            refuse(f"which has {got}", ", ".join(f"{key} {json.dumps(header[key])[:80]}" for key in differing))
        names = set()
        for entry in found["cases"]:
            name = entry.get("name") if isinstance(entry, dict) else None
            about = abouts.get(name) if isinstance(name, str) else None
            if about is None or name in names or any(entry.get(key) != value for key, value in about.items()):
                refuse(f"whose case {json.dumps(name)[:80]} is not among those asked for", "the same --cases")
            names.add(name)
        self.result = {**header, **{key: found[key] for key in header}, "cases": found["cases"]}

"""JSON that carries its own SHA-256, so that a later change of the file is detected."""

import hashlib
import json
from typing import Any, NoReturn


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its SHA-256.

    >>> sorted(with_checksum({"seed": 0}))
    ['seed', 'sha256']
    """
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": digest(rest)}


def digest(content: object) -> str:
    """The SHA-256 of a content of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def checked(written: bytes) -> dict[str, Any]:
    """The inverse of `with_checksum`, from JSON.

    Raises:
        ValueError: if it is no JSON object, has no checksum, or has changed since it was written.
    """

    def refuse(number: str) -> NoReturn:
        raise ValueError(f"{number} is no number of JSON")

    try:
        content = json.loads(written, parse_constant=refuse)
        if not isinstance(content, dict):
            raise ValueError("it is no object of JSON")
        if "sha256" not in content:
            raise ValueError("it has no 'sha256'")
        if content["sha256"] != with_checksum(content)["sha256"]:
            raise ValueError("it has changed since it was written (its checksum does not fit)")
    except RecursionError:
        raise ValueError("it has brackets nested too deeply") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is no JSON ({error})") from None
    return content

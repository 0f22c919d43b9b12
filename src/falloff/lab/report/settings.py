"""The settings of a comparison, and the meaning of its keys."""

from html import escape
from typing import Any


def settings_section(config: dict[str, Any]) -> str:
    """The section."""
    versions = {key: value for key, value in config["versions"].items() if value is not None}
    versions |= {"git commit": config["git_commit"] or "none"}
    machine = {key: value for key, value in config["machine"].items() if value is not None}
    notes = "".join(f"<li>{escape(note)}</li>" for note in config["model"])
    meanings = "".join(f"<li><b>{escape(key)}</b>: {escape(meaning)}.</li>" for key, meaning in config["measures"].items())
    return f"""<section id="settings">
<h2>Settings</h2>
<ul>{notes}</ul>
<div class="settings">
{_listed("Run", config["settings"])}
<div>{_listed("Text", config["text"] or {})}{_listed("Versions", versions)}{_listed("Machine", machine)}</div>
</div>
<h3>What is stored</h3>
<ul>{meanings}</ul>
</section>"""


def _listed(title: str, entries: dict[str, Any]) -> str:
    if not entries:
        return ""
    pairs = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_shown(value))}</dd>" for key, value in entries.items())
    return f"<div><h3>{title}</h3><dl>{pairs}</dl></div>"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case list():
            return ", ".join(map(str, value)) or "none"
    return str(value)

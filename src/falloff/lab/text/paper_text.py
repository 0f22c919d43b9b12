"""Whether a paper's protocol has the text and the tokens that somebody chose for it."""

from falloff.lab.config import Settings
from falloff.lab.presets import paper_of
from falloff.lab.tasks import TASKS


def check_text(settings: Settings) -> None:
    """Refuse to run a paper's protocol on another text or other tokens than somebody chose.

    Raises:
        ValueError: if the preset is a paper's and neither a text nor a dataset is given, or no tokenizer.
    """
    paper = paper_of(settings.preset)
    if paper is None or not any(TASKS[name].needs_text for name in settings.tasks):
        return
    if not settings.text and settings.dataset is None:
        raise ValueError(f"text: got none for {settings.preset}, expected files or a dataset: the paper has {paper.text}")
    if settings.tokenizer is None:
        raise ValueError(
            f"tokenizer: got none for {settings.preset}, expected a tokenizer.json: the paper's is {paper.tokens}"
        )

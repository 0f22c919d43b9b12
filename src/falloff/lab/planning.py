"""A plan of a comparison: what it will train and test, and about how long that takes. It needs no text and no network."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from falloff import environment
from falloff.lab.config import Settings
from falloff.lab.counting import counts, forward_flops, step_flops, step_memory
from falloff.lab.gpus import GPUS, USUAL_UTILISATION
from falloff.lab.model import build_model
from falloff.lab.presets import paper_of
from falloff.lab.protocols import cut, least_tokens
from falloff.lab.tasks import TASKS
from falloff.lab.text.tokenizing import Tokenizer, tokenizer_of
from falloff.lab.training import build_optimizer, cpu_threads

_MOST_FLOPS = {"cpu": 1e10, "cuda": 2e13}
"""A measured step does at most about as many operations: a second or two on a slow machine."""
_MEASURED_STEPS = 3


@dataclass(frozen=True)
class Speed:
    """How fast operations are done, measured or assumed.

    Args:
        flops_per_second: the operations that `falloff.lab.counting` counts, per second.
        words: where that is from.
    """

    flops_per_second: float
    words: str


def vocabulary_of(settings: Settings) -> int:
    """Tokens of the comparison: of its tokenizer, else of its paper's, else bytes; of problems alone, bytes."""
    if not any(TASKS[name].needs_text for name in settings.tasks):
        return Tokenizer.vocabulary
    paper = paper_of(settings.preset)
    if settings.tokenizer is None and paper is not None:
        return paper.vocabulary
    return tokenizer_of(settings.tokenizer).vocabulary


def assumed(gpu: str, utilisation: float | None) -> Speed:
    """The speed of a kind of GPU of which a share is used.

    Raises:
        ValueError: for an unknown name or a share outside 0 .. 1.
    """
    if gpu not in GPUS:
        raise ValueError(f"gpu: got {gpu!r}, expected one of {', '.join(GPUS)}")
    share = USUAL_UTILISATION if utilisation is None else utilisation
    if not 0 < share <= 1:
        raise ValueError(f"utilisation: got {share}, expected a share above 0 and at most 1")
    kind = GPUS[gpu]
    words = f"assumed: {share:.0%} of the {kind.peak / 1e12:.0f} TFLOP/s in bf16 of {kind.title}'s data sheet"
    return Speed(share * kind.peak, words)


def measured(settings: Settings, vocabulary: int, doing: Callable[[str], None]) -> Speed:
    """The speed of this machine, from training steps of a smaller model with the first scheme."""
    doing("measuring a step")
    device = torch.device(settings.device)
    small, vocabulary = _smaller(settings, vocabulary, _MOST_FLOPS[device.type])
    scheme = small.schemes[0]
    model = build_model(small, scheme, 0, vocabulary).to(device)
    optimizer = build_optimizer(model, small)
    tokens = torch.zeros(small.batch_size, small.train_length, dtype=torch.int64, device=device)
    seconds = []
    with cpu_threads(settings.threads):
        for _ in range(1 + _MEASURED_STEPS):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=small.precision == "bf16"):
                logits = model(tokens)
            loss = functional.cross_entropy(logits.float().view(-1, vocabulary), tokens.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    operations = step_flops(small, counts(small, scheme, vocabulary).matrices)
    words = (
        f"measured on {_name_of(settings)}: a step of {small.batch_size} x {small.train_length} tokens, {small.layers} "
        f"layers of width {small.width}, vocabulary {vocabulary:,}, with {scheme}: {statistics.median(seconds[1:]):.2g} s"
    )
    return Speed(operations / statistics.median(seconds[1:]), words)


def plan(
    settings: Settings,
    gpu: str | None = None,
    utilisation: float | None = None,
    doing: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """The plan of a comparison, as `falloff compare --dry-run --json` prints it.

    Args:
        settings: of the comparison.
        gpu: the kind of GPU for which time is estimated, one of `falloff.lab.gpus.GPUS`; by default this machine is
            measured.
        utilisation: the share of that GPU's peak that is assumed.
        doing: called with what begins: one measurement, then each scheme.

    Raises:
        ValueError: as `assumed` does; for `utilisation` alone; for a scheme that cannot be made.
    """
    if gpu is None and utilisation is not None:
        raise ValueError(f"utilisation: got {utilisation} alone, expected --gpu too")
    vocabulary = vocabulary_of(settings)
    speed = assumed(gpu, utilisation) if gpu is not None else measured(settings, vocabulary, doing)
    windows = _test_windows(settings)
    lines: list[dict[str, Any]] = []
    total = 0
    for scheme in settings.schemes:
        doing(scheme)
        counted = counts(settings, scheme, vocabulary)
        step = step_flops(settings, counted.matrices)
        test = sum(count * forward_flops(settings, counted.matrices, length) for length, count in windows.items())
        operations = settings.steps * step + test
        total += operations
        lines.append(
            {
                "scheme": scheme,
                "parameters": counted.parameters,
                "bias_parameters": counted.bias_parameters,
                "flops_per_step": step,
                "flops": operations,
                "memory": step_memory(settings, counted, vocabulary),
                "hours": operations / speed.flops_per_second / 3600,
            }
        )
    each = len(settings.tasks) * len(settings.seeds)
    paper = paper_of(settings.preset)
    return {
        "preset": settings.preset,
        "settings": settings.to_json(),
        "vocabulary": vocabulary,
        "steps": settings.steps,
        "tokens_per_step": settings.batch_size * settings.train_length,
        "training_tokens": settings.steps * settings.batch_size * settings.train_length,
        "test_tokens": sum(length * count for length, count in windows.items()),
        "trials": each * len(settings.schemes),
        "schemes": lines,
        "total_flops": each * total,
        "total_hours": each * total / speed.flops_per_second / 3600,
        "flops_per_second": speed.flops_per_second,
        "speed": speed.words,
        "paper": None
        if paper is None
        else {
            "reference": paper.reference,
            "text": paper.text,
            "tokens": paper.tokens,
            "sources": dict(paper.sources),
            "chosen": dict(paper.chosen),
            "differs": list(paper.differs),
        },
    }


def _test_windows(settings: Settings) -> dict[int, int]:
    """The windows, or problems, of each length that one trial is tested on, if the text is long enough; means over tasks."""
    rest = (settings.protocol, settings.lengths, settings.tail)
    size = least_tokens(*rest, settings.windows)
    of_text = {length: len(windows.ends) for length, windows in cut(*rest, settings.windows, size).items()}
    texts = sum(TASKS[task].needs_text for task in settings.tasks)
    others = len(settings.tasks) - texts
    return {
        length: -(-(texts * count + others * settings.windows) // len(settings.tasks)) for length, count in of_text.items()
    }


def _smaller(settings: Settings, vocabulary: int, most: float) -> tuple[Settings, int]:
    """The same model, smaller, so that a step does at most about so many operations."""
    small = settings.changed(batch_size=settings.batch_size // settings.accumulate, accumulate=1)

    def over() -> bool:
        return step_flops(small, counts(small, small.schemes[0], vocabulary).matrices) > most

    while over() and small.batch_size > 1:
        small = small.changed(batch_size=small.batch_size // 2)
    while over() and small.layers > 1:
        small = small.changed(layers=small.layers // 2)
    if over():
        vocabulary = min(vocabulary, 256)
    while over() and small.train_length > 64:
        small = small.changed(train_length=small.train_length // 2)
    return small, vocabulary


def _name_of(settings: Settings) -> str:
    machine = environment.machine(settings.device)
    return str(machine.get("gpu") or f"{machine['cpu']} ({settings.threads or torch.get_num_threads()} threads)")

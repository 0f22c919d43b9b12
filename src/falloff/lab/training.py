"""Training one model: AdamW, warm-up and cosine schedule, by Hugging Face Accelerate; the same batches for every scheme."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from falloff.lab.config import Settings
from falloff.lab.corpus import Bytes
from falloff.lab.extras import require
from falloff.lab.memory import peak_held
from falloff.lab.model import VOCABULARY, Decoder, build_model
from falloff.lab.progress import Progress

_LAST_RATE = 0.1  # the cosine ends at this share of the learning rate
_BETAS = (0.9, 0.95)  # as GPT-3


class TrainingWindows(Dataset[Tensor]):
    """Window k of training: T + 1 bytes from a position that depends on the seed and k alone."""

    def __init__(self, text: Bytes, settings: Settings) -> None:
        self.text = text
        self.seed = settings.seed
        self.size = settings.train_length + 1
        self.count = settings.steps * settings.batch_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        start = int(np.random.default_rng((self.seed, index)).integers(0, len(self.text) - self.size + 1))
        return torch.from_numpy(self.text[start : start + self.size].astype(np.int64))


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        model: the model itself, on its device.
        predict: the model as Accelerate runs it: tokens (B, N) to logits (B, N, V), in the run's precision.
        loss: of the last step, in nats per byte.
        seconds_per_step: the median over steps after the first tenth.
        peak_bytes: the most memory held by tensors during a step: weights, optimizer, batch, activations, gradients.
    """

    model: Decoder
    predict: Callable[[Tensor], Tensor]
    loss: float
    seconds_per_step: float
    peak_bytes: int


@contextmanager
def deterministic() -> Iterator[None]:
    """Use torch's deterministic algorithms within the context, then restore its settings.

    Torch only warns if an operator has none.
    """
    # Torch requires this for a deterministic cuBLAS, which reads it when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time, changes no result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Set torch's threads on the CPU within the context (None: keep its number), then restore them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(settings: Settings, name: str, text: Bytes, progress: Progress) -> Trained:
    """Train the model of one scheme from its start weights.

    Args:
        settings: of the run.
        name: the scheme.
        text: the train part, at least T + 1 bytes.
        progress: called after every step.

    Raises:
        ValueError: if the loss is no longer finite.
    """
    accelerator_class = require("accelerate").Accelerator
    device = torch.device(settings.device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        accelerator = accelerator_class(
            cpu=device.type == "cpu", mixed_precision={"fp32": "no", "bf16": "bf16"}[settings.precision]
        )
        model = build_model(settings, name)
        optimizer = build_optimizer(model, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, settings))
        # The loader gets its own generator: it draws a seed, and torch's global generator must not change.
        loader: Any = DataLoader(
            TrainingWindows(text, settings), settings.batch_size, shuffle=False, generator=torch.Generator()
        )
        predict, stepper, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
        loss = math.nan

        def step(batch: Tensor) -> None:
            nonlocal loss
            logits = predict(batch[:, :-1])
            mean = functional.cross_entropy(logits.view(-1, VOCABULARY), batch[:, 1:].flatten())
            accelerator.backward(mean)
            accelerator.clip_grad_norm_(predict.parameters(), settings.clip_norm)
            stepper.step()
            schedule.step()
            stepper.zero_grad()
            loss = mean.item()  # waits for the device, so that the time of a step is complete

        seconds: list[float] = []
        peak = 0
        for index, batch in enumerate(loader):
            if index == settings.steps - 1:  # the last step is measured for memory, not for time
                peak = peak_held(partial(step, batch), device, model, optimizer, batch)
            else:
                began = time.perf_counter()
                step(batch)
                seconds.append(time.perf_counter() - began)
            if not math.isfinite(loss):
                raise ValueError(
                    f"learning_rate: got {settings.learning_rate}, with which the loss of {name} is {loss} at step "
                    f"{index + 1}; expected one with which it stays finite"
                )
            speed = batch[:, 1:].numel() / seconds[-1] if seconds else None
            progress.advance(1, doing=f"step {index + 1}/{settings.steps}", loss=loss, tokens_per_second=speed)
        accelerator.free_memory()
    return Trained(model, predict, loss, statistics.median(seconds[len(seconds) // 10 :]), peak)


def rate(step: int, settings: Settings) -> float:
    """The factor of the learning rate at a step: it rises during the warm-up, then falls along a cosine to a tenth.

    >>> settings = Settings.of_preset("quick", steps=100)
    >>> rate(0, settings), rate(9, settings), rate(10, settings), round(rate(99, settings), 3)
    (0.1, 1.0, 1.0, 0.1)
    """
    warm = int(settings.warmup * settings.steps)
    if step < warm:
        return (step + 1) / warm
    way = (step - warm) / max(settings.steps - warm, 1)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * min(way, 1.0))) / 2


def build_optimizer(model: Decoder, settings: Settings) -> torch.optim.AdamW:
    """AdamW with three groups: matrices (with weight decay), gains of the norms, and the scheme's own parameters."""
    own: list[nn.Parameter] = [] if model.scheme is None else list(model.scheme.parameters())
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("scheme.")]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in others if parameter.dim() <= 1]},
        {"params": own, "lr": settings.bias_learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=_BETAS, weight_decay=0.0, fused=True)

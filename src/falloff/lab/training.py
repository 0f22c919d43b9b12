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

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from falloff.lab import processes, sharing
from falloff.lab.accelerating import accelerator_for, own_batches, prepared
from falloff.lab.config import Settings
from falloff.lab.memory import peak_held
from falloff.lab.model import Decoder, build_model
from falloff.lab.progress import Progress
from falloff.lab.state import Measured, restore, state_of
from falloff.lab.store.trial_folder import TrialFolder
from falloff.lab.store.trials import Trial
from falloff.lab.tasks.base import IGNORED, Task
from falloff.lab.trackers import LOGGED_EVERY, Log, no_log
from falloff.shapes import Float, Int

_LAST_RATE = 0.1  # the cosine ends at this share of the learning rate
_BETAS = (0.9, 0.95)  # as GPT-3


class TrainingItems(Dataset[tuple[Tensor, Tensor]]):
    """The items of training from a step on: item k depends on the seed and k alone."""

    def __init__(self, task: Task, settings: Settings, seed: int, first_step: int) -> None:
        self.task = task
        self.seed = seed
        self.first = first_step * settings.batch_size
        self.count = settings.steps * settings.batch_size - self.first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.task.training_item(self.seed, self.first + index)


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        model: the model itself, on its device.
        predict: the model as Accelerate runs it: tokens (B, N) to logits (B, n, V), in the run's precision. Several
            processes call it together, with equal shapes. n is N, or with context parallel the length of a stretch.
        seconds_per_step: the median over steps after the first tenth.
        peak_bytes: the most memory held by tensors during a step: weights, optimizer, batch, activations, gradients.
    """

    model: Decoder
    predict: Callable[[Tensor], Tensor]
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


def train(
    settings: Settings,
    trial: Trial,
    task: Task,
    folder: TrialFolder,
    progress: Progress,
    save_seconds: float,
    log: Log = no_log,
) -> Trained:
    """Train the model of a trial, from its start weights or from the state that its folder holds.

    All processes call it together: each trains on its share of every batch (see `falloff.lab.sharing`).

    Args:
        settings: of the run.
        trial: whose model it is.
        task: what it learns.
        folder: of the trial, for its state.
        progress: called after every step.
        save_seconds: the state is stored when so much time has passed since it was stored last.
        log: called with the loss and the learning rate of every tenth step, and of the last one.

    Raises:
        ValueError: if the loss is no longer finite.
    """
    device = torch.device(settings.device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        accelerator = accelerator_for(settings)
        model = build_model(settings, trial.scheme, trial.seed, task.vocabulary)
        model.group = sharing.group()
        optimizer = build_optimizer(model, settings)
        predict, stepper = prepared(accelerator, model, optimizer, settings)
        first, measured = _continued(folder, model, optimizer, progress)
        if first:
            progress.advance(first, doing=f"step {first}/{settings.steps}")
        # The loader gets its own generator: it draws a seed, and torch's global generator must not change. Batches are dealt
        # out in turn, so that those of one step are one batch of one process.
        items = TrainingItems(task, settings, trial.seed, first)
        share = settings.batch_size // sharing.data_ranks()
        batches = DataLoader(items, share, shuffle=False, generator=torch.Generator()) if len(items) else None
        loader = [] if batches is None else own_batches(accelerator, batches)
        rates = [group["lr"] for group in optimizer.param_groups]
        saved = time.monotonic()
        loss, save = math.nan, False

        def gradients(inputs: Tensor, targets: Tensor) -> Tensor:
            targets = sharing.own_stretch(targets)
            asked = processes.total((targets != IGNORED).sum())  # each process may be asked another number of them
            own_parts = []
            for tokens, wanted in zip(inputs.chunk(settings.accumulate), targets.chunk(settings.accumulate), strict=True):
                own_part = loss_part(predict(tokens), wanted, asked)
                accelerator.backward(own_part * processes.count())  # DDP and FSDP take the mean of the gradients
                own_parts.append(own_part.detach())
            return torch.stack(own_parts).sum()

        def step(index: int, inputs: Tensor, targets: Tensor) -> None:
            nonlocal loss, save
            for group, at_most in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = at_most * rate(index, settings)
            own_part = gradients(inputs, targets)
            accelerator.clip_grad_norm_(predict.parameters(), settings.clip_norm)
            stepper.step()
            stepper.zero_grad()
            due = processes.is_main() and time.monotonic() - saved >= save_seconds  # all act by the clock of one
            found = processes.total(torch.stack((own_part.detach(), own_part.new_tensor(due))))
            loss, save = found[0].item(), bool(found[1])  # waits for the device, so that the time of a step is complete

        for index, (inputs, targets) in enumerate(loader, start=first):
            last = index == settings.steps - 1
            if last and index == first:  # what a first step caches would count as memory of this one
                gradients(inputs, targets)
                stepper.zero_grad()
            if last:  # the last step is measured for memory, not for time
                measured.peak = peak_held(partial(step, index, inputs, targets), device, model, optimizer, inputs, targets)
            else:
                began = time.perf_counter()
                step(index, inputs, targets)
                measured.seconds.append(time.perf_counter() - began)
            if not math.isfinite(loss):
                raise ValueError(
                    f"learning_rate: got {settings.learning_rate}, with which the loss of {trial} is {loss} at step "
                    f"{index + 1}; expected one with which it stays finite"
                )
            speed = sharing.data_ranks() * inputs.numel() / measured.seconds[-1] if measured.seconds else None
            progress.advance(1, doing=f"step {index + 1}/{settings.steps}", loss=loss, tokens_per_second=speed)
            if last or index % LOGGED_EVERY == LOGGED_EVERY - 1:
                log({"train/loss": loss, "train/learning_rate": optimizer.param_groups[0]["lr"]}, index + 1)
            if save:
                state = state_of(model, optimizer, measured)
                processes.on_main(partial(folder.write_state, index + 1, state))
                saved = time.monotonic()
        accelerator.free_memory()
    seconds = measured.seconds
    return Trained(model, predict, statistics.median(seconds[len(seconds) // 10 :]), measured.peak)


def loss_part(logits: Float[Tensor, "B N V"], targets: Int[Tensor, "B N"], asked: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """What these targets add to the mean loss over all that are asked for in a step."""
    nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return nats / asked


def _continued(
    folder: TrialFolder, model: Decoder, optimizer: torch.optim.Optimizer, progress: Progress
) -> tuple[int, Measured]:
    """The step at which training goes on, and what it measured before: 0 and nothing without a state that can be used."""
    tensors: dict[str, Tensor] = {}

    def step_of_state() -> int:
        try:
            found = folder.state()
        except ValueError as error:
            progress.note(f"training begins anew: {error}")
            return 0
        if found is not None:
            tensors.update(found[1])
        return 0 if found is None else found[0]

    step = processes.on_main(step_of_state)
    return step, restore(model, optimizer, tensors) if step else Measured()


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

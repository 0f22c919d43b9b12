"""A model to test: the processes share its batches, and time and memory of the forward pass are measured on the way."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from falloff.lab import sharing
from falloff.lab.memory import MB, peak_held
from falloff.lab.tasks.base import IGNORED
from falloff.shapes import Bool, Float, Int


class Metered:
    """A model as tasks test it (`Predict`), which notes how long each call takes on this process.

    Logits never leave their process: with a large vocabulary they would be the most of all data.

    Args:
        predict: the model: tokens (B, N) to logits (B, N, V).
        device: where it runs.
    """

    def __init__(self, predict: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.predict = predict
        self.device = device
        self.seconds: dict[tuple[int, int], list[float]] = {}  # by shape of the batch

    def nats(self, tokens: Int[Tensor, "B N"], targets: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return self._shared(tokens, targets, partial(functional.cross_entropy, ignore_index=IGNORED, reduction="none"))

    def right(self, tokens: Int[Tensor, "B N"], targets: Int[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
        return self._shared(tokens, targets, lambda logits, wanted: logits.argmax(1) == wanted)

    def _shared(self, tokens: Tensor, targets: Tensor, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What `read` gives of logits (b, V, n) and targets (b, n), each process with its own stretch of its own rows."""
        logits = self._logits(sharing.own_rows(tokens), len(tokens))
        with torch.inference_mode():
            wanted = sharing.own_stretch(sharing.own_rows(targets))
            own = read(logits.transpose(1, 2), wanted.to(self.device))
            return sharing.collected(own)[: len(tokens)]

    def _logits(self, own: Tensor, batch: int) -> Tensor:
        """The logits of this process's rows of a batch of so many."""
        own = own.to(self.device)
        self._wait()
        began = time.perf_counter()
        with torch.inference_mode():
            logits = self.predict(own)
        self._wait()
        self.seconds.setdefault((batch, own.shape[1]), []).append(time.perf_counter() - began)
        return logits

    def costs(self, *holders: nn.Module) -> list[dict[str, Any]]:
        """For each length: its largest batch, seconds and tokens per second, and the peak memory of one more call.

        Args:
            holders: whose tensors count as held.
        """
        shapes: dict[int, int] = {}
        for batch, length in self.seconds:
            shapes[length] = max(batch, shapes.get(length, 0))
        found = []
        for length, batch in shapes.items():
            seconds = statistics.median(self.seconds[batch, length])
            tokens = sharing.own_rows(torch.zeros(batch, length, dtype=torch.int64)).to(self.device)
            with torch.inference_mode():
                peak = peak_held(partial(self.predict, tokens), self.device, *holders, tokens)
            found.append(
                {
                    "length": length,
                    "test_batch": batch,
                    "test_seconds": seconds,
                    "test_tokens_per_second": batch * length / seconds,
                    "test_peak_memory_mb": peak / MB,
                }
            )
        return found

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

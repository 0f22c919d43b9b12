"""What a test costs at each length: time and memory of the model's forward pass, measured while it is tested."""

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from falloff.lab.memory import MB, peak_held
from falloff.lab.tasks.base import Predict


class Metered:
    """A model that notes how long each call takes; to call in place of it.

    Args:
        predict: the model, as it is tested.
        device: where it runs.
    """

    def __init__(self, predict: Predict, device: torch.device) -> None:
        self.predict = predict
        self.device = device
        self.seconds: dict[tuple[int, int], list[float]] = {}  # by shape of the batch

    def __call__(self, tokens: Tensor) -> Tensor:
        self._wait()
        began = time.perf_counter()
        with torch.inference_mode():
            logits = self.predict(tokens)
        self._wait()
        self.seconds.setdefault((tokens.shape[0], tokens.shape[1]), []).append(time.perf_counter() - began)
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
            tokens = torch.zeros(batch, length, dtype=torch.int64, device=self.device)
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

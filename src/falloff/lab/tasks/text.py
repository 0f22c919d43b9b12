"""Language modelling: predict the next token of a text, and be tested on held-out text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from falloff.lab.protocols import PROTOCOLS, cut
from falloff.lab.tasks.base import Measure, Outcome, Predict, Task

if TYPE_CHECKING:
    from falloff.lab.config import Settings
    from falloff.lab.progress import Progress
    from falloff.lab.text.corpus import Text

_DIGITS = 9  # decimals of a loss: it is rounded before any use, so that the stored losses give the same results


class LanguageModelling(Task):
    """Windows of the train part at random places; perplexity of windows of the held-out part, cut by the protocol."""

    name = "text"
    summary = "language modelling: predict the next token of a text"
    needs_text = True

    def __init__(self, settings: Settings, text: Text | None) -> None:
        super().__init__(settings, text)
        assert text is not None
        self.text = text
        self.vocabulary = text.vocabulary
        self.windows = cut(settings.protocol, settings.lengths, settings.tail, settings.windows, len(text.held_out))
        unit = text.unit
        words = {
            "tail": f"perplexity per {unit} of the last {settings.tail} {unit}s of each window",
            "all": f"perplexity per {unit} of all {unit}s",
        }
        self.measures = tuple(
            Measure(name, words[name], exponential=True, lower_is_better=True)
            for name in PROTOCOLS[settings.protocol].measures
        )

    def training_item(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        size = self.settings.train_length + 1
        start = int(np.random.default_rng((seed, index)).integers(0, len(self.text.train) - size + 1))
        tokens = torch.from_numpy(self.text.train[start : start + size].astype(np.int64))
        return tokens[:-1], tokens[1:]

    def test(self, predict: Predict, progress: Progress) -> list[Outcome]:
        settings, held_out = self.settings, self.text.held_out
        outcomes = []
        for length, windows in self.windows.items():
            losses = []
            for part in self.batches(length, progress):
                ends = windows.ends[part]
                batch = torch.from_numpy(held_out[ends[:, None] + np.arange(-length - 1, 0)].astype(np.int64))
                losses.append(predict.nats(batch[:, :-1], batch[:, 1:]).double())
            nats = torch.cat(losses)
            for measure in self.measures:
                of_measure, together = (nats[:, -settings.tail :], 1) if measure.name == "tail" else (nats, windows.overlap)
                means = of_measure.mean(1).numpy().round(_DIGITS)
                if not np.isfinite(means).all():
                    raise ValueError(f"got the loss {means.max()} at length {length:,}, expected a finite number")
                outcomes.append(Outcome(measure.name, length, tuple(means.tolist()), together=together))
        return outcomes

    def counts(self) -> dict[int, int]:
        return {length: len(windows.ends) for length, windows in self.windows.items()}

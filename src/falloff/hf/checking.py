"""Parity of fused models with Transformers' eager attention: `falloff hf check`.

Models of every family are small and random, so that nothing is downloaded. Outputs are compared at tokens only, not at
padding. The first token after padding on the left has no label: the padding row that predicts it sees no key, and for such
a row falloff and Transformers give different outputs (see `falloff.hf.fuse`).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from falloff.hf.fusing import check_version, fuse
from falloff.hf.small_models import MODELS, inputs

LOGITS, GRADIENTS, HALF = 2e-5, 1e-4, 2.0
"""Error budgets. Logits and gradients: the largest error over the largest value. The loss has the budget of the logits: its
error over its value. bfloat16: the error over that of eager attention."""

SIDES = ("none", "left", "right", "between")
"""Where a batch has padding."""

BIASES = ("relative_attention_bias", "rel_logits_proj.proj", "rel_embeddings", "rel_attn_embed", "pos_bias_")
"""Parts of the names of the parameters that a bias is made of."""

_BATCH, _LENGTH, _ANSWER = 3, 70, 24


@dataclass(frozen=True)
class Parity:
    """How a fused model of a family compares with eager attention.

    Attributes:
        logits: the largest error over the largest value, for the worst of `SIDES`.
        gradients: the same for the worst parameter, whose name is `worst_parameter`. Gradients are those of the loss.
        loss: the largest error over the loss. Labels are set as by Transformers' Trainer: every token, not padding.
        generation: the error of the logits over 64 generated steps; None if the model does not generate.
        tokens: whether 200 greedily generated tokens are equal; beams: whether 20 tokens of a search with 4 beams are; None
            if the model does not generate.
        bfloat16: RMS error of the logits against float64, over that of eager attention.
    """

    family: str
    model: str
    logits: float
    gradients: float
    worst_parameter: str
    loss: float
    generation: float | None
    tokens: bool | None
    beams: bool | None
    bfloat16: float

    @property
    def green(self) -> bool:
        """Whether all errors are within budget."""
        return (
            max(self.logits, self.loss, self.generation or 0.0) <= LOGITS
            and self.gradients <= GRADIENTS
            and self.tokens is not False
            and self.beams is not False
            and self.bfloat16 <= HALF
        )


def check(family: str) -> Parity:
    """Compare a fused model of a family, one of `MODELS`, with eager attention.

    Raises:
        ImportError: without Transformers.
        ValueError: for a family that is not in `MODELS`.
    """
    if not isinstance(family, str) or family not in MODELS:
        raise ValueError(f"family: got {family!r}, expected one of {', '.join(MODELS)}")
    check_version()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        eager = MODELS[family]().eval()
        with torch.no_grad():  # with its initial values a bias is too small for an error to show
            for name, parameter in eager.named_parameters():
                if any(part in name for part in BIASES):
                    parameter.normal_()
        if eager.can_generate():
            eager.generation_config.eos_token_id = None  # generate all tokens, without an early stop
        batches = _batches(eager)
    fused = copy.deepcopy(eager)
    fuse(fused)

    pairs = [(_logits(eager, batch), _logits(fused, batch)) for batch in batches.values()]
    logits = max(_error(*pair) for pair in pairs)
    loss = max(_error(_loss(eager, batch), _loss(fused, batch)) for batch in batches.values())
    gradients, worst = max(_gradient_error(eager, fused, batch) for batch in batches.values())
    # Padding on the right: with padding on the left, eager BLOOM and MPT give NaN in float64.
    half = _half(eager, fused, batches["right"])
    generates = eager.can_generate()
    steps, tokens, beams = _generated(eager, fused, batches["left"]) if generates else (None, None, None)
    return Parity(family, type(eager).__name__, logits, gradients, worst, loss, steps, tokens, beams, half)


def _generated(eager: Any, fused: Any, batch: dict[str, Tensor]) -> tuple[float, bool, bool]:
    """The error of the logits over generated steps, and whether tokens and beams are the same."""
    prompts = {name: tensor[:, :_ANSWER] for name, tensor in batch.items() if name != "labels"}
    generated = [_generate(model, prompts, 200) for model in (eager, fused)]
    steps = max(
        _error(_generation_logits(eager, prompts, count), _generation_logits(fused, prompts, count)) for count in (2, 64)
    )
    beams = [_generate(model, prompts, 20, num_beams=4) for model in (eager, fused)]
    return steps, torch.equal(*generated), torch.equal(*beams)


def _batches(model: Any) -> dict[str, dict[str, Tensor]]:
    """A batch for each of `SIDES`, with labels. Speech has padding on the right alone."""
    return {side: _batch(model, side) for side in SIDES if side in ("none", "right") or _of_tokens(model)}


def _of_tokens(model: Any) -> bool:
    return bool(model.main_input_name != "input_values")


def _batch(model: Any, side: str) -> dict[str, Tensor]:
    found = inputs(model, _BATCH, _LENGTH)
    mask = torch.ones(next(iter(found.values())).shape[:2], dtype=torch.long)
    length = mask.shape[1]
    for row, padding in enumerate((0, length // 14, length * 13 // 70)):
        where = {"left": slice(padding), "right": slice(length - padding, None), "between": slice(20, 20 + padding)}
        mask[row, where.get(side, slice(0))] = 0
    if model.config.is_encoder_decoder:
        labels = torch.randint(2, 80, (_BATCH, _ANSWER))
        if side != "none":
            labels[1, -4:] = -100
    elif not _of_tokens(model):
        labels = torch.arange(_BATCH)
    elif model.can_generate():
        sees_nothing = torch.zeros_like(mask, dtype=torch.bool)
        sees_nothing[:, 1:] = mask.cumsum(1)[:, :-1] == 0  # the row that predicts a token is the one before it
        labels = found["input_ids"].masked_fill((mask == 0) | sees_nothing, -100)
    else:
        labels = found["input_ids"].masked_fill(mask == 0, -100)
    found = {name: tensor * mask.view(*mask.shape, *(1,) * (tensor.dim() - 2)) for name, tensor in found.items()}
    return found | {"labels": labels} | ({} if side == "none" else {"attention_mask": mask})


def _loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        loss: Tensor = model(**batch, use_cache=False).loss
    return loss


def _logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The logits at all tokens that have a label."""
    with torch.no_grad():
        logits: Tensor = model(**batch, use_cache=False).logits
    return logits[batch["labels"] != -100]


def _error(want: Tensor, got: Tensor, least: float = 0.0) -> float:
    """The largest error over the largest value, which counts as at least `least`. Infinite if it is not finite."""
    found = ((want - got).abs().max() / want.abs().max().clamp(min=least)).item()
    return found if math.isfinite(found) else math.inf


def _gradient_error(eager: Any, fused: Any, batch: dict[str, Tensor]) -> tuple[float, str]:
    """The error of the worst parameter, and its name."""
    found: list[dict[str, Tensor]] = []
    for model in (eager, fused):
        model.zero_grad()
        model(**batch, use_cache=False).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    want, got = found
    if want.keys() != got.keys():
        return float("inf"), next(iter(want.keys() ^ got.keys()))
    sizes = {name: grad.abs().max().item() for name, grad in want.items()}
    largest = max(sizes.values())
    # Some gradients are 0 but for rounding, such as that of a bias of all keys: both must be.
    least = {name: 0.0 if size > 1e-6 * largest else 1e-6 / GRADIENTS * largest for name, size in sizes.items()}
    return max((_error(want[name], got[name], least[name]), name) for name in want)


def _generate(model: Any, prompts: dict[str, Tensor], count: int, **settings: Any) -> Any:
    from transformers import GenerationMixin

    # Pop2Piano overrides `generate` for spectrograms. MPT's config turns the cache off.
    return GenerationMixin.generate(model, **prompts, max_new_tokens=count, do_sample=False, use_cache=True, **settings)


def _generation_logits(model: Any, prompts: dict[str, Tensor], count: int) -> Tensor:
    found = _generate(model, prompts, count, output_logits=True, return_dict_in_generate=True)
    return torch.stack(found.logits)


def _rounded(batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The batch with its real numbers rounded to bfloat16, in this dtype."""
    return {name: tensor.bfloat16().to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}


def in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """A copy of the model in this dtype, as `from_pretrained` loads it: some modules of Inkling-2 stay in float32.

    These convert what they get to float32, so that none of it can be float64: the model is then in float32.
    """
    model = copy.deepcopy(model)
    if model.config.model_type != "inkling2_text":
        return model.to(dtype)
    if dtype == torch.float64:
        return model.float()
    model.to(dtype)
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if any(part in name for part in model._keep_in_fp32_modules_strict):
            parameter.data = parameter.data.float()
    return model


def _half(eager: Any, fused: Any, batch: dict[str, Tensor]) -> float:
    eager, fused = (in_dtype(model, torch.bfloat16) for model in (eager, fused))
    exact = _logits(in_dtype(eager, torch.float64), _rounded(batch, torch.float64)).double()
    rounded = _rounded(batch, torch.bfloat16)
    theirs, ours = ((_logits(model, rounded).double() - exact).square().mean().sqrt() for model in (eager, fused))
    found = (ours / theirs).item()
    return found if math.isfinite(found) else math.inf

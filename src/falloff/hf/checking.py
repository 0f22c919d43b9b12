"""Parity of fused models with Transformers' eager attention: `falloff hf check`.

Models of every family are small and random, so that nothing is downloaded. Outputs are compared at tokens only, not at
padding. The first token after padding on the left has no label: the padding row that predicts it sees no key, and for such
a row falloff and Transformers give different outputs (see `falloff.hf.fuse`).
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from falloff.hf.fusing import check_version, fuse

LOGITS, GRADIENTS, HALF = 2e-5, 1e-4, 2.0
"""Error budgets. Logits and gradients: the largest error over the largest value. The loss has the budget of the logits: its
error over its value. bfloat16: the error over that of eager attention."""

SIDES = ("none", "left", "right", "between")
"""Where a batch has padding."""

_BATCH, _LENGTH, _ANSWER = 3, 70, 24


@dataclass(frozen=True)
class Parity:
    """How a fused model of a family compares with eager attention.

    Attributes:
        logits: the largest error over the largest value, for the worst of `SIDES`.
        gradients: the same for the worst parameter, whose name is `worst_parameter`. Gradients are those of the loss.
        loss: the largest error over the loss. Labels are set as by Transformers' Trainer: every token, not padding.
        generation: the error of the logits over 64 generated steps.
        tokens: whether 200 greedily generated tokens are equal; beams: whether 20 tokens of a search with 4 beams are.
        bfloat16: RMS error of the logits against float64, over that of eager attention.
    """

    family: str
    model: str
    logits: float
    gradients: float
    worst_parameter: str
    loss: float
    generation: float
    tokens: bool
    beams: bool
    bfloat16: float

    @property
    def green(self) -> bool:
        """Whether all errors are within budget."""
        return (
            max(self.logits, self.loss, self.generation) <= LOGITS
            and self.gradients <= GRADIENTS
            and self.tokens
            and self.beams
            and self.bfloat16 <= HALF
        )


def _t5(name: str, **more: Any) -> Any:
    import transformers

    settings: dict[str, Any] = {"vocab_size": 80, "d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2}
    settings |= {"num_decoder_layers": 2, "num_heads": 6, "dropout_rate": 0.0}
    settings |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1} | more
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForConditionalGeneration")
    return model(config(**settings, attn_implementation="eager"))


def _switch() -> Any:
    sizes = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4, "expert_capacity": 64}
    return _t5("SwitchTransformers", **sizes)


def _bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=80, hidden_size=48, n_layer=2, n_head=6, hidden_dropout=0.0, attention_dropout=0.0)
    return BloomForCausalLM(config)


def _mpt() -> Any:
    from transformers import MptConfig, MptForCausalLM

    return MptForCausalLM(MptConfig(vocab_size=80, d_model=48, n_layers=2, n_heads=6, max_seq_len=512))


def _falcon(**more: Any) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    settings: dict[str, Any] = {"vocab_size": 80, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
    settings |= {"alibi": True, "multi_query": False, "parallel_attn": False, "bos_token_id": 1, "eos_token_id": 1}
    # Eager Falcon adds the bias twice in Transformers 5.17 to 5.23: alone, and as part of the mask.
    return FalconForCausalLM(FalconConfig(**settings | more, attn_implementation="sdpa"))


def _inkling() -> Any:
    from transformers import InklingForCausalLM, InklingTextConfig

    config = InklingTextConfig(
        vocab_size=80,
        hidden_size=48,
        num_hidden_layers=3,
        local_layer_ids=[0, 2],
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=2,
        swa_head_dim=16,
        sliding_window_size=20,
        d_rel=4,
        rel_extent=30,
        log_scaling_n_floor=16,
        log_scaling_alpha=0.5,
        intermediate_size=64,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        logits_mup_width_multiplier=1.0,
        initializer_range=0.2,
        pad_token_id=0,
        attn_implementation="eager",
        experts_implementation="eager",  # the default has no float64
    )
    return InklingForCausalLM(config)


MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: _t5("T5"),
    "byt5": lambda: _t5("T5", feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_layers=3),
    "chronos": lambda: _t5("T5", relative_attention_num_buckets=16, relative_attention_max_distance=40),
    "mt5": lambda: _t5("MT5"),
    "umt5": lambda: _t5("UMT5"),
    "switch": _switch,
    "pop2piano": lambda: _t5("Pop2Piano"),
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "falcon-mqa": lambda: _falcon(multi_query=True, parallel_attn=True),
    "inkling": _inkling,
}
"""A small random model of each family."""


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
                if "relative_attention_bias" in name or name.endswith("rel_logits_proj.proj"):
                    parameter.normal_()
        eager.generation_config.eos_token_id = None  # generate all tokens, without an early stop
        batches = list(_batches(eager))
    fused = copy.deepcopy(eager)
    fuse(fused)

    pairs = [(_logits(eager, batch), _logits(fused, batch)) for batch in batches]
    logits = max(_error(*pair) for pair in pairs)
    loss = max(_error(_loss(eager, batch), _loss(fused, batch)) for batch in batches)
    gradients, worst = max(_gradient_error(eager, fused, batch) for batch in batches)
    on_the_left = batches[SIDES.index("left")]
    prompts = {name: tensor[:, :_ANSWER] for name, tensor in on_the_left.items() if name in ("input_ids", "attention_mask")}
    # Padding on the right: with padding on the left, eager BLOOM and MPT give NaN in float64.
    half = _half(eager, fused, batches[SIDES.index("right")])
    generated = [_generate(model, prompts, 200) for model in (eager, fused)]
    steps = max(
        _error(_generation_logits(eager, prompts, count), _generation_logits(fused, prompts, count)) for count in (2, 64)
    )
    beams = [_generate(model, prompts, 20, num_beams=4) for model in (eager, fused)]
    return Parity(
        family, type(eager).__name__, logits, gradients, worst, loss, steps,
        torch.equal(*generated), torch.equal(*beams), half,
    )  # fmt: skip


def _batches(model: Any) -> Iterator[dict[str, Tensor]]:
    """One batch for each of `SIDES`, with labels."""
    for side in SIDES:
        ids = torch.randint(2, 80, (_BATCH, _LENGTH))
        mask = torch.ones_like(ids)
        for row, padding in enumerate((0, 5, 13)):
            where = {"left": slice(padding), "right": slice(_LENGTH - padding, None), "between": slice(20, 20 + padding)}
            mask[row, where.get(side, slice(0))] = 0
        if model.config.is_encoder_decoder:
            labels = torch.randint(2, 80, (_BATCH, _ANSWER))
            if side != "none":
                labels[1, -4:] = -100
        else:
            sees_nothing = torch.zeros_like(mask, dtype=torch.bool)
            sees_nothing[:, 1:] = mask.cumsum(1)[:, :-1] == 0  # the row that predicts a token is the one before it
            labels = ids.masked_fill((mask == 0) | sees_nothing, -100)
        batch = {"input_ids": ids * mask, "labels": labels}
        yield batch if side == "none" else batch | {"attention_mask": mask}


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
    least = 1e-6 * max(grad.abs().max().item() for grad in want.values())  # some gradients are 0 but for rounding
    return max((_error(want[name], got[name], least), name) for name in want)


def _generate(model: Any, prompts: dict[str, Tensor], count: int, **settings: Any) -> Any:
    from transformers import GenerationMixin

    # Pop2Piano overrides `generate` for spectrograms. MPT's config turns the cache off.
    return GenerationMixin.generate(model, **prompts, max_new_tokens=count, do_sample=False, use_cache=True, **settings)


def _generation_logits(model: Any, prompts: dict[str, Tensor], count: int) -> Tensor:
    found = _generate(model, prompts, count, output_logits=True, return_dict_in_generate=True)
    return torch.stack(found.logits)


def _half(eager: Any, fused: Any, batch: dict[str, Tensor]) -> float:
    eager, fused = (copy.deepcopy(model).bfloat16() for model in (eager, fused))
    exact = _logits(copy.deepcopy(eager).double(), batch)
    theirs, ours = ((_logits(model, batch).double() - exact).square().mean().sqrt() for model in (eager, fused))
    found = (ours / theirs).item()
    return found if math.isfinite(found) else math.inf

"""What a model costs by counting: parameters, floating-point operations, and the memory of a training step.

Operations, with N the parameters in matrices by which every token is multiplied (all but the embedding), L layers of width W
and a window of T tokens: 2 N + 2 L W (T + 1) for each token forward, since a query meets (T + 1) / 2 keys on average, and
three times that for a step of training. Not counted: the bias itself, norms and activation functions.

Memory, in bytes: weights 4, gradients 4 and AdamW 8 for each parameter; for each token of the part of a batch that is at
work 16 V for logits, their softmax and the gradients of both, and per layer what the backward pass needs: 72 W, or 44 W in
bf16, and 4 H + 8; with RoPE another 12 W, or 8 W. In bf16 also 2 for each parameter in matrices, for their copies. Not
counted: the form of the bias, and what the allocator of a GPU and the libraries hold beside tensors. Against `peak_held` on
the CPU, tests allow 3% for a bias that depends on positions, and 15% for one that depends on content.
"""

from dataclasses import dataclass

import torch

from falloff.lab.config import Settings
from falloff.lab.model import Decoder, build_scheme
from falloff.schemes.content import ContentScheme

_LAYER_BYTES = {"fp32": 72, "bf16": 44}
"""Per token and unit of the width, for the backward pass of a layer. fp32: 18 numbers of 4 bytes: 3 around each
norm, query, key and value, the result of attention, 4 before and 4 after GELU. bf16: of 2 bytes, but 2 at a norm of 4."""
_NORM_BYTES = {"fp32": 12, "bf16": 10}
_ROPE_BYTES = {"fp32": 12, "bf16": 8}


@dataclass(frozen=True)
class Counts:
    """What is counted of a model.

    Args:
        parameters, bias_parameters: in all, and of its bias alone.
        matrices: N, those in matrices by which every token is multiplied.
        rope: whether queries and keys are rotated.
    """

    parameters: int
    bias_parameters: int
    matrices: int
    rope: bool


def counts(settings: Settings, scheme: str, vocabulary: int) -> Counts:
    """Count the parameters of the model that would be trained. It is built without memory for its weights.

    Raises:
        ValueError: as `build_scheme` does.
    """
    with torch.random.fork_rng(devices=[]):
        bias = build_scheme(scheme, settings.heads, settings.train_length, settings.width // settings.heads)
        with torch.device("meta"):
            model = Decoder(settings, vocabulary, rope=scheme == "rope")
            if isinstance(bias, ContentScheme):
                for block in model.blocks:
                    block.add_states(bias)  # type: ignore[operator]
    of_bias = 0 if bias is None else sum(parameter.numel() for parameter in bias.parameters())
    named = dict(model.named_parameters())
    matrices = sum(value.numel() for name, value in named.items() if value.dim() > 1 and name != "embedding.weight")
    return Counts(sum(parameter.numel() for parameter in named.values()) + of_bias, of_bias, matrices, model.rope)


def forward_flops(settings: Settings, matrices: int, length: int) -> int:
    """The floating-point operations of the forward pass of one window of this length."""
    return length * (2 * matrices + 2 * settings.layers * settings.width * (length + 1))


def step_flops(settings: Settings, matrices: int) -> int:
    """Those of a training step: forward, and twice as many backward."""
    return 3 * settings.batch_size * forward_flops(settings, matrices, settings.train_length)


def step_memory(settings: Settings, counted: Counts, vocabulary: int) -> dict[str, int]:
    """The bytes of tensors in a training step by what they are for, and `peak`: the most that is held at once.

    That is when the backward pass begins, with all activations; or when it ends, with all gradients.
    """
    tokens = settings.batch_size // settings.accumulate * settings.train_length
    layer = (_LAYER_BYTES[settings.precision] + counted.rope * _ROPE_BYTES[settings.precision]) * settings.width
    layer += 4 * settings.heads + 8
    copies = 2 * counted.matrices if settings.precision == "bf16" else 0
    parts = {
        "weights": 4 * counted.parameters,
        "optimizer": 8 * counted.parameters,
        "gradients": 4 * counted.parameters,
        "activations": tokens * (settings.layers * layer + _NORM_BYTES[settings.precision] * settings.width) + copies,
        "logits": 16 * vocabulary * tokens,
    }
    begins = parts["weights"] + parts["optimizer"] + parts["activations"] + parts["logits"]
    if settings.accumulate > 1:
        begins += parts["gradients"]  # of the parts before
    return {**parts, "peak": max(begins, parts["weights"] + parts["optimizer"] + parts["gradients"])}

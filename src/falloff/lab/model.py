"""The model that is trained once per scheme: a small pre-norm decoder, all attention through falloff."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from falloff.forms import Form
from falloff.lab.config import BASELINES, KNOWN_SCHEMES, Settings
from falloff.lab.stretches import Stretch
from falloff.named import OWN_NAMES, is_own, known_class, make_own
from falloff.ops.api import attention
from falloff.schemes import Scheme
from falloff.schemes.content import ContentScheme
from falloff.schemes.settings import make, setting_parameters
from falloff.shapes import Float, Int

_ROPE_BASE = 10_000.0  # Su et al. 2021
_BIAS_STREAM = 2**32  # above all seeds, so that no bias shares its random numbers with the weights of a model


def build_scheme(name: str, heads: int, train_length: int, head_size: int = 64) -> Scheme | None:
    """The scheme with this name, with its settings for the trained length and the head size; None for a baseline.

    Raises:
        ValueError: for an unknown name, or one of the user's own whose code has not run; for one of the user's own that
            cannot be made, has another number of heads, or depends on content and is no `ContentScheme`.
    """
    if name in BASELINES:
        return None
    if name not in KNOWN_SCHEMES and not is_own(name):
        raise ValueError(f"scheme: got {name!r}, expected one of {', '.join(KNOWN_SCHEMES)}, or {OWN_NAMES}")
    cls = known_class(name, "--schemes")
    if cls.needs_content and not issubclass(cls, ContentScheme):
        raise ValueError(
            f"schemes: got {name!r}, whose bias depends on what the tokens say, expected one that depends on positions "
            "alone, or a falloff.schemes.content.ContentScheme, which names what it is called with"
        )
    taken = setting_parameters(cls)
    fitting = {"head_dim": head_size, **cls.settings_for(train_length)}
    settings = {setting: value for setting, value in fitting.items() if setting in taken}
    scheme = make_own(cls, "schemes", heads, settings) if is_own(name) else make(cls, heads, settings)
    if scheme.num_heads != heads:
        raise ValueError(f"schemes: got {name!r} of {scheme.num_heads} heads, expected {heads}, as the model has")
    return scheme


class Decoder(nn.Module):
    """A causal language model: embedding, `layers` blocks, RMSNorm, and a head of its own (not tied).

    One bias, that of `scheme`, is shared by all layers, as in T5; scores are scaled by 1/sqrt(D), or by the scheme's own
    scale. A scheme that depends on content is called by each layer with its states, for which the layer may have a
    projection. Without a scheme there is no bias; with `rope`, queries and keys are rotated instead.

    Args:
        settings: its `layers`, `width` and `heads` are used.
        vocabulary: V, the number of tokens.
        rope: whether queries and keys are rotated by their position.

    With a `group`, its processes share the windows: each has its stretch of them from the embedding to the logits.
    """

    def __init__(self, settings: Settings, vocabulary: int, *, rope: bool = False) -> None:
        super().__init__()
        self.rope = rope
        self.head_size = settings.width // settings.heads
        self.embedding = nn.Embedding(vocabulary, settings.width)
        self.blocks = nn.ModuleList(Block(settings.width, settings.heads) for _ in range(settings.layers))
        self.norm = nn.RMSNorm(settings.width)
        self.head = nn.Linear(settings.width, vocabulary, bias=False)
        self.scheme: Scheme | None = None
        self.group: distributed.ProcessGroup | None = None
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # So that the sum of all 2 * layers branches is as large as one branch, as in GPT-2.
                branch_end = name.endswith(("output.weight", "down.weight"))
                fan_in = 1 if name == "embedding.weight" else parameter.shape[1]
                nn.init.normal_(parameter, std=fan_in**-0.5 * ((2 * settings.layers) ** -0.5 if branch_end else 1.0))

    def forward(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B n V"]:
        """The logits of the tokens: of all, or with a `group` of this process's stretch of them."""
        length = tokens.shape[1]
        stretch = None if self.group is None else Stretch(self.group, length)
        bias: Form | Scheme | None = self.scheme
        if self.scheme is not None and not self.scheme.needs_content:
            # One form for all layers: computed once, and its gradient is the sum over layers.
            bias = self.scheme(length, length, device=tokens.device)
        turn = rotation(length, self.head_size, tokens.device) if self.rope else None
        if stretch is not None:
            tokens = stretch.of(tokens, 1)
            bias = stretch.of_form(bias) if isinstance(bias, Form) else bias
            turn = None if turn is None else stretch.of(turn, 1)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, bias, turn, stretch)
        return self.head(self.norm(hidden))


class Block(nn.Module):
    """A pre-norm layer: causal attention, then a feed-forward network of 4 times the width, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.network_norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.states = nn.ModuleDict()

    def add_states(self, scheme: ContentScheme) -> None:
        """Add the projection of what this scheme is called with, if queries, keys and hidden states are not enough."""
        for name, size in (("gates", 1), ("state", getattr(scheme, "state_dim", 1))):
            if name in scheme.content:
                self.states[name] = nn.Linear(self.query_key_value.in_features, self.heads * size)

    def forward(
        self, hidden: Tensor, bias: Form | Scheme | None, turn: Tensor | None, stretch: Stretch | None = None
    ) -> Tensor:
        B, N, width = hidden.shape
        normed = self.attention_norm(hidden)
        projected = self.query_key_value(normed).view(B, N, 3, self.heads, width // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        if turn is not None:
            query, key = rotated(query, turn), rotated(key, turn)
        scale = None
        if isinstance(bias, ContentScheme):
            known = {"query": query, "key": key, "hidden": normed}
            for name, project in self.states.items():
                states = project(normed).view(B, N, self.heads, -1).transpose(1, 2)
                known[name] = states.squeeze(3) if name == "gates" else states
            scale = bias.scale
            called_with = [known[name] for name in bias.content]
            scheme, query = bias, bias.content_query(query)
            bias = scheme(*called_with) if stretch is None else stretch.content_form(scheme, called_with, N)
        if stretch is None:
            mixed = attention(query, key, value, bias, causal=True, scale=scale)
        else:
            mixed = stretch.attention(query, key, value, bias, scale)
        hidden = hidden + self.output(mixed.transpose(1, 2).reshape(B, N, width))
        return hidden + self.down(functional.gelu(self.up(self.network_norm(hidden))))


def rotation(length: int, head_size: int, device: torch.device) -> Float[Tensor, "2 N D2"]:
    """RoPE's cosines and sines for each position and pair, in float32."""
    frequencies = _ROPE_BASE ** -(torch.arange(0, head_size, 2, device=device) / head_size)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin()))


def rotated(heads: Float[Tensor, "B H N D"], turn: Float[Tensor, "2 N D2"]) -> Float[Tensor, "B H N D"]:
    """Rotate the pairs (d, d + D/2) of queries or keys by the angles of their positions (Su et al. 2021)."""
    first, second = heads.float().chunk(2, dim=-1)
    cos, sin = turn
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(heads.dtype)


def build_model(settings: Settings, name: str, seed: int, vocabulary: int) -> Decoder:
    """The model for one scheme. Its weights depend on the seed alone, so they are the same for every scheme.

    The scheme's own parameters, and the projections of its states, come from another random stream of the same seed. Torch's
    global generator is restored.

    Raises:
        ValueError: as `build_scheme` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Decoder(settings, vocabulary, rope=name == "rope")
        torch.manual_seed(_BIAS_STREAM + seed)
        model.scheme = build_scheme(name, settings.heads, settings.train_length, model.head_size)
        if isinstance(model.scheme, ContentScheme):
            for block in model.blocks:
                block.add_states(model.scheme)  # type: ignore[operator]
    return model


def parameter_counts(model: Decoder) -> tuple[int, int]:
    """The number of parameters of the model, and of its bias alone."""
    total = sum(parameter.numel() for parameter in model.parameters())
    bias = 0 if model.scheme is None else sum(parameter.numel() for parameter in model.scheme.parameters())
    return total, bias

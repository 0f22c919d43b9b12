"""FIRE: a small network over a distance that is progressively interpolated into 0 .. 1."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.forms import Form, Warp
from falloff.offsets import check_count, first_query_position, is_position, offset_matrix, offset_range
from falloff.schemes.base import Scheme
from falloff.shapes import Float, Int

_EPSILON = 1e-6


class FIRE(Scheme):
    """A network of the normalised distance: f(psi(n) / (psi(max(i, L)) + 1e-6)), psi(x) = ln(abs(c x) + 1).

    i is the query's position and f is Linear(1, width), ReLU, Linear(width, H). Rows i <= L depend on the offset alone;
    later rows do not, since distances are stretched to the row's own length. That is exact as a `Warp`: on a scalar, f is
    piecewise linear. Keys in the future (n < 0) take abs(n).

    Args:
        num_heads: H.
        width: hidden units of the network.
        init_c: start value of c.
        init_L: start value of the threshold L; `L_multiplier` (start 1) times it is learned.

    Parameters `mlp` (Sequential of Linear, ReLU, Linear), `c` and `L_multiplier` (1,), buffer `init_L` (1,), named as in the
    paper's code. A checkpoint in which the last three are scalars, as there, loads. A model in bfloat16 keeps `init_L` in
    eight bits too: powers of two stay exact.

    Raises:
        ValueError: for settings out of range.

    Paper: Li et al. 2024, "Functional Interpolation for Relative Positions Improves Long Context Transformers".

    >>> FIRE(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "fire"
    largest_settings: ClassVar[dict[str, int]] = {"width": 1024}
    formula = "f(psi(n) / (psi(max(i, L)) + 1e-6)), psi(x) = ln(|c x| + 1), f = Linear(1, w) ReLU Linear(w, H)"
    paper = "Li et al. 2024, FIRE"
    reading = "Learns any function of distance relative to the row's length: beyond L, positions are squeezed to fit."
    toeplitz = False
    scalars: ClassVar[tuple[str, ...]] = ("c", "L_multiplier", "init_L")
    """What is one number. As tensors (1,): FSDP cannot shard what has no dimension."""

    def __init__(self, num_heads: int, width: int = 32, init_c: float = 0.1, init_L: float = 512.0) -> None:
        super().__init__()
        check_count("num_heads", num_heads, 1)
        check_count("width", width, 1)
        for name, value in (("init_c", init_c), ("init_L", init_L)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name}: got {value!r}, expected a finite number above 0")
        self.num_heads = num_heads
        self.width = width
        self.init_c = float(init_c)
        self.mlp = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, num_heads))
        self.c = nn.Parameter(torch.tensor([float(init_c)]))
        self.L_multiplier = nn.Parameter(torch.tensor([1.0]))
        self.init_L: Tensor
        self.register_buffer("init_L", torch.tensor([float(init_L)]))

    @classmethod
    def settings_for(cls, trained_length: int) -> dict[str, Any]:
        return {"init_L": trained_length / 4}  # the paper's proportion: 512 of 2048

    def threshold(self) -> Float[Tensor, ""]:
        """L: the query position up to which the bias depends on the offset alone."""
        return (self._raised(self.L_multiplier) * self.init_L).abs().reshape(())

    def at(self, offsets: Int[Tensor, " L"]) -> Float[Tensor, "H L"]:
        """The bias in the rows i <= L, where the offset alone decides."""
        c = self._raised(self.c)
        return self._f(_psi(c, offsets.abs()) / (_psi(c, self.threshold()) + _EPSILON))

    def form(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: Int[Tensor, "B N"] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Form:
        lowest, highest = offset_range(num_queries, num_keys, query_start)
        _check_text_start(text_start, num_queries)
        last_position = first_query_position(num_queries, num_keys, query_start) + num_queries - 1
        if self._knows_threshold(text_start) and last_position - _earliest(text_start) < self.threshold().item():
            return super().form(num_queries, num_keys, query_start, device=device, dtype=dtype)
        device, dtype = self._device(device), dtype or self._dtype()
        distances = torch.arange(max(highest, -lowest, 0) + 1, device=device)
        knots, slope, intercept = self._segments(dtype)
        c = self._raised(self.c)  # once: of a c in bfloat16, what comes from g and from a is added before it is rounded
        tensors = (
            _psi(c, distances),
            1 / self._normaliser(c, num_queries, num_keys, query_start, text_start, device),
            knots,
            slope,
            intercept,
        )
        g, a, knots, slope, intercept = (tensor.to(dtype) for tensor in tensors)
        return Warp(g, a, knots, slope, intercept, rising=True)

    def dense(
        self,
        num_queries: int,
        num_keys: int,
        query_start: int | None = None,
        *,
        text_start: Int[Tensor, "B N"] | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        _check_text_start(text_start, num_queries)
        device = self._device(device)
        distance = offset_matrix(num_queries, num_keys, query_start, device).abs()
        c = self._raised(self.c)
        normaliser = self._normaliser(c, num_queries, num_keys, query_start, text_start, device)
        bias = self._f(_psi(c, distance) / normaliser[..., None]).to(dtype or self._dtype())
        return bias.transpose(0, 1) if normaliser.dim() == 2 else bias

    def _knows_threshold(self, text_start: Tensor | int | None) -> bool:
        """Whether L may be looked at to choose the cheaper Strip.

        Not while a compiler, torch.func or a fake tensor stands in for values, nor where it would stall a GPU.
        """
        if isinstance(text_start, Tensor) and type(text_start) is not Tensor:
            return False
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        return not transformed and self.L_multiplier.device.type == "cpu"

    def _normaliser(
        self,
        c: Tensor,
        num_queries: int,
        num_keys: int,
        query_start: int | None,
        text_start: Tensor | int | None,
        device: torch.device | str,
    ) -> Tensor:
        """psi(max(i, L)) + 1e-6 for each row, (N,) or (B, N): i counts from the start of the row's own text."""
        positions = torch.arange(num_queries, device=device) + first_query_position(num_queries, num_keys, query_start)
        if text_start is not None:
            positions = positions - text_start
        return _psi(c, torch.maximum(positions, self.threshold())) + _EPSILON

    def _layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, last = self._affine(self.mlp[0], 1), self._affine(self.mlp[2], self.width)
        w1, b1, w2, b2 = (self._raised(tensor) for tensor in (*first, *last))
        return w1.flatten(), b1, w2, b2

    def _affine(self, layer: nn.Module, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a Linear; of what stands in its place (LoRA, a quantized layer) or has hooks, from a call."""
        hooked = layer._forward_pre_hooks or layer._forward_hooks or "forward" in vars(layer)
        if type(layer) is nn.Linear and not hooked:
            return layer.weight, layer.bias
        at = torch.cat([self.c.new_zeros(1, inputs), torch.eye(inputs, dtype=self.c.dtype, device=self.c.device)])
        with torch.autocast(at.device.type, enabled=False):
            bias, *ends = layer(at).unbind()
        return torch.stack([end - bias for end in ends], -1), bias

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in self.scalars:
            if isinstance(found := state_dict.get(prefix + name), Tensor) and found.dim() == 0:
                state_dict[prefix + name] = found.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _f(self, x: Tensor) -> Tensor:
        """The network on x of any shape: (...) -> (H, ...). Written out, so that it runs in full precision."""
        w1, b1, w2, b2 = self._layers()
        with torch.autocast(x.device.type, enabled=False):
            hidden = torch.relu(x[..., None] * w1 + b1)
            return torch.movedim(hidden @ w2.T + b2, -1, 0)

    def _segments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The network as lines between knots: knots (width,) rising, in `dtype`; slope and intercept (H, width + 1).

        Unit k bends at -b1_k / w1_k: it is active right of that knot where w1_k > 0 and left of it where w1_k < 0. Which
        units are active in a segment is held constant for the gradient, as it is almost everywhere.

        At the knot itself no unit is active: relu'(0) = 0. A warp counts a knot to the segment on its left, which is right
        where w1_k > 0. Where w1_k < 0 the knot is therefore the next number below. Where biases start at 0 all knots lie at
        x = 0, which every diagonal meets; x is never negative, so a knot there may step down to a normal number, which no
        processor takes for 0.
        """
        w1, b1, w2, b2 = self._layers()
        with torch.no_grad():
            bends = torch.where(w1 == 0, torch.inf, -b1 / torch.where(w1 == 0, 1.0, w1)).to(dtype)
            tiny = torch.finfo(torch.float32).tiny
            below = torch.where(bends.abs() <= tiny, -2 * tiny, torch.nextafter(bends, torch.full_like(bends, -torch.inf)))
            bends = torch.where(w1 < 0, below, bends)
            knots, order = bends.sort()
            place = order.argsort()  # the place of unit k's knot among the sorted ones
            segment = torch.arange(self.width + 1, device=w1.device)[:, None]
            right_of_knot = segment > place
            active = torch.where(w1 > 0, right_of_knot, torch.where(w1 < 0, ~right_of_knot, b1 > 0)).to(w1.dtype)
        with torch.autocast(w1.device.type, enabled=False):
            return knots, (w2 * w1) @ active.T, (w2 * b1) @ active.T + b2[:, None]


def _psi(c: Tensor, x: Tensor) -> Tensor:
    return torch.log1p((c * x).abs())


def _check_text_start(text_start: object, num_queries: int) -> None:
    if text_start is None or is_position(text_start):
        return
    if not isinstance(text_start, Tensor) or text_start.dim() != 2 or text_start.shape[1] != num_queries:
        got = f"shape {tuple(text_start.shape)}" if isinstance(text_start, Tensor) else repr(text_start)
        raise ValueError(f"text_start: got {got}, expected an int or a tensor of shape (B, {num_queries})")


def _earliest(text_start: Tensor | int | None) -> int:
    """Where the text of some row begins; 0 where none begins before the keys."""
    if isinstance(text_start, Tensor):
        return min(int(text_start.min()), 0) if text_start.numel() else 0
    return 0 if text_start is None else text_start

"""FIRE: a small network over a distance that is progressively interpolated into 0 .. 1."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.eager import is_eager
from falloff.forms import Form, Warp
from falloff.offsets import check_count, first_query_position, is_position, offset_matrix, offset_range
from falloff.schemes.base import full_precision
from falloff.schemes.kept import KeptScheme, Place, range_to_keep
from falloff.shapes import Float, Int

_EPSILON = 1e-6
_JUST_ABOVE_0 = 2.0**-100  # divided by any weight still a normal float32, so that no processor takes it for 0


class FIRE(KeptScheme):
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
    keeps = ("c", "L_multiplier", "init_L", "mlp")
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
        return self._threshold().reshape(())

    def _threshold(self) -> Tensor:
        return (self._raised(self.L_multiplier) * self.init_L).abs()

    def _constants(self, offsets: Tensor) -> Tensor:
        return offsets.abs()

    def _bias(self, constants: Tensor) -> Tensor:
        c = self._raised(self.c).abs()
        return self._f(_psi(c, constants) / (_psi(c, self._threshold()) + _EPSILON))

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
        threshold = self._threshold()
        if self._knows_threshold(text_start) and _ends_by(threshold.item(), last_position, text_start):
            return super().form(num_queries, num_keys, query_start, device=device, dtype=dtype)
        device, dtype = self._device(device), dtype or self._dtype()
        # Once: of a c in bfloat16, what comes from g and from a is added before it is rounded.
        c = self._raised(self.c).abs()
        g = _psi(c, self._constants_between(0, max(highest, -lowest, 0), device))
        a = self._normaliser(c, threshold, num_queries, num_keys, query_start, text_start, device).reciprocal()
        g, a, knots, slope, intercept = (tensor.to(dtype) for tensor in (g, a, *self._segments(dtype)))
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
        c = self._raised(self.c).abs()
        normaliser = self._normaliser(c, self._threshold(), num_queries, num_keys, query_start, text_start, device)
        bias = self._f(_psi(c, distance) / normaliser[..., None]).to(dtype or self._dtype())
        return bias.transpose(0, 1) if normaliser.dim() == 2 else bias

    def _sources(self) -> Sequence[Tensor | None]:
        layers, own = self.mlp._modules, self._parameters
        first, last = layers.get("0"), layers.get("2")
        if not (_is_plain(first) and _is_plain(last)):
            return [None]
        of_layers = (*first._parameters.values(), *last._parameters.values())  # type: ignore[union-attr]
        return [own.get("c"), own.get("L_multiplier"), self._buffers.get("init_L"), *of_layers]

    def _kept_form(
        self,
        sizes: tuple[int, int, int | None],
        text_start: Tensor | int | None,
        place: Place,
        dtype: torch.dtype,
        sources: Sequence[Tensor],
    ) -> Form | None:
        first, end = first_query_position(*sizes), first_query_position(*sizes) + sizes[0]
        if text_start is not None or first < 0:
            return None
        if _ends_by(self._threshold().item(), end - 1, None):
            return super()._kept_form(sizes, None, place, dtype, sources)
        lowest, highest = range_to_keep(*sizes, None, None)
        length = max(highest, -lowest) + 1  # of the square case, which has the multipliers of all positions
        key = ("warp", place, dtype, length)
        warp = self._once(key, lambda: self.form(length, length, device=place.device, dtype=dtype), sources)
        return Warp(warp.g, warp.a[first:end], warp.knots, warp.slope, warp.intercept, rising=True)

    def _knows_threshold(self, text_start: Tensor | int | None) -> bool:
        """Whether L may be looked at to choose the cheaper Strip: not where that would stall a GPU."""
        if isinstance(text_start, Tensor) and type(text_start) is not Tensor:
            return False
        return is_eager() and self.L_multiplier.device.type == "cpu"

    def _normaliser(
        self,
        c: Tensor,
        threshold: Tensor,
        num_queries: int,
        num_keys: int,
        query_start: int | None,
        text_start: Tensor | int | None,
        device: torch.device | str,
    ) -> Tensor:
        """psi(max(i, L)) + 1e-6 for each row, (N,) or (B, N): i counts from the start of the row's own text."""
        first = first_query_position(num_queries, num_keys, query_start)
        positions = torch.arange(first, first + num_queries, device=device)
        if text_start is not None:
            positions = positions - text_start
        return _psi(c, torch.maximum(positions, threshold)) + _EPSILON

    def _layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, last = self._affine(self.mlp[0], 1), self._affine(self.mlp[2], self.width)
        w1, b1, w2, b2 = (self._raised(tensor) for tensor in (*first, *last))
        return w1, b1, w2, b2

    def _affine(self, layer: nn.Module, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a Linear; of what stands in its place (LoRA, a quantized layer) or has hooks, from a call."""
        if isinstance(layer, nn.Linear) and _is_plain(layer):
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
        with full_precision(x.device.type):
            hidden = torch.relu(x[..., None] * w1.flatten() + b1)
            return torch.movedim(hidden @ w2.T + b2, -1, 0)

    def _segments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The network as lines between knots: knots (width,) rising, in `dtype`; slope and intercept (H, width + 1).

        Unit k bends at -b1_k / w1_k. No x is negative: a unit that bends below 0, or nowhere (w1_k = 0), is active
        everywhere where b1_k > 0, else nowhere, and its knot is put at infinity. The others are active left of their knot
        where b1_k > 0, else right of it. Which units are active in a segment is held constant for the gradient, as it is
        almost everywhere.

        At the knot itself no unit is active: relu'(0) = 0. A warp counts a knot to the segment on its left, which is right
        for units that are active on the right. The knot of one that is active on the left is therefore the next number
        below. Where biases start at 0 all knots lie at x = 0, which every diagonal meets, and only units with w1_k > 0 bend
        there: b1_k = 0 is taken for a number just below 0, too close for any other x to lie between.
        """
        w1, b1, w2, b2 = self._layers()
        b1 = b1[:, None]
        with torch.no_grad():
            negated = _JUST_ABOVE_0 - b1
            bends = nn.functional.threshold((negated / w1).to(dtype), 0.0, torch.inf)  # also where w1 is 0
            active_at_0 = negated < 0
            bends = torch.nextafter(bends, bends.masked_fill(active_at_0, 0.0))
            knots = bends.sort(0).values.flatten()
            # Segment s has the knots s - 1 and s for its ends: unit k has bent where its knot is not above the left one.
            left_ends = nn.functional.pad(knots, (1, 0), value=-torch.inf)
            active = (bends <= left_ends) != active_at_0  # (width, width + 1)
        with full_precision(w1.device.type):
            return knots, w2 @ (w1 * active), torch.addmm(b2[:, None], w2, b1 * active)


def _psi(c: Tensor, x: Tensor) -> Tensor:
    """ln(c x + 1), for c and x of at least 0."""
    return torch.log1p(c * x)


def _is_plain(layer: nn.Module | None) -> bool:
    """Whether a layer is the Linear that it looks like, and its tensors are all that a call of it depends on."""
    return type(layer) is nn.Linear and not (layer._forward_pre_hooks or layer._forward_hooks or "forward" in layer.__dict__)


def _check_text_start(text_start: object, num_queries: int) -> None:
    if text_start is None or is_position(text_start):
        return
    if not isinstance(text_start, Tensor) or text_start.dim() != 2 or text_start.shape[1] != num_queries:
        got = f"shape {tuple(text_start.shape)}" if isinstance(text_start, Tensor) else repr(text_start)
        raise ValueError(f"text_start: got {got}, expected an int or a tensor of shape (B, {num_queries})")


def _ends_by(threshold: float, last_position: int, text_start: Tensor | int | None) -> bool:
    """Whether all rows lie below the threshold, counted from the start of their own text."""
    if last_position >= threshold and not isinstance(text_start, int):  # no text that starts later than the first key helps
        return False
    if isinstance(text_start, Tensor) and text_start.numel():
        starts = text_start[:, 0] if text_start.stride(1) == 0 else text_start  # one for each batch entry
        text_start = min(int(starts.min()), 0)
    return last_position - (text_start if isinstance(text_start, int) else 0) < threshold

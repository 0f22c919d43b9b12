"""FIRE: a small network of the distance, which is progressively interpolated into 0 .. 1."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from falloff.cache import Cache, Location
from falloff.eager import is_eager
from falloff.forms import Form, Warp
from falloff.offsets import check_count, first_query_position, is_position, offset_matrix, offset_range
from falloff.schemes.base import full_precision
from falloff.schemes.cached import CachedScheme, cached_range
from falloff.shapes import Float, Int

_EPSILON = 1e-6
_JUST_ABOVE_0 = 2.0**-100  # its quotient by a weight is a normal float32, which no processor flushes to 0


class FIRE(CachedScheme):
    """A network of the normalised distance: f(psi(n) / (psi(max(i, L)) + 1e-6)), psi(x) = ln(abs(c x) + 1).

    n is the offset, i the query's position, L = abs(L_multiplier * init_L) a threshold, and f is Linear(1, width), ReLU,
    Linear(width, H). Query rows i <= L depend on the offset alone. Later rows do not: their distances are relative to the
    row's own length. A `Warp` represents them exactly, because f is a piecewise linear function of a scalar.

    The parameters are those of `mlp` (Sequential of Linear, ReLU, Linear), `c` and `L_multiplier` (1,); `init_L` (1,) is a
    buffer. Names are those of the paper's code, and its checkpoints, in which the last three are scalars, load. In a
    bfloat16 model, `init_L` is rounded to bfloat16 too: powers of two stay exact.

    Args:
        num_heads: H, at least 1.
        width: hidden units of the network, at least 1.
        init_c: initial value of c; above 0.
        init_L: the threshold L at initialization, in positions; above 0. `L_multiplier`, initially 1, is learned.

    Raises:
        ValueError: for arguments out of range.

    Paper: Li et al. 2024, "Functional Interpolation for Relative Positions Improves Long Context Transformers".

    >>> FIRE(4).dense(8, 8).shape
    torch.Size([4, 8, 8])
    """

    name = "fire"
    always = ("bounded", "sign_symmetric", "reach")
    largest_settings: ClassVar[dict[str, int]] = {"width": 1024}
    formula = "f(psi(n) / (psi(max(i, L)) + 1e-6)), psi(x) = ln(|c x| + 1), f = Linear(1, w) ReLU Linear(w, H)"
    paper = "Li et al. 2024, FIRE"
    reading = "Learns any function of distance relative to the row's length: beyond L, positions are squeezed to fit."
    toeplitz = False
    depends_on = ("c", "L_multiplier", "init_L", "mlp")
    scalars: ClassVar[tuple[str, ...]] = ("c", "L_multiplier", "init_L")
    """Single numbers, stored with shape (1,): FSDP cannot shard a tensor without dimensions."""

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
        return (self._upcast(self.L_multiplier) * self.init_L).abs()

    def _constants(self, offsets: Tensor) -> Tensor:
        return offsets.abs()

    def _bias(self, constants: Tensor) -> Tensor:
        c = self._upcast(self.c).abs()
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
        c = self._upcast(self.c).abs()
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
        c = self._upcast(self.c).abs()
        normaliser = self._normaliser(c, self._threshold(), num_queries, num_keys, query_start, text_start, device)
        bias = self._f(_psi(c, distance) / normaliser[..., None]).to(dtype or self._dtype())
        return bias.transpose(0, 1) if normaliser.dim() == 2 else bias

    def _dependencies(self) -> Sequence[Tensor | None]:
        layers, own = self.mlp._modules, self._parameters
        first, last = layers.get("0"), layers.get("2")
        if not (_is_plain(first) and _is_plain(last)):
            return [None]
        of_layers = (*first._parameters.values(), *last._parameters.values())  # type: ignore[union-attr]
        return [own.get("c"), own.get("L_multiplier"), self._buffers.get("init_L"), *of_layers]

    def _cached_form(
        self,
        forms: Cache,
        sizes: tuple[int, int, int | None],
        text_start: Tensor | int | None,
        location: Location,
        dtype: torch.dtype,
    ) -> Form | None:
        first = first_query_position(*sizes)
        if text_start is not None or first < 0:
            return None
        if _ends_by(forms.get("threshold", lambda: self._threshold().item()), first + sizes[0] - 1, None):
            return super()._cached_form(forms, sizes, None, location, dtype)
        lowest, highest = cached_range(*sizes, None, None)
        length = max(highest, -lowest) + 1  # of the square case, which has the multipliers of all positions
        key = ("warp", location, dtype, length)
        warp: Warp = forms.get(key, lambda: self.form(length, length, device=location.device, dtype=dtype))
        return warp.of_rows(first, sizes[0])

    def _knows_threshold(self, text_start: Tensor | int | None) -> bool:
        """Whether the value of L may be read, to choose the cheaper Strip: not if reading it would wait for a GPU."""
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
        """psi(max(i, L)) + 1e-6 of each query row, (N,) or (B, N); i counts from the start of the row's text."""
        first = first_query_position(num_queries, num_keys, query_start)
        positions = torch.arange(first, first + num_queries, device=device)
        if text_start is not None:
            positions = positions - text_start
        return _psi(c, torch.maximum(positions, threshold)) + _EPSILON

    def _layers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first, last = self._affine(self.mlp[0], 1), self._affine(self.mlp[2], self.width)
        w1, b1, w2, b2 = (self._upcast(tensor) for tensor in (*first, *last))
        return w1, b1, w2, b2

    def _affine(self, layer: nn.Module, inputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a Linear; of any other layer (LoRA, quantized, with hooks) they are found by calling it."""
        if isinstance(layer, nn.Linear) and _is_plain(layer):
            return layer.weight, layer.bias
        x = torch.cat([self.c.new_zeros(1, inputs), torch.eye(inputs, dtype=self.c.dtype, device=self.c.device)])
        with torch.autocast(x.device.type, enabled=False):
            bias, *at_units = layer(x).unbind()  # at 0, and at each unit vector
        return torch.stack([at_unit - bias for at_unit in at_units], -1), bias

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in self.scalars:
            if isinstance(found := state_dict.get(prefix + name), Tensor) and found.dim() == 0:
                state_dict[prefix + name] = found.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _f(self, x: Tensor) -> Tensor:
        """The network at x of any shape: (...) -> (H, ...). Written out, so that a bfloat16 model computes it in float32."""
        w1, b1, w2, b2 = self._layers()
        with full_precision(x.device.type):
            hidden = torch.relu(x[..., None] * w1.flatten() + b1)
            return torch.movedim(hidden @ w2.T + b2, -1, 0)

    def _segments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The network as lines between knots: rising knots (width,), in `dtype`; slope and intercept (H, width + 1).

        Unit k bends at -b1_k / w1_k, its knot. As x is never negative, a unit that bends below 0 or nowhere (w1_k = 0) is
        active for all x if b1_k > 0, else for none; its knot is set to infinity. Any other unit is active left of its knot
        if b1_k > 0, else right of it. For the gradient, the set of active units in a segment is constant, as it is almost
        everywhere.

        At its knot a unit is inactive: relu'(0) = 0. A warp assigns a knot to the segment on its left, which is correct for
        units that are active on the right; the knot of a unit that is active on the left is moved to the next smaller
        number. If the biases are initialized to 0, all knots are at x = 0, the value at offset 0, and only units with
        w1_k > 0 bend there: b1_k = 0 counts as a negative number, so small that no other x is below the knot.
        """
        w1, b1, w2, b2 = self._layers()
        b1 = b1[:, None]
        with torch.no_grad():
            negated = _JUST_ABOVE_0 - b1
            bends = nn.functional.threshold((negated / w1).to(dtype), 0.0, torch.inf)  # also where w1 is 0
            active_at_0 = negated < 0
            bends = torch.nextafter(bends, bends.masked_fill(active_at_0, 0.0))
            knots = bends.sort(0).values.flatten()
            # Segment s is between knots s - 1 and s: unit k has bent there if its knot is not above the left one.
            left_ends = nn.functional.pad(knots, (1, 0), value=-torch.inf)
            active = (bends <= left_ends) != active_at_0  # (width, width + 1)
        with full_precision(w1.device.type):
            return knots, w2 @ (w1 * active), torch.addmm(b2[:, None], w2, b1 * active)


def _psi(c: Tensor, x: Tensor) -> Tensor:
    """ln(c x + 1), for c >= 0 and x >= 0."""
    return torch.log1p(c * x)


def _is_plain(layer: nn.Module | None) -> bool:
    """Whether a layer depends on its weight and bias alone: a Linear, no subclass, without hooks or own `forward`."""
    return type(layer) is nn.Linear and not (layer._forward_pre_hooks or layer._forward_hooks or "forward" in layer.__dict__)


def _check_text_start(text_start: object, num_queries: int) -> None:
    if text_start is None or is_position(text_start):
        return
    if not isinstance(text_start, Tensor) or text_start.dim() != 2 or text_start.shape[1] != num_queries:
        got = f"shape {tuple(text_start.shape)}" if isinstance(text_start, Tensor) else repr(text_start)
        raise ValueError(f"text_start: got {got}, expected an int or a tensor of shape (B, {num_queries})")


def _ends_by(threshold: float, last_position: int, text_start: Tensor | int | None) -> bool:
    """Whether all query rows are before position L, counted from the start of their text."""
    # Whether all texts start after the first key is not looked for: a Warp is exact in any case.
    if last_position >= threshold and not isinstance(text_start, int):
        return False
    if isinstance(text_start, Tensor) and text_start.numel():
        starts = text_start[:, 0] if text_start.stride(1) == 0 else text_start  # the same for all rows
        text_start = min(int(starts.min()), 0)
    return last_position - (text_start if isinstance(text_start, int) else 0) < threshold

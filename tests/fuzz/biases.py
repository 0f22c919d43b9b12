"""Random biases, each defined a second time: as a dense tensor, computed from leaves in the precision that these have."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from falloff import SCHEMES, Band, Factored, Potential, Scheme, Strip, Sum, Warp

INF = float("inf")
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class Geometry:
    """What a bias may depend on: the sizes of the call, its positions, and where the text of each row starts."""

    batch: int
    heads: int
    num_queries: int
    num_keys: int
    query_start: int
    text_start: torch.Tensor | None

    @property
    def offsets(self):
        """(N, M): query position - key position."""
        rows = torch.arange(self.num_queries) + self.query_start
        return rows[:, None] - torch.arange(self.num_keys)

    def of_offset(self, values_at):
        """The dense bias (1, H, N, M) of a function of the offset alone, (L,) -> (H, L)."""
        lowest = self.query_start - (self.num_keys - 1)
        count = max(self.num_queries + self.num_keys - 1, 1)
        table = values_at(torch.arange(lowest, lowest + count))
        return table[:, self.offsets - lowest][None]


@dataclass
class Bias:
    """The argument `bias` of attention, the leaves that it is computed from, and its definition."""

    make: Callable
    """() -> the scheme, form or None. Called for each call of attention: a form's graph of autograd serves once."""
    leaves: list = field(default_factory=list)
    dense: Callable | None = None
    """Leaves -> the bias (1 or B, H, N, M), and the sum of the magnitudes that it is the sum of (None: that of the bias)."""
    near_bend: Callable | None = None
    """Leaves -> whether an argument is so near a bend that rounding decides on which side it is, and so the gradient."""
    partial: Callable | None = None
    """Leaves -> the same bias with only a part of its gradient. Where parts cancel, the error is as large as that of one."""
    label: str = ""


def none_bias(draw, geometry):
    return Bias(lambda: None, label="none")


# Forms.


def strip(draw, geometry):
    length = draw.pick([1, 2, 3, 5, 17, 64, 130, 600], [2, 1, 2, 3, 3, 2, 1, 0.3])
    near = geometry.query_start + draw.integer(-geometry.num_keys - 3, geometry.num_queries + 3)
    start = draw.pick([0, -length // 2, near], [3, 1, 3])
    values = draw.normal(geometry.heads, length) * draw.pick([1, 0.01, 30], [5, 1, 1])
    if draw.chance(0.3):  # falling, so far that keys are skipped
        values -= draw.pick([0.1, 1, 5]) * np.arange(length)
    if geometry.num_keys > 256 and draw.chance(0.5):  # a step about as high as the limit of skipping
        length, start = 600, 0
        values = np.where(np.arange(length) < draw.integer(1, 40), 0.0, -draw.uniform(12, 30)) * np.ones((geometry.heads, 1))
    if draw.chance(0.06):  # a strip may hide keys too
        values[:, draw.integer(0, length) :] = -INF
    leaf = draw.leaf(values, draw.pick(FLOATS, [8, 1, 1, 1]))

    def dense(leaves, start=start):
        index = (geometry.offsets - start).clamp(0, length - 1)
        return leaves[0][:, index][None], None

    return Bias(lambda: Strip(leaf, start), [leaf], dense, label=f"Strip K={length} start={start}")


def band(draw, geometry):
    extent = draw.pick([1, 2, 3, 8, 20, 70, 300], [1, 1, 1, 2, 2, 1, 0.2])
    values = draw.normal(geometry.batch, geometry.heads, geometry.num_queries, extent) * draw.pick([1, 0.01, 20], [5, 1, 1])
    if draw.chance(0.03):
        values[..., draw.integer(0, extent) :] = -INF
    leaf = draw.leaf(values, draw.pick(FLOATS, [8, 1, 1, 1]))

    def dense(leaves):
        offsets = geometry.offsets
        inside = (offsets >= 0) & (offsets < extent)
        index = offsets.where(inside, 0).expand(geometry.batch, geometry.heads, -1, -1)
        return leaves[0].gather(-1, index).where(inside, 0.0), None

    return Bias(lambda: Band(leaf), [leaf], dense, label=f"Band E={extent}")


def warp(draw, geometry):
    """Numbers of few bits, so that products are exact and some are equal to a knot; or any numbers, and continuous lines."""
    length = draw.pick([1, 2, 5, 30, 100, 700], [1, 1, 2, 3, 3, 0.5])
    segments = draw.pick([1, 2, 3, 6, 33], [1, 2, 2, 2, 0.5])
    exact = draw.chance(0.6)
    if exact:
        g = np.cumsum(draw.integers(0, 3, length)) / 4
        a = draw.integers(0, 9, *draw.pick([(geometry.num_queries,), (geometry.batch, geometry.num_queries)])) / 8
        knots = np.sort(draw.integers(-2, 40, segments - 1) / 16)
        slope, intercept = (draw.integers(-8, 9, geometry.heads, segments) / 8 for _ in range(2))
    else:
        g = np.cumsum(draw.uniform(0, 1, length))
        a = draw.uniform(0.01, 1.5, *draw.pick([(geometry.num_queries,), (geometry.batch, geometry.num_queries)]))
        knots = np.sort(draw.uniform(-0.5, 1.5 * g[-1], segments - 1))
        slope = draw.normal(geometry.heads, segments)
        steps = (slope[:, :-1] - slope[:, 1:]) * knots  # continuous: lines meet at the knots
        intercept = draw.normal(geometry.heads, 1) + np.concatenate([0 * slope[:, :1], np.cumsum(steps, 1)], 1)
    if draw.chance(0.07):  # the CPU kernels refuse these
        g = draw.permuted(g) if draw.chance(0.5) else g
        a = a * draw.pick([1, -1])
    dtype = torch.float32 if draw.chance(0.8) else torch.float64
    leaves = [draw.leaf(values, dtype) for values in (g, a, knots, slope, intercept)]

    def argument(leaves):
        x = leaves[0][geometry.offsets.abs().clamp(max=length - 1)] * leaves[1][..., None]
        return x if x.dim() == 3 else x[None]  # (1 or B, N, M)

    def dense(leaves):
        x = argument(leaves)
        segment = (x[..., None] > leaves[2]).sum(-1)
        slope, intercept = (leaf[:, segment].movedim(0, 1) for leaf in leaves[3:])
        line = slope * x[:, None]
        return line + intercept, line.detach().abs() + intercept.detach().abs()

    def near_bend(leaves):
        x, knots = argument(leaves)[..., None], leaves[2]
        apart = (x - knots).abs()
        return bool(((apart < 1e-5 * (x.abs() + knots.abs())) & (apart > 0)).any())

    return Bias(
        lambda: Warp(*leaves),
        leaves,
        dense,
        near_bend,
        label=f"Warp K={length} S={segments} {'exact ' * exact}a{tuple(a.shape)}",
    )


def factored(draw, geometry, side=None):
    side = side or draw.pick(["query", "key"], [2, 1])
    outside = draw.pick(["zero", "clamp"])
    length, size = draw.pick([1, 2, 5, 17, 64, 300], [1, 1, 2, 3, 3, 0.5]), draw.pick([1, 2, 7, 16, 33], [1, 1, 2, 2, 1])
    near = geometry.query_start + draw.integer(-geometry.num_keys - 3, geometry.num_queries + 3)
    start = draw.pick([0, -length // 2, near], [3, 1, 3])
    rows = geometry.num_queries if side == "query" else geometry.num_keys
    states = draw.normal(geometry.batch, geometry.heads, rows, size)
    table = draw.normal(draw.pick([1, geometry.heads]), length, size) * draw.pick([1, 0.01, 5], [5, 1, 1])
    dtype = draw.pick(FLOATS, [8, 1, 1, 1])
    leaves = [draw.leaf(values, dtype) for values in (states, table)]

    def dense(leaves):
        place = geometry.offsets - start
        inside = (place >= 0) & (place < length) if outside == "zero" else torch.ones_like(place, dtype=torch.bool)
        index = place.clamp(0, length - 1)

        def product(states, table):
            of_row, of_pair = (states[..., None, :], states[..., None, :, :])[side == "key"], table[:, index]
            return (of_row * of_pair).sum(-1).where(inside, 0.0)

        return product(*leaves), product(*(leaf.detach().abs() for leaf in leaves))

    return Bias(
        lambda: Factored(*leaves, start, outside, side),
        leaves,
        dense,
        label=f"Factored {side} {outside} K={length} R={size} start={start}",
    )


def potential(draw, geometry):
    row = draw.normal(geometry.batch, geometry.heads, geometry.num_queries)
    key = draw.normal(geometry.batch, geometry.heads, geometry.num_keys)
    if draw.chance(0.5):  # as sums of log gates: so far that keys are skipped
        fall = draw.pick([0.05, 0.5, 2])
        row -= fall * (np.arange(geometry.num_queries) + geometry.query_start)
        key += fall * np.arange(geometry.num_keys)
    dtype = draw.pick(FLOATS, [8, 1, 1, 1])
    leaves = [draw.leaf(values, dtype) for values in (row, key)]

    def dense(leaves):
        row, key = leaves[0][..., None], leaves[1][..., None, :]
        return row + key, row.detach().abs() + key.detach().abs()

    return Bias(lambda: Potential(*leaves), leaves, dense, label="Potential")


def sum_of_forms(draw, geometry):
    """Two or more parts, each kind once; no warp, whose bends `near_bend` would have to know."""
    makers = [strip, band, potential, lambda *to: factored(*to, "query"), lambda *to: factored(*to, "key")]
    chosen = [maker for maker in makers if draw.chance(0.5)]
    parts = [maker(draw, geometry) for maker in (chosen if len(chosen) > 1 else [strip, potential])]

    def dense(leaves):
        leaves, values, sizes = iter(leaves), [], []
        for part in parts:
            value, size = part.dense([next(leaves) for _ in part.leaves])
            values.append(value)
            sizes.append(value.detach().abs() if size is None else size)
        return sum(values), sum(sizes)

    return Bias(
        lambda: Sum([part.make() for part in parts]),
        [leaf for part in parts for leaf in part.leaves],
        dense,
        label="Sum of " + ", ".join(part.label for part in parts),
    )


# Schemes: leaves are the parameters, in the order of parameters().


def _of_scheme(draw, scheme, geometry, values_at, label, dense=None, near_bend=None, partial=None):
    """`values_at(leaves, offsets)` -> (H, L), for a scheme of the offset alone."""
    if draw.wide == torch.float64:
        scheme.double()
    elif draw.chance(0.1):
        scheme.bfloat16()
    if dense is None:

        def dense(leaves):
            return geometry.of_offset(lambda offsets: values_at(leaves, offsets)), None

    return Bias(lambda: scheme, list(scheme.parameters()), dense, near_bend, partial, label)


def _perturbed(draw, scheme, size=0.3):
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter.add_(size * torch.from_numpy(draw.normal(*parameter.shape)).to(parameter.dtype))
    return scheme


def _t5_bucket(n, buckets, max_distance, bidirectional):
    shift = 0
    if bidirectional:
        buckets //= 2
        shift, n = (buckets if n < 0 else 0), abs(n)
    n, e = max(n, 0), buckets // 2
    if n < e:
        return shift + n
    far = e + math.floor(math.log(n / e) / math.log(max_distance / e) * (buckets - e) + 1e-12)
    return shift + min(buckets - 1, far)


def t5(draw, geometry):
    bidirectional = draw.chance(0.4)
    buckets = draw.pick([4, 6, 8, 32]) if bidirectional else draw.pick([2, 3, 4, 5, 8, 32])
    per_direction = buckets // 2 if bidirectional else buckets
    max_distance = per_direction // 2 + draw.pick([1, 2, 5, 20, 100])
    scheme = SCHEMES["t5"](geometry.heads, buckets, max_distance, bidirectional=bidirectional, std=draw.pick([0.02, 1.0]))

    def values_at(leaves, offsets):
        return leaves[0][[_t5_bucket(n, buckets, max_distance, bidirectional) for n in offsets.tolist()]].T

    return _of_scheme(draw, scheme, geometry, values_at, f"t5 {buckets}/{max_distance}{' bidirectional' * bidirectional}")


def per_offset(draw, geometry):
    bidirectional, max_distance = draw.chance(0.4), draw.pick([1, 2, 7, 50])
    scheme = SCHEMES["per-offset"](geometry.heads, max_distance, bidirectional=bidirectional, std=1.0)

    def values_at(leaves, offsets):
        if bidirectional:
            return leaves[0][offsets.clamp(-max_distance, max_distance) + max_distance].T
        return leaves[0][offsets.clamp(0, max_distance)].T

    return _of_scheme(draw, scheme, geometry, values_at, f"per-offset {max_distance}{' bidirectional' * bidirectional}")


def _alibi_slopes(heads):
    if math.log2(heads).is_integer():
        return [2 ** (-8 * h / heads) for h in range(1, heads + 1)]
    closest = 2 ** math.floor(math.log2(heads))
    return _alibi_slopes(closest) + _alibi_slopes(2 * closest)[0::2][: heads - closest]


def alibi(draw, geometry):
    learned = draw.chance(0.4)
    scheme = SCHEMES["alibi"](geometry.heads, learned)
    fixed = torch.tensor(_alibi_slopes(geometry.heads), dtype=torch.float64)

    def values_at(leaves, offsets):
        slopes = leaves[0].exp() if learned else fixed
        return -slopes[:, None] * offsets.abs()

    return _of_scheme(draw, _perturbed(draw, scheme), geometry, values_at, f"alibi{' learned' * learned}")


def _clamped(parameter, maximum=None):
    """Clamped to its range, with the gradient of the unclamped value: published code clamps the parameter in place."""
    parameter = parameter.flatten(1)
    return parameter + (parameter.clamp(0.01, maximum) - parameter).detach()


def kerple_log(draw, geometry):
    scheme = _perturbed(draw, SCHEMES["kerple-log"](geometry.heads))

    def values_at(leaves, offsets):  # bias_p, bias_a
        return -_clamped(leaves[0]) * torch.log(1 + _clamped(leaves[1]) * offsets.abs())

    return _of_scheme(draw, scheme, geometry, values_at, "kerple-log")


def kerple_power(draw, geometry):
    scheme = _perturbed(draw, SCHEMES["kerple-power"](geometry.heads))

    def values_at(leaves, offsets):
        power = _clamped(leaves[0], 2.0)
        return -_clamped(leaves[1]) * offsets.abs().to(power.dtype) ** power

    return _of_scheme(draw, scheme, geometry, values_at, "kerple-power")


def sandwich(draw, geometry):
    dim, first = draw.pick([2, 8, 128]), draw.pick([1, 0])
    scheme = SCHEMES["sandwich"](geometry.heads, dim, first=first)

    def values_at(offsets, sizes=False):  # the error of a cosine is that of its angle
        k = torch.arange(first, first + dim // 2, dtype=torch.float64)
        angles = offsets.double()[:, None] / 10000 ** (2 * k / dim)
        parts = angles.abs() + 2 if sizes else angles.cos() - 1
        return torch.stack([parts.sum(-1) / (8 * h / geometry.heads) for h in range(1, geometry.heads + 1)])

    def dense(leaves):
        return geometry.of_offset(values_at), geometry.of_offset(lambda n: values_at(n, sizes=True))

    return _of_scheme(draw, scheme, geometry, None, f"sandwich {dim} first={first}", dense)


def tisa(draw, geometry):
    kernels = draw.pick([1, 5])
    scheme = _perturbed(draw, SCHEMES["tisa"](geometry.heads, kernels))
    names = [name for name, _ in scheme.named_parameters()]

    def values_at(leaves, offsets):
        c, a, b = (leaves[names.index(f"kernel_{name}")] for name in ("offsets", "amplitudes", "sharpness"))
        apart = offsets[None, None, :] - c[..., None]
        return (a[..., None] * torch.exp(-b.abs()[..., None] * apart**2)).sum(0)

    return _of_scheme(draw, scheme, geometry, values_at, f"tisa {kernels}")


def fire(draw, geometry):
    width = draw.pick([1, 2, 5, 32], [1, 2, 3, 0.5])
    init_L = draw.pick([1.0, 4.5, 16.0, 2000.0])
    scheme = _perturbed(draw, SCHEMES["fire"](geometry.heads, width, draw.pick([0.1, 1.0]), init_L), 0.05)
    if draw.chance(0.1):  # all knots at 0, the value at offset 0
        torch.nn.init.zeros_(scheme.mlp[0].bias)
    if draw.chance(0.1):
        with torch.no_grad():
            scheme.mlp[0].weight[0] = 0.0
    names = [name for name, _ in scheme.named_parameters()]

    def network(leaves):
        w1, b1, w2, b2 = (leaves[names.index(f"mlp.{name}")] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        return w1.flatten(), b1, w2, b2

    def before_relu(leaves, partial=False):
        c, multiplier = (leaves[names.index(name)].reshape(()) for name in ("c", "L_multiplier"))
        psi = lambda x: torch.log((c * x).abs() + 1)  # noqa: E731
        row = torch.arange(geometry.num_queries) + geometry.query_start
        row = row[None] if geometry.text_start is None else row - geometry.text_start
        normaliser = psi(torch.maximum(row.to(c.dtype), (multiplier * scheme.init_L.item()).abs())) + 1e-6
        x = psi(geometry.offsets.abs()) / (normaliser.detach() if partial else normaliser)[..., None]
        w1, b1, *_ = network(leaves)
        return x[..., None] * w1, b1

    def dense(leaves, partial=False):
        product, b1 = before_relu(leaves, partial)
        _, _, w2, b2 = network(leaves)
        bias = torch.relu(product + b1) @ w2.T + b2
        size = (product.detach().abs() + b1.detach().abs()) @ w2.detach().abs().T + b2.detach().abs()
        return bias.movedim(-1, 1), size.movedim(-1, 1)

    def near_bend(leaves):
        product, b1 = before_relu(leaves)
        sums = (product + b1).abs()
        return bool(((sums < 4e-6 * (product.abs() + b1.abs())) & (sums > 0)).any())

    def partial(leaves):  # c changes distances and their normaliser, and the two parts of its gradient may cancel
        return dense(leaves, partial=True)[0]

    return _of_scheme(draw, scheme, geometry, None, f"fire width={width} L={init_L}", dense, near_bend, partial)


def profile_mixture(draw, geometry):
    rank, extent = draw.pick([1, 3]), draw.pick([1, 4, 30])
    mixture = SCHEMES["profile-mixture"](geometry.heads, rank, extent).to(draw.wide)
    with torch.no_grad():
        mixture.profiles.copy_(torch.from_numpy(draw.normal(rank, extent)))
    state = draw.leaf(draw.normal(geometry.batch, geometry.heads, geometry.num_queries, rank), draw.wide)

    def dense(leaves):
        state, profiles = leaves
        values = state @ profiles
        offsets = geometry.offsets
        inside = (offsets >= 0) & (offsets < extent)
        index = offsets.where(inside, 0).expand(*values.shape[:3], geometry.num_keys)
        size = state.detach().abs() @ profiles.detach().abs()
        return values.gather(-1, index).where(inside, 0.0), size.gather(-1, index).where(inside, 0.0)

    return Bias(lambda: mixture(state).to_band(), [state, mixture.profiles], dense, label=f"profile-mixture {rank}x{extent}")


# Schemes of a user's own.


class Waves(Scheme):
    """Defines only `at`, and maybe `reach`."""

    def __init__(self, heads, reach):
        super().__init__()
        self.height = torch.nn.Parameter(torch.randn(heads))
        self.reach = self.future_reach = reach

    def at(self, offsets):
        if self.reach is not None:
            offsets = offsets.clamp(-self.reach, self.reach)
        height = self._upcast(self.height)
        return height[:, None] * torch.cos(0.37 * offsets.double()).to(height.dtype)  # float32 is too coarse for far angles


class OneForAll(Scheme):
    """No parameters; the same bias for all heads, expanded: the result of `at` has a stride of 0."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def at(self, offsets):
        return (1 / (1 + offsets.abs())).expand(self.heads, -1)


class OwnBand(Scheme):
    """Overrides `form` to return a band, as a scheme that is not Toeplitz does."""

    toeplitz = False

    def __init__(self, heads, extent):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(heads, extent))

    def form(self, num_queries, num_keys, query_start=None, *, text_start=None, device=None, dtype=None):
        table = self._upcast(self.table)
        rows = torch.arange(1, num_queries + 1, dtype=table.dtype)[:, None] / num_queries
        batch = 1 if text_start is None else text_start.shape[0]
        band = (table[:, None] * rows).to(dtype or torch.float32)
        return Band(band.expand(batch, -1, -1, -1))

    def dense(self, num_queries, num_keys, query_start=None, **settings):
        return self.form(num_queries, num_keys, query_start, **settings).dense(num_queries, num_keys, query_start)


def own(draw, geometry):
    heads = geometry.heads
    kind = draw.pick(["waves", "one", "rows"], [2, 1, 1 if geometry.text_start is not None or geometry.batch == 1 else 0])
    if kind == "one":
        scheme = OneForAll(heads)
        return _of_scheme(
            draw,
            scheme,
            geometry,
            lambda _, offsets: (1 / (1 + offsets.abs())).double().expand(heads, -1),
            "own: one for all",
        )
    if kind == "waves":
        reach = draw.pick([None, 0, 3, 40])

        def values_at(leaves, offsets):
            within = offsets if reach is None else offsets.clamp(-reach, reach)
            return leaves[0][:, None] * torch.cos(0.37 * within.double()).to(leaves[0].dtype)

        def dense(leaves):
            # cos in float32, of an angle as large as its offset
            size = lambda offsets: leaves[0].detach().abs()[:, None] * (1 + 0.37 * offsets.abs())  # noqa: E731
            return geometry.of_offset(lambda offsets: values_at(leaves, offsets)), geometry.of_offset(size)

        return _of_scheme(draw, Waves(heads, reach), geometry, None, f"own: waves reach={reach}", dense)
    extent = draw.pick([1, 6])

    def dense(leaves):
        rows = torch.arange(1.0, geometry.num_queries + 1, dtype=leaves[0].dtype)[:, None] / geometry.num_queries
        offsets = geometry.offsets
        inside = (offsets >= 0) & (offsets < extent)
        values = (leaves[0][:, None] * rows).gather(-1, offsets.where(inside, 0).expand(heads, -1, -1))
        return values.where(inside, 0.0)[None], None

    return _of_scheme(draw, OwnBand(heads, extent), geometry, None, f"own: rows {extent}", dense)


KINDS = {
    none_bias: 2,
    strip: 3,
    band: 3,
    warp: 3,
    factored: 3,
    potential: 2,
    sum_of_forms: 3,
    t5: 2,
    per_offset: 1,
    alibi: 2,
    kerple_log: 1,
    kerple_power: 1,
    sandwich: 0.5,
    tisa: 1,
    fire: 3,
    profile_mixture: 1,
    own: 1,
}


def bias(draw, geometry):
    return draw.pick(list(KINDS), list(KINDS.values()))(draw, geometry)

"""Random biases, each with its meaning written out once more: dense, of leaves in whatever precision they are given."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from falloff import SCHEMES, Band, Scheme, Strip, Warp

INF = float("inf")
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class Place:
    """Where a bias is asked for: the sizes of the call, its positions, and where the text of each row starts."""

    batch: int
    heads: int
    num_queries: int
    num_keys: int
    query_start: int
    text_start: torch.Tensor | None

    @property
    def offsets(self):
        """(N, M): query position less key position."""
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
    """What attention is given, the leaves that it is made of, and its meaning."""

    given: Callable
    """() -> the scheme, form or None: made anew for each call, since autograd may run through it."""
    leaves: list = field(default_factory=list)
    dense: Callable | None = None
    """Leaves -> the bias (1 or B, H, N, M), and how large the numbers are that it is summed of (None: as the bias is)."""
    bends: Callable | None = None
    """Leaves -> whether some argument lies so near a bend that rounding decides on which side, and with it the gradient."""
    part: Callable | None = None
    """Leaves -> a bias of which only a part of the gradient comes, where the parts may cancel: so large are their errors."""
    words: str = ""


def none_bias(draw, place):
    return Bias(lambda: None, words="none")


# Forms.


def strip(draw, place):
    length = draw.pick([1, 2, 3, 5, 17, 64, 130, 600], [2, 1, 2, 3, 3, 2, 1, 0.3])
    near = place.query_start + draw.integer(-place.num_keys - 3, place.num_queries + 3)
    start = draw.pick([0, -length // 2, near], [3, 1, 3])
    values = draw.normal(place.heads, length) * draw.pick([1, 0.01, 30], [5, 1, 1])
    if draw.chance(0.3):  # falling, as far as skipping
        values -= draw.pick([0.1, 1, 5]) * np.arange(length)
    if place.num_keys > 256 and draw.chance(0.5):  # a cliff about as high as what may be skipped
        length, start = 600, 0
        values = np.where(np.arange(length) < draw.integer(1, 40), 0.0, -draw.uniform(12, 30)) * np.ones((place.heads, 1))
    if draw.chance(0.06):  # a strip may hide keys too
        values[:, draw.integer(0, length) :] = -INF
    leaf = draw.leaf(values, draw.pick(FLOATS, [8, 1, 1, 1]))

    def dense(leaves, start=start):
        index = (place.offsets - start).clamp(0, length - 1)
        return leaves[0][:, index][None], None

    return Bias(lambda: Strip(leaf, start), [leaf], dense, words=f"Strip K={length} start={start}")


def band(draw, place):
    extent = draw.pick([1, 2, 3, 8, 20, 70, 300], [1, 1, 1, 2, 2, 1, 0.2])
    values = draw.normal(place.batch, place.heads, place.num_queries, extent) * draw.pick([1, 0.01, 20], [5, 1, 1])
    if draw.chance(0.03):
        values[..., draw.integer(0, extent) :] = -INF
    leaf = draw.leaf(values, draw.pick(FLOATS, [8, 1, 1, 1]))

    def dense(leaves):
        offsets = place.offsets
        inside = (offsets >= 0) & (offsets < extent)
        index = offsets.where(inside, 0).expand(place.batch, place.heads, -1, -1)
        return leaves[0].gather(-1, index).where(inside, 0.0), None

    return Bias(lambda: Band(leaf), [leaf], dense, words=f"Band E={extent}")


def warp(draw, place):
    """Numbers of few bits, so that products are exact and some fall upon a knot; or any, and then without steps."""
    length = draw.pick([1, 2, 5, 30, 100, 700], [1, 1, 2, 3, 3, 0.5])
    segments = draw.pick([1, 2, 3, 6, 33], [1, 2, 2, 2, 0.5])
    exact = draw.chance(0.6)
    if exact:
        g = np.cumsum(draw.integers(0, 3, length)) / 4
        a = draw.integers(0, 9, *draw.pick([(place.num_queries,), (place.batch, place.num_queries)])) / 8
        knots = np.sort(draw.integers(-2, 40, segments - 1) / 16)
        slope, intercept = (draw.integers(-8, 9, place.heads, segments) / 8 for _ in range(2))
    else:
        g = np.cumsum(draw.uniform(0, 1, length))
        a = draw.uniform(0.01, 1.5, *draw.pick([(place.num_queries,), (place.batch, place.num_queries)]))
        knots = np.sort(draw.uniform(-0.5, 1.5 * g[-1], segments - 1))
        slope = draw.normal(place.heads, segments)
        steps = (slope[:, :-1] - slope[:, 1:]) * knots  # continuous: lines meet in the knots
        intercept = draw.normal(place.heads, 1) + np.concatenate([0 * slope[:, :1], np.cumsum(steps, 1)], 1)
    if draw.chance(0.07):  # which the CPU's kernels refuse
        g = draw.permuted(g) if draw.chance(0.5) else g
        a = a * draw.pick([1, -1])
    dtype = torch.float32 if draw.chance(0.8) else torch.float64
    leaves = [draw.leaf(values, dtype) for values in (g, a, knots, slope, intercept)]

    def argument(leaves):
        x = leaves[0][place.offsets.abs().clamp(max=length - 1)] * leaves[1][..., None]
        return x if x.dim() == 3 else x[None]  # (1 or B, N, M)

    def dense(leaves):
        x = argument(leaves)
        segment = (x[..., None] > leaves[2]).sum(-1)
        slope, intercept = (leaf[:, segment].movedim(0, 1) for leaf in leaves[3:])
        line = slope * x[:, None]
        return line + intercept, line.detach().abs() + intercept.detach().abs()

    def bends(leaves):
        x, knots = argument(leaves)[..., None], leaves[2]
        apart = (x - knots).abs()
        return bool(((apart < 1e-5 * (x.abs() + knots.abs())) & (apart > 0)).any())

    return Bias(
        lambda: Warp(*leaves),
        leaves,
        dense,
        bends,
        words=f"Warp K={length} S={segments} {'exact ' * exact}a{tuple(a.shape)}",
    )


# Schemes: leaves are the parameters, in the order of parameters().


def _of_scheme(draw, scheme, place, values_at, words, dense=None, bends=None, part=None):
    """`values_at(leaves, offsets)` -> (H, L), for a scheme of the offset alone."""
    if draw.wide == torch.float64:
        scheme.double()
    elif draw.chance(0.1):
        scheme.bfloat16()
    if dense is None:

        def dense(leaves):
            return place.of_offset(lambda offsets: values_at(leaves, offsets)), None

    return Bias(lambda: scheme, list(scheme.parameters()), dense, bends, part, words)


def _shaken(draw, scheme, size=0.3):
    with torch.no_grad():
        for parameter in scheme.parameters():
            parameter.add_(size * torch.from_numpy(draw.normal(*parameter.shape)).to(parameter.dtype))
    return scheme


def _t5_bucket(n, buckets, most, bidirectional):
    shift = 0
    if bidirectional:
        buckets //= 2
        shift, n = (buckets if n < 0 else 0), abs(n)
    n, e = max(n, 0), buckets // 2
    if n < e:
        return shift + n
    far = e + math.floor(math.log(n / e) / math.log(most / e) * (buckets - e) + 1e-12)
    return shift + min(buckets - 1, far)


def t5(draw, place):
    both = draw.chance(0.4)
    buckets = draw.pick([4, 6, 8, 32]) if both else draw.pick([2, 3, 4, 5, 8, 32])
    one_way = buckets // 2 if both else buckets
    most = one_way // 2 + draw.pick([1, 2, 5, 20, 100])
    scheme = SCHEMES["t5"](place.heads, buckets, most, bidirectional=both, std=draw.pick([0.02, 1.0]))

    def values_at(leaves, offsets):
        return leaves[0][[_t5_bucket(n, buckets, most, both) for n in offsets.tolist()]].T

    return _of_scheme(draw, scheme, place, values_at, f"t5 {buckets}/{most}{' bidirectional' * both}")


def per_offset(draw, place):
    both, most = draw.chance(0.4), draw.pick([1, 2, 7, 50])
    scheme = SCHEMES["per-offset"](place.heads, most, bidirectional=both, std=1.0)

    def values_at(leaves, offsets):
        return leaves[0][offsets.clamp(-most, most) + most if both else offsets.clamp(0, most)].T

    return _of_scheme(draw, scheme, place, values_at, f"per-offset {most}{' bidirectional' * both}")


def _alibi_slopes(heads):
    if math.log2(heads).is_integer():
        return [2 ** (-8 * h / heads) for h in range(1, heads + 1)]
    closest = 2 ** math.floor(math.log2(heads))
    return _alibi_slopes(closest) + _alibi_slopes(2 * closest)[0::2][: heads - closest]


def alibi(draw, place):
    learned = draw.chance(0.4)
    scheme = SCHEMES["alibi"](place.heads, learned)
    fixed = torch.tensor(_alibi_slopes(place.heads), dtype=torch.float64)

    def values_at(leaves, offsets):
        slopes = leaves[0].exp() if learned else fixed
        return -slopes[:, None] * offsets.abs()

    return _of_scheme(draw, _shaken(draw, scheme), place, values_at, f"alibi{' learned' * learned}")


def _clamped(parameter, most=None):
    """Within its range, and the gradient as if it were not clamped: published code clamps what is stored."""
    parameter = parameter.flatten(1)
    return parameter + (parameter.clamp(0.01, most) - parameter).detach()


def kerple_log(draw, place):
    scheme = _shaken(draw, SCHEMES["kerple-log"](place.heads))

    def values_at(leaves, offsets):  # bias_p, bias_a
        return -_clamped(leaves[0]) * torch.log(1 + _clamped(leaves[1]) * offsets.abs())

    return _of_scheme(draw, scheme, place, values_at, "kerple-log")


def kerple_power(draw, place):
    scheme = _shaken(draw, SCHEMES["kerple-power"](place.heads))

    def values_at(leaves, offsets):
        power = _clamped(leaves[0], 2.0)
        return -_clamped(leaves[1]) * offsets.abs().to(power.dtype) ** power

    return _of_scheme(draw, scheme, place, values_at, "kerple-power")


def sandwich(draw, place):
    dim, first = draw.pick([2, 8, 128]), draw.pick([1, 0])
    scheme = SCHEMES["sandwich"](place.heads, dim, first=first)

    def values_at(offsets, sizes=False):  # as an angle is rounded, so is its cosine
        k = torch.arange(first, first + dim // 2, dtype=torch.float64)
        angles = offsets.double()[:, None] / 10000 ** (2 * k / dim)
        parts = angles.abs() + 2 if sizes else angles.cos() - 1
        return torch.stack([parts.sum(-1) / (8 * h / place.heads) for h in range(1, place.heads + 1)])

    def dense(leaves):
        return place.of_offset(values_at), place.of_offset(lambda n: values_at(n, sizes=True))

    return _of_scheme(draw, scheme, place, None, f"sandwich {dim} first={first}", dense)


def tisa(draw, place):
    kernels = draw.pick([1, 5])
    scheme = _shaken(draw, SCHEMES["tisa"](place.heads, kernels))
    names = [name for name, _ in scheme.named_parameters()]

    def values_at(leaves, offsets):
        c, a, b = (leaves[names.index(f"kernel_{name}")] for name in ("offsets", "amplitudes", "sharpness"))
        apart = offsets[None, None, :] - c[..., None]
        return (a[..., None] * torch.exp(-b.abs()[..., None] * apart**2)).sum(0)

    return _of_scheme(draw, scheme, place, values_at, f"tisa {kernels}")


def fire(draw, place):
    width = draw.pick([1, 2, 5, 32], [1, 2, 3, 0.5])
    init_L = draw.pick([1.0, 4.5, 16.0, 2000.0])
    scheme = _shaken(draw, SCHEMES["fire"](place.heads, width, draw.pick([0.1, 1.0]), init_L), 0.05)
    if draw.chance(0.1):  # all knots at 0, which every row meets
        torch.nn.init.zeros_(scheme.mlp[0].bias)
    if draw.chance(0.1):
        with torch.no_grad():
            scheme.mlp[0].weight[0] = 0.0
    names = [name for name, _ in scheme.named_parameters()]

    def network(leaves):
        w1, b1, w2, b2 = (leaves[names.index(f"mlp.{name}")] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        return w1.flatten(), b1, w2, b2

    def before_relu(leaves, part=False):
        c, multiplier = (leaves[names.index(name)].reshape(()) for name in ("c", "L_multiplier"))
        psi = lambda x: torch.log((c * x).abs() + 1)  # noqa: E731
        row = torch.arange(place.num_queries) + place.query_start
        row = row[None] if place.text_start is None else row - place.text_start
        normaliser = psi(torch.maximum(row.to(c.dtype), (multiplier * scheme.init_L.item()).abs())) + 1e-6
        x = psi(place.offsets.abs()) / (normaliser.detach() if part else normaliser)[..., None]
        w1, b1, *_ = network(leaves)
        return x[..., None] * w1, b1

    def dense(leaves, part=False):
        product, b1 = before_relu(leaves, part)
        _, _, w2, b2 = network(leaves)
        bias = torch.relu(product + b1) @ w2.T + b2
        size = (product.detach().abs() + b1.detach().abs()) @ w2.detach().abs().T + b2.detach().abs()
        return bias.movedim(-1, 1), size.movedim(-1, 1)

    def bends(leaves):
        product, b1 = before_relu(leaves)
        sums = (product + b1).abs()
        return bool(((sums < 4e-6 * (product.abs() + b1.abs())) & (sums > 0)).any())

    def part(leaves):  # c moves distances and their normaliser alike
        return dense(leaves, part=True)[0]

    return _of_scheme(draw, scheme, place, None, f"fire width={width} L={init_L}", dense, bends, part)


def profile_mixture(draw, place):
    rank, extent = draw.pick([1, 3]), draw.pick([1, 4, 30])
    mixture = SCHEMES["profile-mixture"](place.heads, rank, extent).to(draw.wide)
    with torch.no_grad():
        mixture.profiles.copy_(torch.from_numpy(draw.normal(rank, extent)))
    state = draw.leaf(draw.normal(place.batch, place.heads, place.num_queries, rank), draw.wide)

    def dense(leaves):
        state, profiles = leaves
        values = state @ profiles
        offsets = place.offsets
        inside = (offsets >= 0) & (offsets < extent)
        index = offsets.where(inside, 0).expand(*values.shape[:3], place.num_keys)
        size = state.detach().abs() @ profiles.detach().abs()
        return values.gather(-1, index).where(inside, 0.0), size.gather(-1, index).where(inside, 0.0)

    return Bias(lambda: mixture(state), [state, mixture.profiles], dense, words=f"profile-mixture {rank}x{extent}")


# Schemes of a user's own.


class Waves(Scheme):
    """Defines `at` alone, and may say how far it reaches."""

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
    """No parameters, one value for all heads: expanded, so that its strip has a stride of 0."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def at(self, offsets):
        return (1 / (1 + offsets.abs())).expand(self.heads, -1)


class RowsOwn(Scheme):
    """Hands over a band of its own making, as a scheme that is not Toeplitz may."""

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


def own(draw, place):
    heads = place.heads
    kind = draw.pick(["waves", "one", "rows"], [2, 1, 1 if place.text_start is not None or place.batch == 1 else 0])
    if kind == "one":
        scheme = OneForAll(heads)
        return _of_scheme(
            draw, scheme, place, lambda _, offsets: (1 / (1 + offsets.abs())).double().expand(heads, -1), "own: one for all"
        )
    if kind == "waves":
        reach = draw.pick([None, 0, 3, 40])

        def values_at(leaves, offsets):
            within = offsets if reach is None else offsets.clamp(-reach, reach)
            return leaves[0][:, None] * torch.cos(0.37 * within.double()).to(leaves[0].dtype)

        def dense(leaves):
            # cos in float32, of an angle as large as its offset
            size = lambda offsets: leaves[0].detach().abs()[:, None] * (1 + 0.37 * offsets.abs())  # noqa: E731
            return place.of_offset(lambda offsets: values_at(leaves, offsets)), place.of_offset(size)

        return _of_scheme(draw, Waves(heads, reach), place, None, f"own: waves reach={reach}", dense)
    extent = draw.pick([1, 6])

    def dense(leaves):
        rows = torch.arange(1.0, place.num_queries + 1, dtype=leaves[0].dtype)[:, None] / place.num_queries
        offsets = place.offsets
        inside = (offsets >= 0) & (offsets < extent)
        values = (leaves[0][:, None] * rows).gather(-1, offsets.where(inside, 0).expand(heads, -1, -1))
        return values.where(inside, 0.0)[None], None

    return _of_scheme(draw, RowsOwn(heads, extent), place, None, f"own: rows {extent}", dense)


KINDS = {
    none_bias: 2,
    strip: 3,
    band: 3,
    warp: 3,
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


def bias(draw, place):
    return draw.pick(list(KINDS), list(KINDS.values()))(draw, place)

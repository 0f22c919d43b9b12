"""Device code: the bias of a tile of scores, in units of log 2, for each form.

A tile of a strip is a strided view: with the strip in order of falling offset, row i and key j meet at origin - i + j. A
tile of a band is one too, with row stride E - 1. Nothing is looked up in a bucket table, and no (N, M) tensor exists.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.tile import LOG2E

PAD = tl.constexpr(256)  # more than the offsets that a tile spans, less one
SPARE = tl.constexpr(8)  # entries behind a table of such, which are read and not used
BLOCK = tl.constexpr(64)  # offsets, or rows, whose least and largest g, or a, are known


@triton.jit
def load_cached(pointers, s):
    """Load values of 32 or 16 bits that lie in the L1 cache, each into the register where it is needed.

    On NVIDIA by its own instruction: a load that Triton knows of is either copied into shared memory ahead of time, one
    value at a time, or laid out anew through shared memory. By this one a tile of a strip is one address in a register and
    a constant for each entry, and entries of one offset that a thread holds share a load.
    """
    if not s.NVIDIA:
        return tl.load(pointers)
    else:
        address = pointers.to(tl.int64, bitcast=True)
        if pointers.dtype.element_ty == tl.float32:
            return tl.inline_asm_elementwise("ld.global.nc.f32 $0, [$1];", "=f,l", [address], tl.float32, True, 1)
        else:
            half = tl.inline_asm_elementwise("ld.global.nc.b16 $0, [$1];", "=h,l", [address], tl.int16, True, 1)
            return half.to(pointers.dtype.element_ty, bitcast=True)


@triton.jit
def add_bias(scores, p, place, t, s, EDGE: tl.constexpr):
    """The scores of a tile with their bias. Only at an EDGE may a strip have ended."""
    if s.FORM == "strip":
        return scores + strip_tile(p, place, t, s, EDGE)
    elif s.FORM == "band":
        pointers, inside = band_pointers(p.form.bias, place, t)
        value = load_cached(pointers, s).to(tl.float32)
        return scores + tl.where(inside, value * LOG2E, 0.0)
    elif s.FORM == "warp":
        g, a = warp_factors(p, place, t, s)
        low, high = segments_of(p, place, t, s)
        x = g * a
        slope, intercept = warp_line(p, t.h, low, s)
        total = scores + (x * (slope * LOG2E) + intercept * LOG2E)
        if low < high:  # few tiles
            for segment in range(low + 1, high + 1):
                slope, intercept = warp_line(p, t.h, segment, s)
                line = x * (slope * LOG2E) + intercept * LOG2E
                total = tl.where(x > load_cached(p.form.knots + segment - 1, s), scores + line, total)
        return total
    else:
        return scores


@triton.jit
def strip_tile(p, place, t, s, EDGE: tl.constexpr):
    """The bias of a tile of a strip."""
    row = place.extent + 2 * PAD
    index = place.extent - 1 + PAD - place.shift - t.first_row + t.first_key + (t.c - t.r)
    if EDGE:
        index = tl.minimum(tl.maximum(index, 0), row - 1)
    return load_cached(p.form.bias + tl.cast(t.h, tl.int64) * row + index, s)


@triton.jit
def band_pointers(values, place, t):
    """Where a band's values of a tile lie, and which of them are within its extent: the rest point to some value."""
    offset = place.shift + t.first_row - t.first_key + (t.r - t.c)
    inside = (t.first_row + t.r < place.N) & (t.first_key + t.c < place.M) & (offset >= 0) & (offset < place.extent)
    row = (tl.cast(t.b, tl.int64) * place.H + t.h) * place.N + t.first_row
    return values + row * place.extent + tl.where(inside, t.r * place.extent + offset, 0), inside


@triton.jit
def warp_factors(p, place, t, s):
    """g at the offsets of a tile, and a of its rows (0 beyond the last)."""
    g = load_cached(p.form.g + (PAD + place.N - 1 - t.first_row + t.first_key + (t.c - t.r)), s)
    i = t.first_row + t.r
    return g, tl.load(p.form.a + tl.cast(t.b, tl.int64) * p.form.a_batch + i, mask=i < place.N, other=0.0)


@triton.jit
def warp_line(p, h, segment, s):
    """Slope and intercept of one segment."""
    at = h * p.form.segments + segment
    return load_cached(p.form.slope + at, s), load_cached(p.form.intercept + at, s)


@triton.jit
def within(ds, x, p, segment, s):
    """The score gradients of a tile where x lies in a segment, else 0. What is not a number stays in all."""
    left = tl.where(segment > 0, load_cached(p.form.knots + tl.maximum(segment - 1, 0), s), float("-inf"))
    right = load_cached(p.form.knots + segment, s)  # behind the last knot stands +inf
    return tl.where((x <= left) | (x > right), 0.0, ds)


@triton.jit
def range_of_a(p, place, b, first_row, ROWS: tl.constexpr, s):
    """The least and largest a of some rows; 0 and 0 for other forms."""
    if s.FORM == "warp":
        blocks = (place.N + BLOCK - 1) // BLOCK
        COUNT: tl.constexpr = (ROWS + BLOCK - 1) // BLOCK
        block = first_row // BLOCK + tl.arange(0, COUNT)
        at = tl.where(p.form.a_batch > 0, b, 0) * (blocks + SPARE) + block
        low = tl.where(block < blocks, load_cached(p.form.a_low + at, s), float("inf"))
        high = tl.where(block < blocks, load_cached(p.form.a_high + at, s), float("-inf"))
        return tl.min(low, 0), tl.max(high, 0)
    else:
        return 0.0, 0.0


@triton.jit
def segments_of(p, place, t, s):
    """The first and last segment that a tile may touch: most tiles lie in one.

    From the range of g over the tile's offsets and that of a over its rows, by the extremes of their products.
    """
    at = PAD + place.N - 1 - t.first_row + t.first_key
    block = (at - t.r.shape[0] * t.r.shape[1] + 1) // BLOCK + tl.arange(0, 8)
    inside = block <= (at + t.c.shape[0] * t.c.shape[1] - 1) // BLOCK
    g_low = tl.min(tl.where(inside, load_cached(p.form.g_low + block, s), float("inf")), 0)
    g_high = tl.max(tl.where(inside, load_cached(p.form.g_high + block, s), float("-inf")), 0)
    a_low = t.a_low
    a_high = t.a_high
    least = tl.minimum(tl.minimum(g_low * a_low, g_low * a_high), tl.minimum(g_high * a_low, g_high * a_high))
    most = tl.maximum(tl.maximum(g_low * a_low, g_low * a_high), tl.maximum(g_high * a_low, g_high * a_high))
    k = tl.arange(0, s.KNOTS)
    exists = k < p.form.segments - 1
    knots = load_cached(p.form.knots + k, s)
    # What is not a number may lie anywhere.
    return tl.sum((knots < least).to(tl.int32), 0), tl.sum((exists & ~(knots >= most)).to(tl.int32), 0)


@triton.jit
def far_values(p, place, h, s):
    """The constant bias of the far past and of the far future."""
    if s.FORM == "strip":
        row = place.extent + 2 * PAD
        values = p.form.bias + tl.cast(h, tl.int64) * row
        return tl.load(values), tl.load(values + row - 1)
    else:
        return 0.0, 0.0


@triton.jit(do_not_specialize=["extent", "row"])
def pad_strip(values, strip, extent, row, COUNT: tl.constexpr):
    """A strip by falling offset, its ends continued by PAD values, in units of log 2."""
    x = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    h = tl.cast(tl.program_id(1), tl.int64)
    k = tl.minimum(tl.maximum(extent - 1 + PAD - x, 0), extent - 1)
    value = tl.load(values + h * extent + k).to(tl.float32)
    tl.store(strip + h * row + x, value * LOG2E, mask=x < row)


@triton.jit(do_not_specialize=["size", "extent", "highest"])
def spread_g(g, table, size, extent, highest, COUNT: tl.constexpr):
    """A warp's g by falling offset, from PAD above the highest offset of a call on."""
    x = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    distance = tl.abs(highest + PAD - x)
    tl.store(table + x, tl.load(g + tl.minimum(distance, extent - 1)), mask=x < size)


@triton.jit(do_not_specialize=["length", "blocks"])
def block_ranges(values, low, high, length, blocks):
    """The least and largest of each BLOCK values of each row of a tensor (rows, length), as (rows, blocks + SPARE)."""
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    x = block * BLOCK + tl.arange(0, BLOCK)
    value = values + tl.cast(row, tl.int64) * length + x
    at = row * (blocks + SPARE) + block
    tl.store(low + at, tl.min(tl.load(value, mask=x < length, other=float("inf")), 0))
    tl.store(high + at, tl.max(tl.load(value, mask=x < length, other=float("-inf")), 0))

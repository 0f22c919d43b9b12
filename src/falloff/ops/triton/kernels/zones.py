"""Device code: how a program cuts the tiles it visits into zones, each with a loop of its own.

Along a row of tiles the bias is constant in the far past, varies in the middle and is constant in the far future; and only
tiles at the edges of what is visible need a mask. So a program runs up to five loops in a row:

    edge | far | middle | far | edge

A far tile adds one number to its scores. A middle that is short (the reach of a T5 bias, say) checks masks as an edge does
and swallows the edges beside it, since each loop must fill its pipeline anew. Whether a zone exists at all is known when the
kernel is compiled.
"""

import triton
import triton.language as tl


@triton.jit
def up(x, STEP: tl.constexpr):
    """The next multiple of STEP, for x of any sign."""
    return down(x + STEP - 1, STEP)


@triton.jit
def down(x, STEP: tl.constexpr):
    """The last multiple of STEP that is at most x, for x >= 0; 0 for less."""
    return tl.maximum(x, 0) // STEP * STEP


@triton.jit
def clamp(x, low, high):
    """x, moved into low .. high."""
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def cut(
    begin,
    end,
    clear_begin,
    clear_end,
    far_end,
    far_begin,
    STEP: tl.constexpr,
    BEFORE: tl.constexpr,
    MIDDLE: tl.constexpr,
    AFTER: tl.constexpr,
):
    """The six borders of the zones of begin .. end: start, far, middle, far, edge, end.

    Between clear_begin and clear_end nothing is hidden. Up to `far_end` and from `far_begin` on the bias is constant, where
    there is a far zone BEFORE and AFTER the MIDDLE, which is "near" (no mask needed), "edge" or "none".
    """
    start = down(begin, STEP)
    end = tl.maximum(end, start)
    clear = tl.minimum(tl.maximum(up(clear_begin, STEP), start), end)
    edge = clamp(down(clear_end, STEP), clear, end)
    if MIDDLE == "none":
        middle = edge if BEFORE else clear
        return start, clear, middle, middle, edge, end
    else:
        middle = clear
        after = edge
        if BEFORE:
            middle = clamp(down(far_end, STEP), clear, edge)
        if AFTER:
            after = clamp(up(far_begin, STEP), middle, edge)
        # The middle takes over an edge beside it.
        if MIDDLE == "edge" and not BEFORE:
            clear = start
            middle = start
        if MIDDLE == "edge" and not AFTER:
            edge = end
            after = end
        return start, clear, middle, after, edge, end


@triton.jit
def key_zones(place, first_row, begin, end, ROWS: tl.constexpr, KEYS: tl.constexpr, s):
    """Zones of the keys that a block of rows visits, of those within begin .. end."""
    last_row = tl.minimum(first_row + ROWS, place.N) - 1
    clear_begin = 0
    clear_end = place.M
    if s.CAUSAL:
        end = tl.minimum(end, last_row + place.last + 1)
        clear_end = tl.minimum(clear_end, first_row + place.last + 1)
    if s.WINDOW:
        begin = tl.maximum(begin, first_row + place.first)
        clear_begin = last_row + place.first
    far_end, far_begin = middle_keys(place, first_row, ROWS, s)
    return cut(begin, end, clear_begin, clear_end, far_end, far_begin, KEYS, s.PAST, s.MIDDLE, s.FUTURE)


@triton.jit
def row_zones(place, first_key, begin, end, ROWS: tl.constexpr, KEYS: tl.constexpr, s):
    """Zones of the rows that visit a block of keys, of those within begin .. end."""
    clear_begin = 0
    clear_end = place.N
    if s.CAUSAL:
        begin = tl.maximum(begin, first_key - place.last)
        clear_begin = first_key + KEYS - 1 - place.last
    if s.WINDOW:
        end = tl.minimum(end, first_key + KEYS - place.first)
        clear_end = tl.minimum(clear_end, first_key - place.first + 1)
    far_end, far_begin = middle_rows(place, first_key, KEYS, s)
    return cut(begin, end, clear_begin, clear_end, far_end, far_begin, ROWS, s.FUTURE, s.MIDDLE, s.PAST)


@triton.jit
def varying(place, s):
    """Shift and extent by which the bias varies at offsets 0 <= shift + i - j < extent and is constant on either side."""
    if s.FORM == "strip":
        return place.shift - 1, tl.maximum(place.extent - 2, 0)
    else:
        return place.shift, place.extent


@triton.jit
def middle_keys(place, first_row, ROWS: tl.constexpr, s):
    """Keys from the first to behind the last at which the bias of some row of a block varies."""
    shift, extent = varying(place, s)
    return first_row + shift - extent + 1, first_row + ROWS + shift


@triton.jit
def middle_rows(place, first_key, KEYS: tl.constexpr, s):
    """Rows from the first to behind the last at which the bias of some key of a block varies."""
    shift, extent = varying(place, s)
    return first_key - shift, first_key + KEYS - 1 + extent - shift

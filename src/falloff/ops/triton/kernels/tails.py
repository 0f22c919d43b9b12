"""The bounds that skipping needs (see `skip`), in one launch: running sums along a strip, running maxima along norms."""

import triton
import triton.language as tl

TAIL_BLOCK = tl.constexpr(1024)
NORM_BLOCK = tl.constexpr(64)
LOST = tl.constexpr(2.0**-1000)  # more than a block of exponentials loses to underflow in float64


@triton.jit
def write_tail(values, stride, tail, extent, seqlen_k, PAST: tl.constexpr):
    """tail (K,): at each offset, an upper bound on the log-sum-exp of the biases of all keys there and further away.

    Away: towards the past (PAST) or the future. At most seqlen_k keys lie beyond an end of the strip.

    Sums are float64: in float32, adding the logarithm of a count to a large bias would be lost in rounding. 1e-3 covers the
    rounding of the sums, and 2^-22 of the bound that of its conversion to float32. What is far below the largest bias of its
    block underflows: LOST stands for it. The bound is -inf only if all biases are, and NaN after a NaN.
    """
    largest = tl.full((1,), float("-inf"), tl.float64)
    total = tl.zeros((1,), tl.float64)  # the sum so far is total * exp(largest)
    count = tl.cast(seqlen_k, tl.float64)
    for start in range(0, extent, TAIL_BLOCK):
        x = start + tl.arange(0, TAIL_BLOCK)  # (TAIL_BLOCK,): from the farthest offset to the nearest
        k = extent - 1 - x if PAST else x
        value = tl.load(values + tl.cast(k, tl.int64) * stride, mask=x < extent, other=float("-inf"))
        value = value.to(tl.float32).to(tl.float64)
        top = tl.maximum(largest, tl.max(value, 0))  # (1,)
        base = tl.where(top == float("-inf"), 0.0, top)
        total *= tl.exp(largest - base)
        weight = tl.where(x == 0, count + 1, 1.0)  # the first stands for all keys beyond it, too
        sums = tl.cumsum(tl.exp(value - base) * weight, 0)  # (TAIL_BLOCK,)
        bound = base + tl.log(total + sums + LOST) + 1e-3
        bound += tl.abs(bound) * 2.0**-22 + 2.0**-100
        bound = tl.where((top == float("-inf")) & (total + sums == 0.0), top, bound)
        tl.store(tail + k, bound.to(tl.float32), mask=x < extent)
        total += tl.sum(tl.where(x == start + TAIL_BLOCK - 1, sums, 0.0), 0)
        largest = top


@triton.jit
def write_running_max(norms, maxima, blocks, UP_TO: tl.constexpr):
    """maxima (blocks,): the largest of `norms` up to each block (UP_TO), or from it on."""
    place = tl.arange(0, NORM_BLOCK)  # (NORM_BLOCK,)
    before = place[:, None] <= place[None, :]  # (NORM_BLOCK, NORM_BLOCK)
    largest = tl.zeros((1,), tl.float32)
    for start in range(0, blocks, NORM_BLOCK):
        at = start + place if UP_TO else blocks - 1 - start - place  # (NORM_BLOCK,)
        norm = tl.load(norms + at, mask=start + place < blocks, other=0.0)
        running = tl.maximum(largest, tl.max(tl.where(before, norm[:, None], 0.0), 0))  # (NORM_BLOCK,)
        tl.store(maxima + at, running, mask=start + place < blocks)
        largest = tl.maximum(largest, tl.max(norm, 0))


@triton.jit(do_not_specialize=["stride_h", "stride_k", "extent", "seqlen_k", "heads", "blocks"])
def bounds_kernel(
    values,
    stride_h,
    stride_k,
    norms,
    past_tail,
    future_tail,
    norms_up_to,
    norms_from,
    extent,
    seqlen_k,
    heads,
    blocks,
):
    """Programs for past_tail (H, K), future_tail (H, K), then for norms_up_to and norms_from (B, G, blocks).

    values (H, K): a strip by rising offset. norms (B, G, blocks).
    """
    program = tl.program_id(0)
    if program < 2 * heads:
        h = tl.cast(program // 2, tl.int64)
        if program % 2 == 0:
            write_tail(values + h * stride_h, stride_k, past_tail + h * extent, extent, seqlen_k, True)
        else:
            write_tail(values + h * stride_h, stride_k, future_tail + h * extent, extent, seqlen_k, False)
    else:
        row = tl.cast((program - 2 * heads) // 2, tl.int64) * blocks
        if program % 2 == 0:
            write_running_max(norms + row, norms_up_to + row, blocks, True)
        else:
            write_running_max(norms + row, norms_from + row, blocks, False)

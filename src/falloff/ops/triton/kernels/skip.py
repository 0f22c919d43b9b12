"""Certified skipping: keys that provably do not matter to a block of query rows are found before the kernels visit them.

The skipped keys of a row hold less than 2^-24 of its softmax mass: less than 2^-25 at either end. A score is at most
|q| |k| softmax_scale + bias. So all keys before a given key together hold less than 2^-25 if

    log-sum-exp of their biases + |q| softmax_scale max |k| < lower bound of the row's log-sum-exp - log(2^25).

In the backward, the lower bound is the log-sum-exp itself. In the forward, it is the row's score with the key at its own
position. A norm is +inf if a number in its block is not finite, and comparisons with NaN are false: such keys are never
skipped.

Why this holds in float arithmetic:
- The comparison: rounding never turns x >= y into fl(x) < fl(y).
- The product: the relative rounding error of norms, of the product and of sums over D <= 256 is below 1e-4.
- Underflow, and hardware that flushes denormals: each square or product loses less than 2^-125, a sum of 256 of them less
  than 1e-4 TINY. TINY is added to each squared norm, so no norm is below 2^-50. This only makes bounds larger, so that fewer
  keys are skipped.
- |q| softmax_scale loses less than 2^-125 to underflow, which is below 2^-125 * 2^64 in a score.
- Overflow gives +inf or NaN, which skips nothing.

Keys of other documents are skipped too: a block of rows needs no key outside the first and last whose id lies between the
least and the greatest of the rows' ids. For packed texts, whose ids rise, that is their own documents.
"""

import triton
import triton.language as tl

from falloff.ops.triton.kernels.arguments import SKIP_BLOCK_M, SKIP_BLOCK_N
from falloff.ops.triton.kernels.memory import load_rows

TINY = tl.constexpr(2.0**-100)
MARGIN = tl.constexpr(17.4)  # e^-17.4 is below 2^-25
IDS_BLOCK = tl.constexpr(1024)


@triton.jit
def keys_of_rows(key_ranges, head, start_m, dims, BLOCK_M: tl.constexpr):
    """Half-open range of keys that a q tile may need. All keys, if key_ranges is None."""
    if key_ranges is None:
        return 0, dims.seqlen_k
    else:
        blocks = (dims.seqlen_q + SKIP_BLOCK_M - 1) // SKIP_BLOCK_M
        COUNT: tl.constexpr = (BLOCK_M + SKIP_BLOCK_M - 1) // SKIP_BLOCK_M
        block = start_m // SKIP_BLOCK_M + tl.arange(0, COUNT)  # (COUNT,)
        pair = key_ranges + (tl.cast(head, tl.int64) * blocks + block) * 2
        begin = tl.min(tl.load(pair, mask=block < blocks, other=dims.seqlen_k), 0)
        return begin, tl.max(tl.load(pair + 1, mask=block < blocks, other=0), 0)


@triton.jit
def rows_of_keys(key_ranges, head, start_n, DIAGONAL: tl.constexpr, dims, BLOCK_N: tl.constexpr, STEP: tl.constexpr):
    """Half-open range of query rows that may need the keys start_n .. start_n + BLOCK_N - 1. If key_ranges is None: all.

    With DIAGONAL = 1 (else 0), start_n is the first key of the tile at row 0, and the keys advance with the rows in steps of
    STEP: the rows of one entry of key_ranges may then be in the tiles of several steps.
    """
    if key_ranges is None:
        return 0, dims.seqlen_q
    else:
        blocks = (dims.seqlen_q + SKIP_BLOCK_M - 1) // SKIP_BLOCK_M
        MORE: tl.constexpr = max(SKIP_BLOCK_M.value - STEP, 0)
        begin = dims.seqlen_q
        end = 0
        for start in range(0, blocks, 128):
            block = start + tl.arange(0, 128)  # (128,)
            pair = key_ranges + (tl.cast(head, tl.int64) * blocks + block) * 2
            key = start_n + DIAGONAL * (block * SKIP_BLOCK_M // STEP * STEP)
            needs = (tl.load(pair, mask=block < blocks, other=dims.seqlen_k) < key + BLOCK_N + MORE * DIAGONAL) & (
                tl.load(pair + 1, mask=block < blocks, other=0) > key
            )
            begin = tl.minimum(begin, tl.min(tl.where(needs, block * SKIP_BLOCK_M, dims.seqlen_q), 0))
            end = tl.maximum(end, tl.max(tl.where(needs, (block + 1) * SKIP_BLOCK_M, 0), 0))
        return begin, tl.minimum(end, dims.seqlen_q)


@triton.jit(
    do_not_specialize=[
        "seqlen_q",
        "seqlen_k",
        "heads",
        "group_size",
        "query_start",
        "strip_start",
        "stride_h",
        "stride_k",
        "extent",
        "q_blocks",
        "k_blocks",
    ]
)
def key_ranges_kernel(
    inputs,
    lse,
    delta,
    strip,
    past_tail,
    future_tail,
    norms_up_to,
    norms_from,
    key_ranges,
    seqlen_q,
    seqlen_k,
    heads,
    group_size,
    query_start,
    strip_start,
    stride_h,
    stride_k,
    extent,
    q_blocks,
    k_blocks,
    cfg,
):
    """key_ranges (B, H, q_blocks, 2): the half-open range of keys that each SKIP_BLOCK_M query rows may need.

    strip (H, K). past_tail, future_tail (H, K): bounds on the log-sum-exp of the biases of all keys at an offset and further
    away in that direction. norms_up_to, norms_from (B, G, k_blocks): the largest norm up to a block, and from it on. lse,
    delta (B, H, N), or None in the forward.
    """
    head = tl.program_id(0) // q_blocks
    start_m = tl.program_id(0) % q_blocks * SKIP_BLOCK_M
    b = head // heads
    h = head % heads
    g = h // group_size
    i = start_m + tl.arange(0, SKIP_BLOCK_M)  # (SKIP_BLOCK_M,)
    offs_d = tl.arange(0, cfg.BLOCK_D)[None, :]  # (1, BLOCK_D)
    q = load_rows(inputs.q, b, h, start_m, seqlen_q, SKIP_BLOCK_M, cfg, True).to(tl.float32)  # (SKIP_BLOCK_M, BLOCK_D)
    q_norm = tl.sqrt(tl.sum(q * q, 1) + TINY) * inputs.softmax_scale  # (SKIP_BLOCK_M,)
    if lse is None:
        own = query_start + i  # (SKIP_BLOCK_M,): the key at the row's own position
        exists = (own >= 0) & (own < seqlen_k)
        if inputs.key_mask is not None:
            exists &= tl.load(inputs.key_mask + tl.cast(b, tl.int64) * seqlen_k + own, mask=exists, other=0) != 0
        keys = inputs.k.pointer + tl.cast(b, tl.int64) * inputs.k.stride_b + tl.cast(g, tl.int64) * inputs.k.stride_h
        pointers = keys + tl.cast(own, tl.int64)[:, None] * inputs.k.stride_m + offs_d
        k = tl.load(pointers, mask=exists[:, None] & (offs_d < cfg.D), other=0.0).to(tl.float32)  # (SKIP_BLOCK_M, BLOCK_D)
        nearest = tl.minimum(tl.maximum(-strip_start, 0), extent - 1)
        bias = tl.load(strip + tl.cast(h, tl.int64) * stride_h + tl.cast(nearest, tl.int64) * stride_k).to(tl.float32)
        rounding = 1e-4 * q_norm * tl.sqrt(tl.sum(k * k, 1) + TINY) + 1e-6 * tl.abs(bias)
        lower_bound = tl.where(exists, tl.sum(q * k, 1) * inputs.softmax_scale - rounding + bias, float("-inf"))
    else:
        rows = tl.cast(head, tl.int64) * seqlen_q + i  # (SKIP_BLOCK_M,)
        row_lse = tl.load(lse + rows, mask=i < seqlen_q, other=0.0)
        # A row that sees nothing needs no key; one whose gradient is not finite needs all that it sees.
        lower_bound = tl.where(row_lse == float("-inf"), float("inf"), row_lse)  # (SKIP_BLOCK_M,)
        gradient = tl.load(delta + rows, mask=i < seqlen_q, other=0.0)
        lower_bound = tl.where(gradient - gradient == 0.0, lower_bound, float("-inf"))
    finite = q_norm < float("inf")
    lower_bound = tl.where(finite & (lower_bound == lower_bound), lower_bound, float("-inf"))
    goal = tl.min(tl.where(i < seqlen_q, lower_bound, float("inf")), 0) - MARGIN
    most = tl.max(tl.where(finite, q_norm, 0.0), 0) * 1.0001  # norms are rounded

    norms = (tl.cast(b, tl.int64) * (heads // group_size) + g) * k_blocks
    tails = tl.cast(h, tl.int64) * extent
    # `certain` is true up to some block of keys and false beyond: bisection finds that block.
    begin = 0
    over = k_blocks
    while begin + 1 < over:
        middle = (begin + over) // 2
        nearest = query_start + start_m - (middle * SKIP_BLOCK_N - 1) - strip_start
        tail = tl.load(past_tail + tails + tl.minimum(tl.maximum(nearest, 0), extent - 1))
        certain = (nearest >= 0) & (tail + most * tl.load(norms_up_to + norms + middle - 1) < goal)
        begin = tl.where(certain, middle, begin)
        over = tl.where(certain, over, middle)
    end = k_blocks
    if not cfg.CAUSAL:
        under = 0
        while under + 1 < end:
            middle = (under + end) // 2
            nearest = query_start + tl.minimum(start_m + SKIP_BLOCK_M, seqlen_q) - 1 - middle * SKIP_BLOCK_N - strip_start
            tail = tl.load(future_tail + tails + tl.minimum(tl.maximum(nearest, 0), extent - 1))
            certain = (nearest < extent) & (tail + most * tl.load(norms_from + norms + middle) < goal)
            end = tl.where(certain, middle, end)
            under = tl.where(certain, under, middle)
    at = key_ranges + (tl.cast(head, tl.int64) * q_blocks + start_m // SKIP_BLOCK_M) * 2
    tl.store(at, begin * SKIP_BLOCK_N)
    tl.store(at + 1, tl.minimum(end * SKIP_BLOCK_N, seqlen_k))


@triton.jit(do_not_specialize=["seqlen", "heads", "q_blocks"])
def document_ranges_kernel(document_ids, key_ranges, seqlen, heads, q_blocks, NARROW: tl.constexpr):
    """Write key_ranges (B, H, q_blocks, 2) by document_ids (B, N), or NARROW what is there."""
    b = tl.cast(tl.program_id(0) // q_blocks, tl.int64)
    block = tl.program_id(0) % q_blocks
    ids = document_ids + b * seqlen
    i = block * SKIP_BLOCK_M + tl.arange(0, SKIP_BLOCK_M)  # (SKIP_BLOCK_M,)
    of_rows = tl.load(ids + tl.minimum(i, seqlen - 1))  # (SKIP_BLOCK_M,)
    least = tl.min(of_rows, 0)
    greatest = tl.max(of_rows, 0)
    begin = seqlen
    end = 0
    for start in range(0, seqlen, IDS_BLOCK):
        j = start + tl.arange(0, IDS_BLOCK)  # (IDS_BLOCK,)
        of_keys = tl.load(ids + tl.minimum(j, seqlen - 1))  # (IDS_BLOCK,)
        needed = (j < seqlen) & (of_keys >= least) & (of_keys <= greatest)
        begin = tl.minimum(begin, tl.min(tl.where(needed, j, seqlen), 0))
        end = tl.maximum(end, tl.max(tl.where(needed, j + 1, 0), 0))
    begin = begin // SKIP_BLOCK_N * SKIP_BLOCK_N
    end = tl.minimum((end + SKIP_BLOCK_N - 1) // SKIP_BLOCK_N * SKIP_BLOCK_N, seqlen)
    for h in range(heads):
        at = key_ranges + ((b * heads + h) * q_blocks + block) * 2
        if NARROW:
            tl.store(at, tl.maximum(begin, tl.load(at)))
            tl.store(at + 1, tl.minimum(end, tl.load(at + 1)))
        else:
            tl.store(at, begin)
            tl.store(at + 1, end)

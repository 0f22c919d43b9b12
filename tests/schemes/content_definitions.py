"""The definitions of schemes with content, from their papers, for one pair of positions at a time.

`bias(scheme, states, i, j)` is a (B, H) tensor in float64 for query position i and key position j, the query's row being r.
"""

import math

import torch


def shaw(scheme, states, i, j, r):
    """Shaw et al. 2018, equations 3 to 5: w_{-k} .. w_k, here in rows 0 .. 2k, of clip(j - i)."""
    row = min(max(j - i, -scheme.max_distance), scheme.future_distance) + scheme.max_distance
    return states["query"][:, :, r] @ scheme.distance_embedding.weight[row] / math.sqrt(scheme.head_dim)


def transformer_xl(scheme, states, i, j, r):
    """Dai et al. 2019, terms (b) and (d): (W_q E + v)^T W_kR R_{i-j}."""
    n, size = i - j, scheme.model_dim
    n = n if scheme.bidirectional else max(n, 0)
    angles = [n / 10000 ** (2 * k / size) for k in range(size // 2)]
    if scheme.interleaved:
        waves = [f(angle) for angle in angles for f in (math.sin, math.cos)]
    else:
        waves = [f(angle) for f in (math.sin, math.cos) for angle in angles]
    projected = (scheme.linear_pos.weight @ torch.tensor(waves, dtype=torch.float64)).view(scheme.num_heads, scheme.head_dim)
    return ((states["query"][:, :, r] + scheme.pos_bias_v) * projected).sum(-1) / math.sqrt(scheme.head_dim)


def disentangled(scheme, states, i, j, r):
    """He et al. 2021: Q_i^c . K^r_{delta(i, j)} + K_j^c . Q^r_{delta(j, i)}, with log buckets in the published code.

    The code looks up delta(j, i) with its sign turned, so that both terms have the same row.
    """
    n, buckets, most = i - j, scheme.position_buckets, scheme.max_relative_positions
    span = most
    if buckets > 0:
        span, middle = buckets, buckets // 2
        if abs(n) > middle:
            # In integers: the smallest whole k with (|n| / middle)^(middle - 1) <= ((most - 1) / middle)^k.
            k = 0
            while abs(n) ** (middle - 1) * middle**k > (most - 1) ** k * middle ** (middle - 1):
                k += 1
            n = int(math.copysign(middle + k, n))
    row = min(max(n + span, 0), 2 * span - 1)
    embedding = scheme.rel_embeddings.weight[row]
    total = 0
    for term, tokens, place, name in (("c2p", "query", r, "pos_key_proj"), ("p2c", "key", j, "pos_query_proj")):
        if term in scheme.pos_att_type:
            projected = getattr(scheme, name)(embedding).view(scheme.num_heads, scheme.head_dim)
            total = total + (states[tokens][:, :, place] * projected).sum(-1)
    return total / math.sqrt(scheme.head_dim * (1 + len(scheme.pos_att_type.split("|"))))


def gated_t5(scheme, states, i, j, r):
    """Chen et al. 2022: d + g_update * d + (1 - g_update) * s * g_reset * d, d of T5. The code has 1 - g_update."""
    hidden = states["hidden"][:, r].view(-1, scheme.num_heads, scheme.head_dim)
    eight = scheme.gru_rel_pos_linear(hidden)
    update, reset = 1 - eight[..., :4].sum(-1).sigmoid(), eight[..., 4:].sum(-1).sigmoid()
    half, distance = scheme.num_buckets // 2, abs(i - j)
    exact = half // 2
    bucket = distance
    if distance >= exact:
        share = math.log(distance / exact) / math.log(scheme.max_distance / exact) * (half - exact)
        bucket = min(half - 1, exact + math.floor(share + 1e-12))
    plain = scheme.rel_attn_embed.weight[bucket + (half if j > i else 0)]
    return plain + update * plain + (1 - update) * scheme.gru_rel_pos_const.flatten() * reset * plain


def forgetting(scheme, states, i, j, r):
    """Lin et al. 2025: log of the product of the forget gates sigmoid(.) at j + 1 .. i."""
    return _between(states["gates"], i, j, lambda gate: torch.log(torch.sigmoid(gate)))


def cable(scheme, states, i, j, r):
    return _between(states["gates"], i, j, lambda gate: -torch.log(1 + torch.exp(gate)))


def _between(gates, i, j, step):
    if j > i:  # not used by a causal model: the running sums continue backwards
        return -_between(gates, j, i, step)
    return sum((step(gates[:, :, t]) for t in range(j + 1, i + 1)), 0 * gates[:, :, 0])


def dense(definition, scheme, states, num_queries, num_keys, query_start=None):
    start = num_keys - num_queries if query_start is None else query_start
    rows = [
        torch.stack([definition(scheme, states, start + r, j, r) for j in range(num_keys)], -1) for r in range(num_queries)
    ]
    return torch.stack(rows, -2)

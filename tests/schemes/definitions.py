"""The published definitions a second time, for one pair of positions at a time, sharing no code with falloff.

`bias(scheme, i, j)` is a list of H scalars (float64 tensors that carry gradients) for query position i and key position j.
"""

import math

import torch


def t5(scheme, i, j):
    n, buckets, shift = i - j, scheme.num_buckets, 0
    if scheme.bidirectional:
        buckets //= 2
        shift = buckets if n < 0 else 0
        n = abs(n)
    n = max(n, 0)
    exact = buckets // 2
    if n < exact:
        bucket = n
    else:
        # 1e-12 allows for the rounding of logarithms; test_facts.py checks the boundaries in integers.
        share = math.log(n / exact) / math.log(scheme.max_distance / exact) * (buckets - exact)
        bucket = min(buckets - 1, exact + math.floor(share + 1e-12))
    return list(scheme.weight[shift + bucket])


def per_offset(scheme, i, j):
    n, most = i - j, scheme.max_distance
    if scheme.bidirectional:
        return list(scheme.weight[most + min(max(n, -most), most)])
    return list(scheme.weight[min(max(n, 0), most)])


def alibi(scheme, i, j):
    def slopes(count):
        if math.log2(count).is_integer():
            return [2 ** (-8 * h / count) for h in range(1, count + 1)]
        closest = 2 ** math.floor(math.log2(count))
        return slopes(closest) + slopes(2 * closest)[0::2][: count - closest]

    values = scheme.log_slopes.exp() if scheme.learned else torch.tensor(slopes(scheme.num_heads), dtype=torch.float64)
    return [-slope * abs(i - j) for slope in values]


def kerple_log(scheme, i, j):
    return [
        -p * torch.log(1 + a * abs(i - j)) for p, a in zip(scheme.bias_p.flatten(), scheme.bias_a.flatten(), strict=True)
    ]


def kerple_power(scheme, i, j):
    n = torch.tensor(float(abs(i - j)), dtype=torch.float64)
    return [-a * n**p for p, a in zip(scheme.bias_p.flatten(), scheme.bias_a.flatten(), strict=True)]


def sandwich(scheme, i, j):
    def embedding(position):
        angles = [position / 10000 ** (2 * k / scheme.dim) for k in range(scheme.first, scheme.first + scheme.dim // 2)]
        return torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)], dtype=torch.float64)

    product = embedding(i) @ embedding(j) - scheme.dim / 2
    return [product / (8 * h / scheme.num_heads) for h in range(1, scheme.num_heads + 1)]


def fire(scheme, i, j):
    def psi(x):
        return torch.log(torch.abs(scheme.c.squeeze() * x) + 1)

    threshold = torch.abs(scheme.L_multiplier * scheme.init_L).squeeze()
    x = psi(abs(i - j)) / (psi(torch.maximum(torch.tensor(float(i)), threshold)) + 1e-6)
    return list(scheme.mlp(x[None]))


def tisa(scheme, i, j):
    a, b, c = scheme.kernel_amplitudes, scheme.kernel_sharpness, scheme.kernel_offsets
    return list((a * torch.exp(-b.abs() * ((i - j) - c) ** 2)).sum(0))


def bam(scheme, i, j):
    biases = []
    for location, log_scale, log_shape in zip(scheme.location, scheme.log_scale, scheme.log_shape, strict=True):
        distance = torch.abs((i - j) - location)
        biases.append(-((distance / log_scale.exp()) ** log_shape.exp()))
    return biases


def dense(definition, scheme, num_queries, num_keys, query_start=None):
    start = num_keys - num_queries if query_start is None else query_start
    rows = [
        torch.stack([torch.stack(definition(scheme, start + r, j)) for j in range(num_keys)]) for r in range(num_queries)
    ]
    return torch.stack(rows).permute(2, 0, 1)

"""Inputs that are hard: for what skips keys that cannot matter, and for numbers that overflow or underflow."""

import torch

from falloff import Sandwich, Strip


def falling(heads, length, slope):
    """A strip that falls by `slope` for each offset, as steep as wanted."""
    return Strip(-slope * torch.arange(float(length)).repeat(heads, 1).requires_grad_())


ADVERSARIES = {
    "late maximum": lambda k, v: k[..., 3, :].mul_(60),  # a far key whose score beats any bias
    "late maximum in one head": lambda k, v: k[:, -1, 40, :].mul_(200),
    "large norms": lambda k, v: k.mul_(8),
    "tiny norms": lambda k, v: k.mul_(1e-30),
    "large far values": lambda k, v: v[..., :100, :].mul_(1e4),
    "denormals": lambda k, v: k.mul_(1e-40),
}

SHAPES = {
    "steep": lambda heads, keys: falling(heads, keys, 1.0),
    "gentle": lambda heads, keys: falling(heads, keys, 0.05),
    "rising again": lambda heads, keys: Strip(
        (torch.arange(float(keys)) - 450).abs().mul(0.4).repeat(heads, 1).requires_grad_()
    ),
    "both sides": lambda heads, keys: Strip(
        -(torch.arange(2.0 * keys) - keys).abs().repeat(heads, 1).requires_grad_(), -keys
    ),
    "sandwich": lambda heads, keys: Strip(Sandwich(heads).form(keys - 200, keys).values.mul(20).requires_grad_()),
    "t5 with a large far bucket": lambda heads, keys: Strip(
        torch.cat([torch.zeros(heads, 40), torch.full((heads, 1), 50.0)], 1)
    ),
    "cliff": lambda heads, keys: Strip(torch.cat([torch.zeros(heads, 300), torch.full((heads, 1), -200.0)], 1)),
}

FALLS = {
    "steep": lambda n: -n,
    "gentle": lambda n: -0.05 * n,
    "slow": lambda n: -0.02 * n,
    "rising again": lambda n: (n - 450).abs() * 0.4,
    "cliff": lambda n: torch.where(n < 300, 0.0, -18.0),
    "lower cliff": lambda n: torch.where(n < 300, 0.0, -25.0),
}

UNDERFLOWS = [(1e-23, 1.0), (1.0, 1e-23), (1e-17, 1e-17), (1e-30, 1e-5)]  # sizes of queries and keys

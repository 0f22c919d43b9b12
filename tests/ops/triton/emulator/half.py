"""bfloat16, float16 and TF32 from and to float32, rounded to nearest even."""

import numpy as np


def to_float(bits, kind):
    """float32 of the 16 bits of a "bf16" or "f16"."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


def from_float(values, kind):
    """The 16 bits, as uint16."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def low(pair):
    """The first number of two in 32 bits."""
    return (pair & np.uint32(0xFFFF)).astype(np.uint16)


def high(pair):
    return (pair >> np.uint32(16)).astype(np.uint16)


def pair(low, high):
    return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))


def truncated_tf32(values):
    """As a product reads float32: its first 10 bits of mantissa."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def flushed(values):
    """Subnormal numbers as 0."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)

"""Attention with a relative positional bias: every published scheme, one call, linear memory."""

from typing import TYPE_CHECKING

from falloff.forms import Band, Factored, Potential, Strip, Sum, Warp
from falloff.ops.api import attention
from falloff.schemes import (
    BAM,
    FIRE,
    SCHEMES,
    TISA,
    ALiBi,
    Cable,
    DisentangledBias,
    ForgettingBias,
    GatedT5Bias,
    KerpleLog,
    KerplePower,
    PerOffsetBias,
    ProfileMixture,
    Sandwich,
    Scheme,
    ShawBias,
    T5Bias,
    TransformerXLBias,
    alibi_slopes,
    t5_bucket,
)

__version__ = "0.1.0"

__all__ = [
    "BAM",
    "FIRE",
    "SCHEMES",
    "TISA",
    "ALiBi",
    "Band",
    "Cable",
    "DisentangledBias",
    "Factored",
    "ForgettingBias",
    "GatedT5Bias",
    "KerpleLog",
    "KerplePower",
    "PerOffsetBias",
    "Potential",
    "ProfileMixture",
    "Sandwich",
    "Scheme",
    "ShawBias",
    "Strip",
    "Sum",
    "T5Bias",
    "TransformerXLBias",
    "Warp",
    "alibi_slopes",
    "attention",
    "t5_bucket",
]

if not TYPE_CHECKING:  # a type checker knows the names above

    def __getattr__(name: str) -> type[Scheme]:
        """A scheme that has a file in `schemes/` is public without a line here."""
        for scheme in SCHEMES.values():
            if scheme.__name__ == name:
                return scheme
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

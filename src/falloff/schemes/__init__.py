"""The published schemes, one file each."""

from falloff.schemes.alibi import ALiBi, alibi_slopes
from falloff.schemes.base import Scheme
from falloff.schemes.fire import FIRE
from falloff.schemes.kerple import KerpleLog, KerplePower
from falloff.schemes.per_offset import PerOffsetBias
from falloff.schemes.profile_mixture import ProfileMixture
from falloff.schemes.sandwich import Sandwich
from falloff.schemes.t5 import T5Bias, t5_bucket
from falloff.schemes.tisa import TISA

SCHEMES: dict[str, type[Scheme]] = {
    scheme.name: scheme
    for scheme in (T5Bias, PerOffsetBias, ALiBi, KerpleLog, KerplePower, Sandwich, FIRE, TISA, ProfileMixture)
}
"""Every scheme by its name on the command line."""

__all__ = [
    "FIRE",
    "SCHEMES",
    "TISA",
    "ALiBi",
    "KerpleLog",
    "KerplePower",
    "PerOffsetBias",
    "ProfileMixture",
    "Sandwich",
    "Scheme",
    "T5Bias",
    "alibi_slopes",
    "t5_bucket",
]

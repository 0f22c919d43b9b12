"""The published schemes, one file each: a file in this folder is all that a new one needs here."""

import pkgutil
from importlib import import_module

from falloff.schemes.alibi import ALiBi, alibi_slopes
from falloff.schemes.bam import BAM
from falloff.schemes.base import Scheme
from falloff.schemes.cable import Cable
from falloff.schemes.cached import CachedScheme
from falloff.schemes.content import ContentScheme
from falloff.schemes.disentangled import DisentangledBias
from falloff.schemes.fire import FIRE
from falloff.schemes.forgetting import ForgettingBias
from falloff.schemes.gated_t5 import GatedT5Bias
from falloff.schemes.kerple import KerpleLog, KerplePower
from falloff.schemes.per_offset import PerOffsetBias
from falloff.schemes.profile_mixture import ProfileMixture
from falloff.schemes.sandwich import Sandwich
from falloff.schemes.shaw import ShawBias
from falloff.schemes.sums import SchemeSum
from falloff.schemes.t5 import T5Bias, t5_bucket
from falloff.schemes.tisa import TISA
from falloff.schemes.transformer_xl import TransformerXLBias


def _published() -> dict[str, type[Scheme]]:
    """The public classes of schemes in the files of this folder, in order of files."""
    modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    return {
        found.name: found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, Scheme)
        and found not in (Scheme, CachedScheme, ContentScheme, SchemeSum)
        and found.__module__ == module.__name__
        and not found.__name__.startswith("_")
    }


SCHEMES: dict[str, type[Scheme]] = _published()
"""Every published scheme by its name on the command line."""

__all__ = [
    "BAM",
    "FIRE",
    "SCHEMES",
    "TISA",
    "ALiBi",
    "Cable",
    "DisentangledBias",
    "ForgettingBias",
    "GatedT5Bias",
    "KerpleLog",
    "KerplePower",
    "PerOffsetBias",
    "ProfileMixture",
    "Sandwich",
    "Scheme",
    "ShawBias",
    "T5Bias",
    "TransformerXLBias",
    "alibi_slopes",
    "t5_bucket",
]

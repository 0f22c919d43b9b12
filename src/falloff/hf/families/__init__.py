"""The attention modules that can be fused: for each family, the classes of Transformers and their replacements."""

from typing import Any, NamedTuple

from falloff.hf.families.alibi import FusedBloom, FusedFalcon, FusedMpt, FusedMptBlock
from falloff.hf.families.conformer import FusedConformer
from falloff.hf.families.deberta import FusedDebertaEncoder, FusedDisentangled, FusedDisentangledV1
from falloff.hf.families.fused import Fused
from falloff.hf.families.inkling import FusedInkling, FusedProfiles
from falloff.hf.families.t5 import FusedPix2Struct, FusedT5, FusedUdop
from falloff.hf.families.wavlm import FusedWavLM


class Family(NamedTuple):
    """A module of Transformers, its classes with their replacements, and the bias in words."""

    module: str
    classes: dict[str, type[Fused]]
    bias: str


FAMILIES: dict[str, Family] = {
    "t5": Family("t5.modeling_t5", {"T5Attention": FusedT5}, "T5, by offset"),
    "mt5": Family("mt5.modeling_mt5", {"MT5Attention": FusedT5}, "T5, by offset"),
    "umt5": Family("umt5.modeling_umt5", {"UMT5Attention": FusedT5}, "T5, by offset, a table per layer"),
    "switch": Family(
        "switch_transformers.modeling_switch_transformers", {"SwitchTransformersAttention": FusedT5}, "T5, by offset"
    ),
    "pop2piano": Family("pop2piano.modeling_pop2piano", {"Pop2PianoAttention": FusedT5}, "T5, by offset"),
    "udop": Family("udop.modeling_udop", {"UdopAttention": FusedUdop}, "T5, by offset"),
    "pix2struct": Family("pix2struct.modeling_pix2struct", {"Pix2StructTextAttention": FusedPix2Struct}, "T5, by offset"),
    "bloom": Family("bloom.modeling_bloom", {"BloomAttention": FusedBloom}, "ALiBi"),
    "mpt": Family("mpt.modeling_mpt", {"MptAttention": FusedMpt, "MptBlock": FusedMptBlock}, "ALiBi"),
    "falcon": Family("falcon.modeling_falcon", {"FalconAttention": FusedFalcon}, "ALiBi / sqrt(D), rounded by key"),
    "inkling": Family(
        "inkling.modeling_inkling",
        {"InklingAttention": FusedInkling, "InklingRelativeLogits": FusedProfiles},
        "profile mixture",
    ),
    "inkling2": Family(
        "inkling2.modeling_inkling2",
        {
            "Inkling2SlidingAttention": FusedInkling,
            "Inkling2FullAttention": FusedInkling,
            "Inkling2RelativeLogits": FusedProfiles,
        },
        "profile mixture; sinks",
    ),
    "deberta": Family(
        "deberta.modeling_deberta",
        {"DisentangledSelfAttention": FusedDisentangledV1, "DebertaEncoder": FusedDebertaEncoder},
        "content to position and position to content, by offset",
    ),
    "deberta-v2": Family(
        "deberta_v2.modeling_deberta_v2",
        {"DisentangledSelfAttention": FusedDisentangled, "DebertaV2Encoder": FusedDebertaEncoder},
        "content to position and position to content, by offset",
    ),
    "conformer": Family(
        "wav2vec2_conformer.modeling_wav2vec2_conformer",
        {"Wav2Vec2ConformerSelfAttention": FusedConformer},
        "a product of query and sinusoids, by offset",
    ),
    "wavlm": Family("wavlm.modeling_wavlm", {"WavLMAttention": FusedWavLM}, "T5, by offset, gated by query and head"),
}


def family_of(module: Any) -> str | None:
    """The family that has this module's exact class, or None."""
    cls = getattr(type(module), "unfused", type(module))
    for name, family in FAMILIES.items():
        if cls.__name__ in family.classes and cls.__module__ == f"transformers.models.{family.module}":
            return name
    return None

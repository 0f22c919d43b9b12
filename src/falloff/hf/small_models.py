"""A small random model of each family that can be fused, for `falloff hf check` and the tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def t5(name: str, **more: Any) -> Any:
    """A model of T5 or one that shares its attention, such as "UMT5"."""
    import transformers

    settings: dict[str, Any] = {"vocab_size": 80, "d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2}
    settings |= {"num_decoder_layers": 2, "num_heads": 6, "dropout_rate": 0.0}
    settings |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1} | more
    config, model = getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForConditionalGeneration")
    return model(config(**settings, attn_implementation="eager"))


def _switch() -> Any:
    sizes = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4, "expert_capacity": 64}
    return t5("SwitchTransformers", **sizes)


def _bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=80, hidden_size=48, n_layer=2, n_head=6, hidden_dropout=0.0, attention_dropout=0.0)
    return BloomForCausalLM(config)


def _mpt() -> Any:
    from transformers import MptConfig, MptForCausalLM

    return MptForCausalLM(MptConfig(vocab_size=80, d_model=48, n_layers=2, n_heads=6, max_seq_len=512))


def _falcon(**more: Any) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    settings: dict[str, Any] = {"vocab_size": 80, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
    settings |= {"alibi": True, "multi_query": False, "parallel_attn": False, "bos_token_id": 1, "eos_token_id": 1}
    # Eager Falcon adds the bias twice in Transformers 5.17 to 5.23: alone, and as part of the mask.
    return FalconForCausalLM(FalconConfig(**settings | more, attn_implementation="sdpa"))


_INKLING: dict[str, Any] = {
    "vocab_size": 80,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 20,
    "d_rel": 4,
    "rel_extent": 30,
    "log_scaling_n_floor": 16,
    "log_scaling_alpha": 0.5,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
    "experts_implementation": "eager",  # the default has no float64
}
"""What both versions share."""


def _inkling() -> Any:
    from transformers import InklingForCausalLM, InklingTextConfig

    config = InklingTextConfig(
        **_INKLING,
        local_layer_ids=[0, 2],
        intermediate_size=64,
        n_shared_experts=1,
        logits_mup_width_multiplier=1.0,
    )
    return InklingForCausalLM(config)


def _inkling2() -> Any:
    from transformers import Inkling2ForCausalLM, Inkling2TextConfig

    config = Inkling2TextConfig(
        **_INKLING,
        unpadded_vocab_size=80,
        layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
        qk_l2_clip_threshold=2.0,  # these two are less than some norms, so that something is clipped
        rel_l2_clip_threshold=1.5,
        n_layers_per_attn_res_block=2,
        eos_token_id=1,
    )
    return Inkling2ForCausalLM(config)


def _deberta(task: str, version: str = "V2", **more: Any) -> Any:
    import transformers

    settings: dict[str, Any] = {"vocab_size": 80, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
    settings |= {"intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "num_labels": 80, "pad_token_id": 0}
    settings |= {"max_position_embeddings": 512, "initializer_range": 0.2} | more
    return getattr(transformers, f"Deberta{version}For{task}")(getattr(transformers, f"Deberta{version}Config")(**settings))


def _udop() -> Any:
    return t5("Udop", image_size=32, patch_size=16, max_2d_position_embeddings=64)


def _pix2struct() -> Any:
    from transformers import Pix2StructConfig, Pix2StructForConditionalGeneration

    text: dict[str, Any] = {"vocab_size": 80, "hidden_size": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 6}
    text |= {"dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    vision: dict[str, Any] = {"hidden_size": 48, "patch_embed_hidden_size": 20, "d_kv": 8, "d_ff": 64}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 6, "dropout_rate": 0.0, "seq_len": 64}
    config = Pix2StructConfig(text_config=text, vision_config=vision, attn_implementation="eager")
    config.pad_token_id, config.decoder_start_token_id = 0, 0
    return Pix2StructForConditionalGeneration(config)


def _speech(name: str, **more: Any) -> Any:
    import transformers

    settings: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_labels": 5}
    settings |= {"intermediate_size": 64, "hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}
    settings |= {"layerdrop": 0.0, "final_dropout": 0.0, "apply_spec_augment": False, "initializer_range": 0.2}
    settings |= {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "classifier_proj_size": 16}
    settings |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4} | more
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, f"{name}ForSequenceClassification")(config)


def inputs(model: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Random inputs of this many tokens, frames or patches: what the model's first argument is, without mask and labels."""
    kind = model.config.model_type
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(rows, 10 * (length + 1))}  # by the strides and kernels of `_speech`
    if model.main_input_name == "flattened_patches":
        places = torch.randint(1, 60, (rows, length, 2)).float()
        return {"flattened_patches": torch.cat([places, torch.randn(rows, length, 20)], -1)}
    ids = {"input_ids": torch.randint(2, 80, (rows, length))}
    return ids | ({"bbox": torch.randint(0, 65, (rows, length, 4)) / 64} if kind == "udop" else {})


MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: t5("T5"),
    "byt5": lambda: t5("T5", feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_layers=3),
    "chronos": lambda: t5("T5", relative_attention_num_buckets=16, relative_attention_max_distance=40),
    "mt5": lambda: t5("MT5"),
    "umt5": lambda: t5("UMT5"),
    "switch": _switch,
    "pop2piano": lambda: t5("Pop2Piano"),
    "udop": _udop,
    "pix2struct": _pix2struct,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "falcon-mqa": lambda: _falcon(multi_query=True, parallel_attn=True),
    "inkling": _inkling,
    "inkling2": _inkling2,
    # As DeBERTa-v3: fewer positions than the texts here have, so that the buckets end within a text.
    "deberta-v3": lambda: _deberta(
        "MaskedLM",
        share_att_key=True,
        position_buckets=16,
        max_relative_positions=40,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "deberta": lambda: _deberta("MaskedLM", version="", max_relative_positions=30),
    "deberta-v2": lambda: _deberta("TokenClassification", conv_kernel_size=3, max_relative_positions=30),
    "deberta-c2p": lambda: _deberta("MaskedLM", pos_att_type=["c2p"], position_buckets=8, type_vocab_size=2),
    "conformer": lambda: _speech(
        "Wav2Vec2Conformer", position_embeddings_type="relative", conv_depthwise_kernel_size=5, conformer_conv_dropout=0.0
    ),
    "wavlm": lambda: _speech("WavLM", num_buckets=16, max_bucket_distance=40),
}
"""A small random model of each family."""

"""Small random models of the decoder architectures of transformers, for which to measure things.

Windows, chunks and blocks are of 16 tokens, there are a few experts, and all types of layers occur.
Weights are so large that the models notice whatever is read wrongly.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers as tf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from steer_lightning.testing import BOS, EOS, PAD, VOCABULARY

NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""Names of the decoder architectures, as in `model_type` of a configuration."""

LAYERS, WIDTH, HEADS, HEAD, WINDOW = 4, 64, 4, 16, 16
"""Sizes of the small models."""

STANDARD_DEVIATION = 0.12
"""Standard deviation of the weights with two dimensions or more."""


def _same(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


SMALL: dict[str, Any] = {
    **_same(VOCABULARY, "vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"),
    **_same(VOCABULARY, "pronunciation_vocab_size", "shape_vocab_size", "audio_vocab_size"),
    **_same(PAD, "pad_token_id"),
    **_same(BOS, "bos_token_id", "decoder_start_token_id"),
    **_same(EOS, "eos_token_id", "sep_token_id"),
    **_same(WIDTH, "hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim"),
    **_same(WIDTH, "embedding_size", "word_embed_proj_dim", "lru_width", "input_embedding_size"),
    **_same(WIDTH, "output_embedding_size", "pronunciation_embed_dim", "shape_embed_dim"),
    **_same(WIDTH, "attention_hidden_size"),
    **_same(96, "intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff"),
    **_same(96, "dim_ff", "d_inner", "feed_forward_size", "ffn_hidden_size", "n_inner"),
    **_same(96, "intermediate_size_mlp", "dense_intermediate_size", "mlp_intermediate_size"),
    **_same(96, "prefix_dense_intermediate_size"),
    **_same(32, "moe_intermediate_size", "shared_expert_intermediate_size", "dense_ffn_dim"),
    **_same(32, "shared_experts_intermediate_size", "shared_intermediate_size"),
    **_same(32, "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"),
    **_same(32, "router_hidden_size", "dim_model_base", "prompt_mid_dim", "moe_latent_size"),
    **_same(LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
    **_same(LAYERS, "num_blocks", "num_decoder_layers"),
    **_same(LAYERS, "encoder_layers", "num_encoder_layers"),
    **_same(HEADS, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    **_same(HEADS, "decoder_attention_heads", "encoder_attention_heads"),
    **_same(HEADS, "num_encoder_attention_heads", "num_decoder_attention_heads"),
    **_same(HEADS, "swa_num_attention_heads", "num_query_groups"),
    **_same(2, "num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"),
    **_same(HEAD, "head_dim", "swa_head_dim", "global_head_dim", "dim_head", "d_head"),
    **_same(HEAD, "attention_head_size", "attention_head_dim", "kv_channels", "v_head_dim"),
    **_same(HEAD, "qk_nope_head_dim", "linear_head_dim", "linear_key_head_dim"),
    **_same(HEAD, "linear_value_head_dim", "mamba_d_head", "mamba_head_dim", "index_head_dim"),
    **_same(HEAD, "indexer_head_dim", "query_pre_attn_scalar", "mamba_headdim"),
    **_same(8, "qk_rope_head_dim", "rotary_dim", "d_rel", "gated_norm_rank", "laurel_rank"),
    **_same(8, "hidden_size_per_layer_input", "hc_lowrank", "adapter_rank"),
    **_same(24, "qk_head_dim"),
    **_same(32, "kv_lora_rank", "q_lora_rank", "o_lora_rank"),
    **_same(2, "o_groups", "index_n_heads", "indexer_n_heads", "linear_num_key_heads"),
    **_same(4, "linear_num_value_heads", "linear_num_heads"),
    **_same(4, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    **_same(2, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    **_same(2, "top_k_experts"),
    **_same(1, "n_group", "topk_group", "num_expert_group", "first_k_dense_replace"),
    **_same(1, "num_dense_layers", "moe_layer_start_index", "zero_expert_num"),
    **_same(WINDOW, "sliding_window", "sliding_window_size", "window_size", "local_attention"),
    **_same(WINDOW, "attention_window_size", "attention_chunk_size", "keep_window_size"),
    **_same(WINDOW, "block_size", "chunk_size", "mamba_chunk_size", "index_topk", "rel_extent"),
    **_same(WINDOW, "local_attention_window_len", "index_block_size", "relative_max_distance"),
    **_same(
        WINDOW, "local_attn_chunk_length", "lsh_attn_chunk_length", "position_bias_max_distance"
    ),
    **_same(WINDOW, "position_bias_num_buckets", "num_buckets"),
    **_same(2, "index_topk_blocks", "max_window_layers"),
    **_same(512, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    **_same(512, "model_max_length", "max_target_positions", "context_length"),
    **_same(64, "max_source_positions"),
    **_same(8, "state_size", "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank"),
    **_same(8, "mamba_num_heads", "mamba_n_heads", "n_mamba_heads"),
    **_same(1, "mamba_n_groups", "n_groups", "mamba_ngroups"),
    **_same(2, "hc_mult", "hc_count", "altup_num_inputs"),
    **_same(1000, "ngram_vocab_size_base", "encoder_hash_byte_group_vocab"),
}
"""Small values of the settings by which configurations name sizes."""

_MLA: dict[str, Any] = {"head_dim": 8, "num_key_value_heads": HEADS}
_GEMMA_4: dict[str, Any] = {"head_dim": HEAD, "global_head_dim": 2 * HEAD}
_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
_MAMBA_2: dict[str, Any] = {"num_heads": 8, "head_dim": HEAD, "n_groups": 1}
_GRANITE: dict[str, Any] = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
}
_KINDS = {
    "lfm": ["conv", "full_attention"] * 2,
    "zamba": ["linear_attention", "hybrid"] * 2,
    "gemma": ["sliding_attention", "full_attention"] * 2,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    **_same(_MLA, "axk1", "deepseek_v3", "longcat_flash", "youtu"),
    **_same(_GEMMA_4, "gemma4_text", "gemma4_unified_text"),
    **_same(_GRANITE, "granite", "granite_swa", "granitemoe", "granitemoe_swa"),
    **_same(_GRANITE, "granitemoeshared", "hyperclovax"),
    "granitemoehybrid": {**_GRANITE, "layer_types": ["linear_attention", "full_attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    **_same({"head_dim": HEAD}, "hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"),
    "nemotron": {"head_dim": HEAD, "num_key_value_heads": 2},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8}},
    "dots3_note_vision_encoder": {"adapter_in_dim": WIDTH, "adapter_out_dim": WIDTH},
    "dots3_note_audio_encoder": {"adapter_input_size": WIDTH, "adapter_out_dim": WIDTH},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 4,
    },
    "blt_local_encoder": {"hidden_size_global": WIDTH},
    "blt_local_decoder": {"hidden_size_global": WIDTH},
    "cohere_compass_text": {
        "layer_types": _KINDS["gemma"],
        "rope_parameters": {
            "full_attention": None,
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 2, 2],
            },
        },
    },
    "deepseek_v2": {**_EXPERTS, "topk_method": "greedy"},
    "dots1": _EXPERTS,
    "dots3_note_text": {
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": 24,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_nope_head_dim": HEAD,
        "qk_rope_head_dim": 8,
        "v_head_dim": HEAD,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": 24,
        "swa_qk_nope_head_dim": HEAD,
        "swa_v_head_dim": HEAD,
    },
    "falcon_h1": {
        "mamba_d_ssm": 2 * WIDTH,
        "mamba_d_head": HEAD,
        "key_multiplier": 0.5,
        "lm_head_multiplier": 0.5,
        "embedding_multiplier": 4.0,
        "attention_out_multiplier": 0.9,
    },
    "gemma3n_text": {
        "layer_types": _KINDS["gemma"],
        "num_kv_shared_layers": 2,
        "intermediate_size": 96,
    },
    "lfm2": {"layer_types": _KINDS["lfm"]},
    "lfm2_moe": {"layer_types": _KINDS["lfm"]},
    "mamba2": _MAMBA_2,
    "nemotron_h": {"num_hidden_layers": None},
    "reformer": {
        "attn_layers": ["local", "lsh", "local", "lsh"],
        "axial_pos_embds": False,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": _KINDS["zamba"],
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 2 * HEAD,
    },
    "zamba2": {
        "layers_block_type": _KINDS["zamba"],
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 2 * HEAD,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""Further settings by `model_type`, for what the general ones do not fit."""

DERIVED = {"per_layer_config", "hybrid_layer_ids", "attention_layers", "local_layer_ids"}
"""Settings that configurations work out from others."""

NOT_ALONE = {
    "gemma3n": "needs the package timm for its pictures; gemma3n_text is its text model",
    "gemma4_assistant": "drafts for another model, whose keys and values it reads",
    "gemma4_unified_assistant": "drafts for another model, whose keys and values it reads",
    "musicgen": "writes sound, by a decoder that no configuration of transformers makes alone",
    "musicgen_melody": "writes sound, by a decoder that no configuration makes alone",
}
"""Architectures of which no small model can be made, and why."""


def _rope(kind: str, **further: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **further}}


_ORIGINAL = 32  # positions that were known before the range was stretched
_WINDOWED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
_LONG = _rope(
    "longrope",
    short_factor=[1.0] * (HEAD // 2),
    long_factor=[4.0 + k for k in range(HEAD // 2)],
    original_max_position_embeddings=_ORIGINAL,
)
_SHARED_KEYS = {
    "layer_types": _KINDS["gemma"],
    "num_kv_shared_layers": 2,
    "final_logit_softcapping": 30.0,
}
_WITH_EXPERTS = {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon, ALiBi": ("falcon", {"alibi": True}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma4_text, experts": ("gemma4_text", _WITH_EXPERTS),
    "gemma4_text, shared keys": ("gemma4_text", _SHARED_KEYS),
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "llama, dynamic NTK": (
        "llama",
        {"max_position_embeddings": _ORIGINAL, **_rope("dynamic", factor=4.0)},
    ),
    "llama, llama3": (
        "llama",
        _rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=_ORIGINAL,
        ),
    ),
    "llama, yarn": (
        "llama",
        _rope("yarn", factor=4.0, original_max_position_embeddings=_ORIGINAL),
    ),
    "mixtral, window": ("mixtral", {"sliding_window": WINDOW}),
    "olmo, clipped": ("olmo", {"clip_qkv": 0.5}),
    "phi3, longrope": (
        "phi3",
        {**_LONG, "original_max_position_embeddings": _ORIGINAL},
    ),
    "phi3, window": ("phi3", {"sliding_window": WINDOW}),
    "phimoe, window": ("phimoe", {"sliding_window": WINDOW}),
    "qwen2, window": ("qwen2", _WINDOWED),
    "qwen2_moe, window": ("qwen2_moe", _WINDOWED),
    "qwen3, window": ("qwen3", _WINDOWED),
    "qwen4_exp_text, n-grams": ("qwen4_exp_text", {"ple_layer_ids": [1, 3]}),
    "stablelm, parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "starcoder2, window": ("starcoder2", {"sliding_window": WINDOW}),
}
"""Architectures with settings that are off by default, by a name of their own."""


def small_config(name: str) -> Any:
    """Makes the configuration of a small model.

    Args:
        name: One of `NAMES` or `VARIANTS`.
    """
    kind, extra = VARIANTS.get(name, (name, {}))
    return _shrunken(CONFIG_MAPPING[kind], extra)


def _shrunken(cls: type, extra: dict[str, Any]) -> Any:
    override = OVERRIDES.get(cls.model_type, {})
    default = cls(**override.get("default", {}))
    known = vars(default)
    own = {name: value for name, value in known.items() if name not in DERIVED and name[0] != "_"}
    depth = _depth(own)
    found = {name: _small(name, value, own, depth) for name, value in own.items()}
    changed = {name: value for name, value in found.items() if value is not None}
    if "is_decoder" in own:
        changed |= {"is_decoder": True, "add_cross_attention": False}
    changed |= {name: value for name, value in override.items() if name != "default"}
    return cls(**changed | extra)


def _depth(own: dict[str, Any]) -> int:
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
    return next((own[name] for name in names if type(own.get(name)) is int), 0)


def _small(name: str, value: Any, own: dict[str, Any], depth: int) -> Any:
    """Returns the small value of a setting; None if it stays."""
    if isinstance(value, tf.PreTrainedConfig):
        return _shrunken(type(value), {})
    if isinstance(value, (list, tuple)) and depth and len(value) == depth:
        kinds = list(dict.fromkeys(value))
        return [kinds[layer % len(kinds)] for layer in range(LAYERS)]
    if name.endswith("_key_value_heads") and value == own.get("num_attention_heads"):
        return HEADS
    is_size = type(value) is int and value > 0
    return SMALL.get(name) if is_size or name.endswith("_token_id") else None


def small_model(name: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Any:
    """Makes a small model with random weights, in eval mode.

    Args:
        name: One of `NAMES` or `VARIANTS`.
        dtype: Data type to which the weights are rounded; the model itself is float32.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(small_config(name)).float()
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if weight.dim() >= 2 and not re.search("A_log|norm", key):
                    weight.normal_(std=STANDARD_DEVIATION)
                weight.copy_(weight.to(dtype))
    return model.eval()

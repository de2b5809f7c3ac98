"""Small random models whose layers, or what they remember, are built otherwise than Llama's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

from steer_lightning.model.policy import Policy
from steer_lightning.steering import Steering
from steer_lightning.testing import byte_tokenizer
from tests.odd_models import IDS, LLAMA_LIKE, mamba

WIDTH, LAYERS = 64, 4

GEMMA = {
    **LLAMA_LIKE,
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 259,
    "hidden_size_per_layer_input": 8,
}

ODD: dict[str, Callable[[], Any]] = {
    # the norm that the MLP reads has a name of its own
    "afmoe": lambda: tf.AfmoeConfig(
        **LLAMA_LIKE,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        num_dense_layers=1,
    ),
    # norms behind attention and MLP
    "glm4": lambda: tf.Glm4Config(**LLAMA_LIKE, head_dim=16),
    # norms after the residual sums, layers that return lists, and no cache
    "gpt1": lambda: tf.OpenAIGPTConfig(
        vocab_size=259, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=256
    ),
    # two attentions a layer, in a list
    "longcat": lambda: tf.LongcatFlashConfig(
        **{key: value for key, value in LLAMA_LIKE.items() if key != "num_hidden_layers"},
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        head_dim=8,
        ffn_hidden_size=96,
        expert_ffn_hidden_size=32,
        n_routed_experts=4,
        moe_topk=2,
        zero_expert_num=1,
        num_layers=LAYERS,
    ),
    # states instead of keys and values
    "mamba": mamba,
    "falcon_mamba": lambda: tf.FalconMambaConfig(
        **IDS, hidden_size=WIDTH, state_size=8, num_hidden_layers=LAYERS, time_step_rank=8
    ),
    # layers that hand on several streams
    "gemma3n": lambda: tf.Gemma3nTextConfig(
        **GEMMA, sliding_window=8, laurel_rank=8, altup_num_inputs=2
    ),
    "deepseek_v4": lambda: tf.DeepseekV4Config(
        **IDS,
        hidden_size=WIDTH,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        head_dim=16,
        q_lora_rank=16,
        o_lora_rank=16,
        o_groups=2,
        qk_rope_head_dim=8,
        max_position_embeddings=256,
    ),
    "hy_v4": lambda: tf.HYV4Config(
        **IDS,
        hidden_size=WIDTH,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=16,
        index_head_dim=16,
        max_position_embeddings=256,
    ),
    # upper layers that share keys, and read only the positions whose logits are asked for
    "gemma4": lambda: tf.Gemma4TextConfig(**GEMMA, global_head_dim=16),
}
"""Functions that make a configuration of width `WIDTH` with `LAYERS` decoder layers."""


def odd_model(architecture: str, seed: int = 0) -> Any:
    """Makes a frozen random causal language model, float32, with weights of some size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(ODD[architecture]()).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() >= 2 and "A_log" not in name:
                    weight.normal_(std=0.12)
    return model.requires_grad_(False)


def odd_policy(architecture: str, steering: Steering) -> Policy:
    """Makes a policy on an odd model."""
    policy = Policy("odd", steering=steering)
    policy.tokenizer = byte_tokenizer()
    policy.adopt(odd_model(architecture))
    return policy

"""Small random models that do not fit the fast ways to read texts, each in a way of its own."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from steer_lightning.model.policy import Policy
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import byte_tokenizer

IDS = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = {
    **IDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def phimoe(window: int = 16) -> Any:
    """Windows that the mask alone tells of."""
    return tf.PhimoeConfig(**LLAMA_LIKE, sliding_window=window, num_local_experts=4)


def mixtral() -> Any:
    """Experts, which read as many tokens as choose them."""
    return tf.MixtralConfig(**LLAMA_LIKE, num_local_experts=4)


def bart() -> Any:
    """Positions that are counted from the padding on."""
    return tf.BartConfig(
        **IDS,
        d_model=64,
        decoder_layers=4,
        decoder_attention_heads=4,
        decoder_ffn_dim=96,
        max_position_embeddings=256,
        is_decoder=True,
        add_cross_attention=False,
    )


def mamba() -> Any:
    """States alone, without attention."""
    return tf.MambaConfig(
        **IDS, hidden_size=64, state_size=8, num_hidden_layers=4, time_step_rank=8
    )


def minimax() -> Any:
    """States that pass on from text to text, of layers without a convolution."""
    return tf.MiniMaxConfig(
        **LLAMA_LIKE,
        head_dim=16,
        num_local_experts=4,
        layer_types=["linear_attention", "full_attention"] * 2,
    )


def longrope() -> Any:
    """Frequencies that switch beyond 32 tokens."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0 + k for k in range(8)],
        "original_max_position_embeddings": 32,
    }
    return tf.Phi3Config(**LLAMA_LIKE, original_max_position_embeddings=32, rope_parameters=rope)


def dynamic() -> Any:
    """Frequencies that change with each token beyond 32."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    return tf.LlamaConfig(**{**LLAMA_LIKE, "max_position_embeddings": 32}, rope_parameters=rope)


def policy_of(config: Any, std: float = 0.12) -> Policy:
    """Makes a policy on a random model, with weights so large that differences show."""
    model = tf.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2 and "A_log" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    policy = Policy("tiny", steering=SteeringVectors(scale="none"))
    policy.tokenizer = byte_tokenizer()
    policy.adopt(model)
    vectors = torch.randn(len(policy.steering.layers), 64, generator=generator) * 0.3
    policy.steering.set_vectors(vectors)
    return policy

"""The rules for which architecture can hold vectors in which format, and why not.

A vector is added to the output of a decoder layer. If the layer ends in `residual + linear(x)`, a
bias of that linear layer has the same effect (tested for each of `BIAS_HOMES`).
"""

from __future__ import annotations

from steer_lightning.errors import ConfigError
from steer_lightning.results.export.base import Base

BIAS_HOMES = {
    **dict.fromkeys(
        (
            *("llama", "qwen2", "qwen3", "mistral", "phi3", "smollm3", "cohere", "cohere2"),
            *("olmo", "glm", "gemma", "stablelm", "seed_oss"),
        ),
        "mlp.down_proj",
    ),
    **dict.fromkeys(("gpt2", "starcoder2"), "mlp.c_proj"),
    **dict.fromkeys(("gpt_neox", "falcon"), "mlp.dense_4h_to_h"),
    "phi": "mlp.fc2",
    "opt": "fc2",
}
"""Path of the linear layer that ends a decoder layer, within that layer, by model type."""

LLAMA_FORM = ("llama", "qwen2", "mistral")
"""Model types that are a Llama in all but name: `LlamaForCausalLM` computes the same."""

NORM_AFTER_MLP = (
    *("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text"),
    *("olmo2", "olmo3", "glm4", "exaone4"),
)

BEHIND_A_NORM = (
    "It normalises what the MLP adds to the stream, so no bias in the MLP equals a vector after it"
)
QK_NORM = "Its attention normalises queries and keys, which a Llama has no weights for"
OTHER_FORM = "Its layers can't be written as those of a Llama"


def bias_home(base: Base) -> str:
    """Returns the path, within a decoder layer, of the linear layer whose bias can be a vector.

    Raises:
        ConfigError: If the architecture has no such layer or is unknown.
    """
    config, kind = base.config, base.config.model_type
    if kind in NORM_AFTER_MLP:
        raise _refusal(base, "peft", BEHIND_A_NORM)
    if kind == "opt" and not config.do_layer_norm_before:
        raise _refusal(base, "peft", BEHIND_A_NORM)
    if kind == "granite":
        why = "It scales the MLP's output by residual_multiplier, so a bias is not a plain vector"
        raise _refusal(base, "peft", why)
    if kind not in BIAS_HOMES:
        tried = ", ".join(sorted(BIAS_HOMES))
        raise _refusal(base, "peft", f"It is not among the tested architectures: {tried}")
    return BIAS_HOMES[kind]


def check_llama_form(base: Base, to: str) -> None:
    """Raises a ConfigError if a base can't be written as a stock Llama with the same logits.

    Args:
        base: Base model to check.
        to: Format of the export, for the message.
    """
    config, kind = base.config, base.config.model_type
    if kind in NORM_AFTER_MLP:
        raise _refusal(base, to, BEHIND_A_NORM)
    if kind not in LLAMA_FORM:
        raise _refusal(base, to, QK_NORM if kind in ("qwen3", "cohere2") else OTHER_FORM)
    if getattr(config, "quantization_config", None) is not None:
        why = "Its weights are quantised, and a bias would need the format's own layers"
        raise _refusal(base, to, why, formats=("easysteer", "gguf"))
    # a model that names the kind of each layer may have a window that no layer uses
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention"} or (not kinds and window is not None):
        used = f"a sliding window of {window} tokens"
        raise _refusal(base, to, f"It has {used}, but a Llama attends to all tokens")


def has_llama_form(base: Base) -> bool:
    """Tells whether `check_llama_form` accepts a base, so that it can be recommended."""
    try:
        check_llama_form(base, "transformers")
    except ConfigError:
        return False
    return True


def _refusal(base: Base, to: str, why: str, formats: tuple[str, ...] | None = None) -> ConfigError:
    """Makes a ConfigError that names the formats that work."""
    if formats is None:
        formats = ("easysteer", "gguf")
        if to != "peft" and _has_bias_home(base):
            formats = ("peft", *formats)
    choices = " or ".join(f"--to {name}" for name in formats)
    return ConfigError(
        "to",
        to,
        rule=f"can't hold vectors of {base.kind} exactly",
        why=why,
        fix=f"Use {choices} (gguf lacks layer 0), or steer_lightning.attach in Python",
    )


def _has_bias_home(base: Base) -> bool:
    try:
        bias_home(base)
    except ConfigError:
        return False
    return True

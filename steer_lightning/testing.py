"""Tools to test your own plug-ins: tiny models, a byte tokenizer, and protocol checkers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steer_lightning.errors import UNKNOWN, ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rewards import reward_name
from steer_lightning.rewards.asynchronous import refuse_async
from steer_lightning.rewards.base import check_scores
from steer_lightning.rollout import RolloutEngine, Sampling, completions_of
from steer_lightning.steering import Steering
from steer_lightning.system.printable import one_line
from steer_lightning.types import Completion, Problem, Prompt, Rollouts

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ["<pad>", "<bos>", "<eos>"]
VOCABULARY = len(SPECIAL) + 256
TOKENS: Any = {f"{name.strip('<>')}_token_id": k for k, name in enumerate(SPECIAL)}
TOKENS["vocab_size"] = VOCABULARY
VIVID = 0.07
"""Standard deviation of weights, large enough that states, caps and sinks change the output."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Makes a tokenizer of bytes, `<pad>`, `<bos>` and `<eos>`, without a chat template."""
    alphabet = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: k for k, character in enumerate(alphabet)}, []))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
    )


def _common(layers: int, width: int) -> dict[str, Any]:
    return {
        **TOKENS,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }


def _llama_like(kind: Callable[..., Any], **extra: Any) -> Callable[[int, int], Any]:
    return lambda layers, width: kind(**_common(layers, width), **extra)


def _types(layers: int, *kinds: str) -> list[str]:
    """Returns the types of the layers, which take turns."""
    return [kinds[k % len(kinds)] for k in range(layers)]


def _vivid(layers: int, width: int) -> dict[str, Any]:
    return {**_common(layers, width), "initializer_range": VIVID}


def _delta_net(layers: int) -> dict[str, Any]:
    return {
        "layer_types": _types(layers, "linear_attention", "full_attention"),
        "head_dim": 8,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }


ARCHITECTURES: dict[str, Callable[[int, int], Any]] = {
    "llama": _llama_like(tf.LlamaConfig),
    "qwen2": _llama_like(tf.Qwen2Config),
    "qwen3": _llama_like(tf.Qwen3Config, head_dim=8),
    "gemma3": _llama_like(tf.Gemma3TextConfig, head_dim=8, sliding_window=8),
    "mistral": _llama_like(tf.MistralConfig),
    "phi3": _llama_like(tf.Phi3Config),
    "olmo2": _llama_like(tf.Olmo2Config),
    "gpt2": lambda layers, width: tf.GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=4,
        n_positions=256,
        **TOKENS,
    ),
    "opt": lambda layers, width: tf.OPTConfig(
        hidden_size=width,
        ffn_dim=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        word_embed_proj_dim=width,
        max_position_embeddings=256,
        dropout=0.5,
        **TOKENS,
    ),
    "falcon": lambda layers, width: tf.FalconConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        hidden_dropout=0.5,
        attention_dropout=0.5,
        **TOKENS,
    ),
    "gpt_neox": lambda layers, width: tf.GPTNeoXConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        **TOKENS,
    ),
    "gemma2": _llama_like(
        tf.Gemma2Config,
        initializer_range=VIVID,
        head_dim=8,
        sliding_window=8,
        attn_logit_softcapping=0.2,
        query_pre_attn_scalar=1,
    ),
    "gemma4": lambda layers, width: tf.Gemma4TextConfig(
        **{**_vivid(layers, width), "global_head_dim": 16},  # which its signature does not name
        head_dim=8,
        sliding_window=8,
        layer_types=_types(layers, "full_attention", "sliding_attention"),
        num_kv_shared_layers=max(0, layers - 2),
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
    ),
    "gpt_oss": _llama_like(
        tf.GptOssConfig,
        initializer_range=VIVID,
        head_dim=8,
        sliding_window=8,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "deepseek_v3": lambda layers, width: tf.DeepseekV3Config(
        **{**_vivid(layers, width), "num_key_value_heads": 4},
        moe_intermediate_size=width,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=12,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
    ),
    "qwen3_next": lambda layers, width: tf.Qwen3NextConfig(
        **_vivid(layers, width),
        **_delta_net(layers),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=width,
    ),
    "qwen3_5": lambda layers, width: tf.Qwen3_5TextConfig(
        **_vivid(layers, width), **_delta_net(layers)
    ),
    "granite4": lambda layers, width: tf.GraniteMoeHybridConfig(
        **_vivid(layers, width),
        layer_types=_types(layers, "mamba", "attention"),
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=width,
        mamba_n_heads=4,
        mamba_d_head=width // 2,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "nemotron_h": lambda layers, width: tf.NemotronHConfig(
        **{k: v for k, v in _vivid(layers, width).items() if k != "num_hidden_layers"},
        layers_block_type=_types(layers, "mamba", "attention", "mlp"),
        head_dim=8,
        ssm_state_size=8,
        mamba_num_heads=4,
        mamba_head_dim=width // 2,
        n_groups=2,
        chunk_size=8,
    ),
    "lfm2": lambda layers, width: tf.Lfm2Config(
        **_vivid(layers, width), layer_types=_types(layers, "conv", "full_attention")
    ),
}
"""Functions that make a model configuration from (layers, width), by architecture."""

RECENT = tuple(ARCHITECTURES)[tuple(ARCHITECTURES).index("gemma2") :]
"""Architectures with more than plain attention: caps, sinks, compressed or shared keys, states."""


def tiny_model(architecture: str = "llama", layers: int = 3, width: int = 32, seed: int = 0) -> Any:
    """Makes a random causal language model for `byte_tokenizer`, float32, in eval mode.

    Args:
        architecture: Key of `ARCHITECTURES`.
        layers: Number of decoder layers.
        width: Width of the residual stream; a multiple of 8.
        seed: Seed of the weights.
    """
    config = ARCHITECTURES[architecture](layers, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tf.AutoModelForCausalLM.from_config(config).eval()


def save_tiny(folder: str | Path, architecture: str = "llama", **options: Any) -> str:
    """Saves a tiny model with the byte tokenizer; returns the folder, to use as `model.base`."""
    tiny_model(architecture, **options).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def tiny_policy(
    architecture: str = "llama", steering: Steering | None = None, **options: Any
) -> Policy:
    """Makes a policy on a tiny random model."""
    policy = Policy("tiny", steering=steering)
    policy.tokenizer = byte_tokenizer()
    policy.adopt(tiny_model(architecture, **options))
    return policy


def make_prompts(texts: Sequence[str], answers: Sequence[str] | None = None) -> list[Prompt]:
    """Makes prompts tokenized by the byte tokenizer; the default answer is "0"."""
    tokenizer = byte_tokenizer()
    return [
        Prompt(
            id=k,
            problem=Problem(question=text, answer=answers[k] if answers else "0"),
            text=text,
            token_ids=(BOS, *tokenizer(text)["input_ids"]),
        )
        for k, text in enumerate(texts)
    ]


QUESTION = "What is 6 times 7?"
ANSWERS = {
    r"6 times 7 is 42. The answer is \boxed{42}.": True,
    "<think>6 * 7 = 41</think>\nThe answer is **41** \u2713": True,
    "6 times 7 is 6 + 6 + 6 +": False,
    "": True,
}
"""Texts of the completions that `check_reward` makes, and whether each one is finished."""


def check_reward(reward: Any, completions: Sequence[Completion] = ()) -> list[float | None]:
    """Checks a reward the way training uses it, and raises the errors that training would raise.

    Your own completions test more; a reward that reads columns of the data needs them::

        right = Completion(text="It is 42.", question="What is 6 times 7?", answer="42",
                           num_tokens=5, finished=True, columns={"level": 1})
        wrong = dataclasses.replace(right, text="It is 41.")
        check_reward(my_rewards.by_level, [right, wrong])

    Args:
        reward: Function or object of the `Reward` protocol, not a coroutine function.
        completions: Completions (`steer_lightning.types.Completion`) to score, at least two; by
            default a right answer, a wrong one, one that is cut off, and an empty one.

    Returns:
        The scores of the completions.

    Raises:
        ConfigError: If the reward returns the wrong number of scores, NaN or something that is not
            a number, or raises an exception for the default completions.
        AssertionError: If the score of a completion depends on the order or the other completions
            of the batch.
    """
    name = reward_name(reward)
    refuse_async(name, reward)
    completions = completions or _own_completions(name, reward)
    scores = check_scores(name, reward(list(completions)), len(completions))
    backwards = check_scores(name, reward(list(completions)[::-1]), len(completions))
    if backwards[::-1] != scores:
        raise AssertionError(
            f"{name} scores a completion differently in another order: {scores} and "
            f"{backwards[::-1]}"
        )
    for completion, score in zip(completions, scores, strict=True):
        alone = check_scores(name, reward([completion]), 1)
        if alone != [score]:
            raise AssertionError(
                f"{name} scores a completion {alone[0]} alone and {score} in a batch"
            )
    return scores


def _own_completions(name: str, reward: Any) -> list[Completion]:
    """Makes answers to a question; the error of a reward that can't read them names a remedy."""
    made = []
    for text, ended in ANSWERS.items():
        facts: Any = {"question": QUESTION, "num_tokens": len(text.split()) + 1, "finished": ended}
        made.append(Completion(text=text, answer="42", **facts))
    try:
        reward(list(made))
    except Exception as error:  # the reward is anybody's code
        raise ConfigError(
            f"reward {name}",
            UNKNOWN,
            rule=f'raises {type(error).__name__} ({one_line(error)}) for answers to "{QUESTION}"',
            fix="Fix the reward, or pass completions that it can read: check_reward(reward, "
            "[Completion(text=..., question=..., answer=..., num_tokens=20, finished=True, "
            "columns={...}), ...]), with Completion from steer_lightning.types",
        ) from error
    return made


def check_engine(
    engine: RolloutEngine, policy: Policy, prompts: Sequence[Prompt] | None = None
) -> Rollouts:
    """Checks a rollout engine on a policy.

    Args:
        engine: Engine to check, not yet set up.
        policy: Policy whose model is loaded.
        prompts: Prompts to answer, at least two; by default three of different lengths.

    Returns:
        The rollouts of the engine.

    Raises:
        AssertionError: If shapes or masks are wrong, equal seeds give unequal rows, or the
            log-probabilities are not the policy's.
    """
    prompts = prompts or make_prompts(["a", "bcd", "efghij"])
    sampling = Sampling(group_size=2, max_new_tokens=6)
    engine.setup(policy)
    told: dict[int, Completion] = {}
    rollouts: Rollouts = engine.generate(
        prompts, sampling, seed=3, step=5, on_completion=told.__setitem__
    )
    completions = completions_of(rollouts)
    _require(
        all(completions[row] == completion for row, completion in told.items()),
        "a completion given to on_completion must be in the rollouts, in the same row",
    )
    num_rows = len(prompts) * sampling.group_size
    _require(rollouts.completion_ids.shape[0] == num_rows, f"must return {num_rows} rows")
    _require(len(rollouts.texts) == num_rows, f"must return {num_rows} texts")
    _require(
        bool((rollouts.completion_mask.sum(1) >= 1).all()),
        "a completion must have at least one token",
    )
    _require(
        bool((rollouts.logprobs[~rollouts.completion_mask] == 0).all()),
        "log-probabilities of padding must be 0",
    )
    alone: Rollouts = engine.generate(
        prompts[1:2], sampling, seed=3, step=5, on_completion=told.__setitem__
    )
    length = int(alone.completion_mask[1].sum())
    _require(
        torch.equal(alone.completion_ids[1, :length], rollouts.completion_ids[3, :length]),
        "a row must depend on (seed, step, prompt, sample) alone, not on the batch",
    )
    _check_logprobs(policy, rollouts, sampling)
    return rollouts


def _check_logprobs(policy: Policy, rollouts: Rollouts, sampling: Sampling) -> None:
    from steer_lightning.model.head import token_logprobs
    from steer_lightning.training.batch import padded_micro_batches

    rows = torch.arange(len(rollouts.texts))
    for part in padded_micro_batches(rollouts, rows, 10_000, policy.pad_token_id):
        ids, mask = part.ids.to(policy.device), part.mask.to(policy.device)
        with torch.no_grad():
            logits = policy.logits(ids, mask, part.completion_ids.shape[1] + 1)[:, :-1].cpu()
        ours = (
            token_logprobs(logits, part.completion_ids, sampling.temperature) * part.completion_mask
        )
        theirs = rollouts.logprobs[part.rows, : ours.shape[1]]
        _require(
            bool(torch.allclose(ours, theirs, atol=1e-4)),
            "log-probabilities must be the policy's own",
        )


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(f"rollout engine: {rule}")

"""Memory of each GPU for a model: in a rollout, and in an update.

    python benchmarks/memory_plan.py --model Qwen2.5-7B --gpus 8
    python benchmarks/memory_plan.py                    # the table of docs/how-to/distributed.md

Nothing is loaded. Weights are counted on the meta device. What an update keeps for its backward
pass is counted, too: the update's own code runs on the real architecture with tensors that have
shapes but no content, and every tensor that autograd keeps is added up. `tests/unit` holds this
count against real tensors. Not in the numbers: CUDA's own half gigabyte or so, fragmentation, and
short-lived buffers beside those named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import ROOT, write_json
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from steer_lightning.model.head import CHUNK_NUMBERS
from steer_lightning.model.policy import Policy
from steer_lightning.model.sharding.fsdp2 import ROOM
from steer_lightning.steering import SteeringVectors
from steer_lightning.testing import byte_tokenizer
from steer_lightning.training.packing import PackedForward, Packing

GIB = 2**30
COUNTED_TOKENS = 1024
"""Tokens of the pass that is counted; what is kept is proportional to them."""


def qwen(width: int, inner: int, layers: int, heads: int, kv: int, vocab: int) -> Qwen2Config:
    """A Qwen 2.5."""
    return Qwen2Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocab,
        tie_word_embeddings=layers == 28 and width == 1536,
    )


CONFIGS: dict[str, Any] = {  # as in their config.json
    "Qwen2.5-1.5B": qwen(1536, 8960, 28, 12, 2, 151936),
    "Qwen2.5-7B": qwen(3584, 18944, 28, 28, 4, 152064),
    "Qwen2.5-14B": qwen(5120, 13824, 48, 40, 8, 152064),
    "Qwen2.5-32B": qwen(5120, 27648, 64, 40, 8, 152064),
    "Llama-3.1-70B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of a model, independent of how it is run.

    Attributes:
        weights: Of all weights.
        layer: Of the weights of one decoder layer.
        rest: Of the weights outside of them: embeddings and head.
        vectors: Numbers of the vectors.
        cache: Keys and values of one token.
        kept: For the backward pass, a token of the update.
        kept_checkpointed: The same with activation checkpointing, between layers.
        kept_layer: Of one layer, a token: what checkpointing computes again.
        vocabulary: Of the head.
        itemsize: Bytes of a number of the base.
    """

    weights: int
    layer: int
    rest: int
    vectors: int
    cache: int
    kept: float
    kept_checkpointed: float
    kept_layer: float
    vocabulary: int
    itemsize: int


def sizes_of(config: Any, dtype: torch.dtype) -> Sizes:
    """Counts them."""
    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    policy = Policy("counted")
    policy.tokenizer = byte_tokenizer()
    policy.adopt(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    in_layers = [sum(p.numel() * p.element_size() for p in x.parameters()) for x in policy.layers]
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    two, three = (kept_bytes(shortened(config, n), dtype) for n in (2, 3))
    two_thin, three_thin = (kept_bytes(shortened(config, n), dtype, True) for n in (2, 3))
    more = text.num_hidden_layers - 2
    return Sizes(
        weights=weights,
        layer=max(in_layers),
        rest=weights - sum(in_layers),
        vectors=policy.steering.weight.numel(),
        cache=2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * dtype.itemsize,
        kept=(two + more * (three - two)) / COUNTED_TOKENS,
        kept_checkpointed=(two_thin + more * (three_thin - two_thin)) / COUNTED_TOKENS,
        kept_layer=(three - two) / COUNTED_TOKENS,
        vocabulary=text.vocab_size,
        itemsize=dtype.itemsize,
    )


def shortened(config: Any, num_layers: int) -> Any:
    """The same architecture with fewer layers."""
    values = config.to_dict()
    values.update(num_hidden_layers=num_layers, dtype=None)
    values.pop("layer_types", None)
    return type(config)(**values)


def kept_bytes(
    config: Any, dtype: torch.dtype, checkpointing: bool = False, fake: bool = True
) -> int:
    """Bytes that autograd keeps of an update's pass over `COUNTED_TOKENS` tokens.

    Args:
        config: Of the model.
        dtype: Of the base.
        checkpointing: Whether activations are computed again.
        fake: Tensors without content; those of the meta device would choose an attention that no
            GPU uses.
    """
    # a module of fake tensors can't be moved, and need not be
    still = patch.object(SteeringVectors, "to", lambda self, *_: self)
    with FakeTensorMode() if fake else nullcontext(), still:
        policy = Policy("counted")
        policy.tokenizer = byte_tokenizer()
        policy.adopt(AutoModelForCausalLM.from_config(config, dtype=dtype))
        known = {_storage(x) for x in (*policy.model.parameters(), *policy.model.buffers())}
        with count_kept(known) as kept:
            _update_pass(policy, checkpointing)
    return sum(kept.values())


def _update_pass(policy: Policy, checkpointing: bool) -> None:
    """The trainer's pass over one row, up to the head."""
    ids = [1] * (COUNTED_TOKENS + 1)
    prompt, completion = ids[: COUNTED_TOKENS // 4], ids[COUNTED_TOKENS // 4 :]
    packing = Packing([prompt], [0], [completion], policy.device)
    forward = PackedForward(policy)
    with policy.checkpointed(checkpointing), forward.passes(), forward.attending(packing):
        forward.head_states(packing)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def count_kept(known: set[int]) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps, but for the known ones."""
    found: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _storage(tensor) not in known:
            alive.append(tensor)  # so that no other storage takes its place
            found[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is run.

    Attributes:
        strategy: `ddp`, `fsdp2`, `fsdp` (FSDP1, SHARD_GRAD_OP) or `fsdp-full` (FULL_SHARD).
        gpus: That share one copy of the base; 1 for DDP or a single GPU.
        gpu_bytes: Memory of each.
        tokens_in_flight: Of the engine.
        sequence: Longest prompt and completion together, tokens.
        micro_batch: Tokens.
        checkpointing: Of activations.
        state_bytes: Of the optimizer, for each trained number.
    """

    strategy: str
    gpus: int
    gpu_bytes: int
    tokens_in_flight: int
    sequence: int
    micro_batch: int
    checkpointing: bool
    state_bytes: int


def plan(sizes: Sizes, setting: Setting) -> dict[str, Any]:
    """Bytes on each GPU, at the peak of a rollout and of an update."""
    once = {  # gathered once for a rollout, not for each token
        "fsdp2": sizes.weights <= ROOM * setting.gpu_bytes,
        "fsdp": True,  # and until the update's last backward pass
    }
    gathers = once.get(setting.strategy, False)
    # this layer, and the next one, which is on its way; embeddings and head stay
    layerwise = 2 * sizes.layer + sizes.rest if setting.gpus > 1 else 0
    always = sizes.weights // setting.gpus + sizes.vectors * (4 + 4 + setting.state_bytes)
    rows = setting.tokens_in_flight // setting.sequence
    drawing = 3 * 4 * rows * sizes.vocabulary  # logits in float32, and two of their size
    rollout = always + (sizes.weights if gathers else layerwise) + drawing
    update = always + (sizes.weights if setting.strategy == "fsdp" else layerwise)
    update += int(_head(sizes, setting)) + int(_kept(sizes, setting))
    cache = sizes.cache * setting.tokens_in_flight
    return {
        "gathers_for_rollouts": gathers,
        "weights": sizes.weights // setting.gpus,
        "vectors_gradient_optimizer": sizes.vectors * (8 + setting.state_bytes),
        "rollout": rollout + cache,
        "update": update,
        "fits": max(rollout + cache, update) <= 0.95 * setting.gpu_bytes,
        "most_tokens_in_flight": max(0, int(0.95 * setting.gpu_bytes - rollout) // sizes.cache),
    }


def _kept(sizes: Sizes, setting: Setting) -> float:
    """Of the layers, for the backward pass."""
    if setting.checkpointing:
        return setting.micro_batch * (sizes.kept_checkpointed + sizes.kept_layer)
    return setting.micro_batch * sizes.kept


def _head(sizes: Sizes, setting: Setting) -> float:
    """Logits: chunks; under FSDP1 those of all tokens, by the model and in float32."""
    if setting.strategy.startswith("fsdp") and setting.strategy != "fsdp2":
        return setting.micro_batch * sizes.vocabulary * (sizes.itemsize + 4)
    return 3 * 4 * CHUNK_NUMBERS


def config_of(model: str) -> Any:
    """Of a name in `CONFIGS`, a local folder or the hub."""
    return CONFIGS[model] if model in CONFIGS else AutoConfig.from_pretrained(model)


def show(row: dict[str, Any]) -> None:
    """Prints a row in GiB."""
    found = {key: f"{row[key] / GIB:.2f} GiB" for key in ("weights", "rollout", "update")}
    how = "gathered once a rollout" if row["gathers_for_rollouts"] else "layer by layer"
    print(f"{row['model']} on {row['gpus']} x {row['gpu_gib']:g} GiB, {row['strategy']}")
    print(f"  weights of the base     {found['weights']}" + (f", {how}" if row["gpus"] > 1 else ""))
    small = row["vectors_gradient_optimizer"] / 2**20
    print(f"  vectors, gradient, optimizer  {small:.2f} MiB")
    print(f"  peak of a rollout       {found['rollout']}")
    again = ", activations computed again" if row["checkpointing"] else ""
    print(f"  peak of an update       {found['update']}{again}")
    most = f"at most {row['most_tokens_in_flight']:,} tokens in flight"
    print("  fits; " + most if row["fits"] else "  does not fit; " + most)


def ways(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Numbers of GPUs with what shares the base out over them."""
    for gpus in options.gpus:
        for strategy in options.strategy if gpus > 1 else ["ddp"]:
            yield gpus, strategy


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model and number of GPUs; checkpointing where it is needed."""
    for model in options.model or CONFIGS:
        sizes = sizes_of(config_of(model), getattr(torch, options.dtype))
        for gpus, strategy in ways(options):
            values = {
                "strategy": strategy,
                "gpus": gpus,
                "gpu_bytes": int(options.gpu_gib * GIB),
                "tokens_in_flight": options.tokens_in_flight,
                "sequence": options.sequence,
                "micro_batch": options.tokens_per_micro_batch,
                "state_bytes": 2 if options.optimizer == "8bit" else 8,
            }
            for checkpointing in (False, True):
                found = plan(sizes, Setting(checkpointing=checkpointing, **values))
                if found["update"] <= 0.95 * values["gpu_bytes"]:
                    break
            more = {"gpu_gib": options.gpu_gib, "checkpointing": checkpointing}
            yield {"model": model, **values, **more, "all_weights": sizes.weights, **found}


def main() -> None:
    """Prints the plan; without --model writes it down for the documentation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(CONFIGS)
    parser.add_argument("--model", nargs="*", help=f"{names}, a folder or a hub id; default: all")
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 8], help="that share one base")
    names = ["fsdp2", "fsdp", "fsdp-full"]
    parser.add_argument("--strategy", nargs="*", default=names[:2], choices=names)
    parser.add_argument("--gpu-gib", type=float, default=80)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--tokens-in-flight", type=int, default=65536)
    parser.add_argument("--tokens-per-micro-batch", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=2048, help="longest prompt + completion")
    parser.add_argument("--optimizer", default="8bit", choices=["8bit", "32bit"])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/memory_plan.json")
    options = parser.parse_args()
    if any(gpus < 1 for gpus in options.gpus):
        sys.exit("--gpus must be at least 1")
    rows = []
    for row in rows_of(options):
        rows.append(row)
        show(row)
    if not options.model:
        write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()

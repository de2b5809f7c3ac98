"""Looks at vectors through a loaded model, and makes the content of `lens.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.head import before_head, has_unembedding
from steer_lightning.model.policy import Policy
from steer_lightning.model.sharding.pace import one_token
from steer_lightning.results.lens.final_norm import find_final_norm, norm_direction
from steer_lightning.results.lens.first_token import Change, change_of, divergence, mean_change
from steer_lightning.results.lens.geometry import cosines, singular_values, stable_rank
from steer_lightning.results.lens.unembedding import Ranked, TokenRanks, rank_tokens
from steer_lightning.steering import SiteVectors
from steer_lightning.steering.model_parts import SeveralStreamsError
from steer_lightning.types import Prompt

T = TypeVar("T")
Scored = list[tuple[str, float]]
PROMPT_TOKENS = 3
"""Number of tokens listed for each single prompt, in each direction."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Settings of a look at vectors.

    Attributes:
        num_tokens: Number of tokens in each list.
        final_norm: Whether vectors pass through the norm before the unembedding, see
            `NormDirection`.
    """

    num_tokens: int = 10
    final_norm: bool = False

    def __post_init__(self) -> None:
        """Raises a ConfigError if no tokens would be listed."""
        if self.num_tokens < 1:
            raise ConfigError("num_tokens", self.num_tokens, rule="must be at least 1")


def check_unembedding(policy: Policy) -> None:
    """Raises a ConfigError if a loaded model has no usable unembedding matrix."""
    if not has_unembedding(policy.model):
        raise ConfigError(
            "base",
            policy.base,
            rule="has no unembedding matrix of floating-point numbers",
            why="Tokens are found by products with this matrix",
        )


@torch.no_grad()
def look_at_tokens(policy: Policy, vectors: torch.Tensor, look: Look) -> dict[str, TokenRanks]:
    """Ranks tokens by their products with vectors; see `rank_tokens`.

    All processes must call it: the forward pass of a single token gathers a sharded base, and the
    products are taken within that pass.

    Args:
        policy: Policy whose model is loaded.
        vectors: Vectors (L, D).
        look: Settings of the look.

    Returns:
        The ranks by `dot` and by `cosine`; empty if there is no unembedding, see
        `check_unembedding`.
    """
    if not has_unembedding(policy.model):
        return {}

    def products(unembedding: torch.Tensor, state: torch.Tensor) -> dict[str, TokenRanks]:
        seen = vectors
        if look.final_norm:
            norm = find_final_norm(policy.model, policy.layers)
            seen = norm_direction(norm, vectors.shape[1], state[0, 0])(seen)
        # rows beyond the tokenizer's last token are padding, which is never trained and has no text
        return rank_tokens(seen, unembedding[: len(policy.tokenizer)], look.num_tokens)

    return _at_the_head(policy.model, products)


def _at_the_head(model: Any, what: Callable[[torch.Tensor, torch.Tensor], T]) -> T:
    """Calls `what` with the unembedding and a state (1, 1, D) that enters it."""
    found: list[T] = []

    def keep(module: Any, inputs: tuple[torch.Tensor]) -> None:
        found.append(what(module.weight, inputs[0]))

    with before_head(model, keep):
        one_token(model)
    return found[0]


def token_text(tokenizer: Any, token: int) -> str:
    """Returns the text that a token stands for.

    A token that is not text by itself, such as half a letter, is shown by its tokenizer name.
    """
    name, text = str(tokenizer.convert_ids_to_tokens(token)), str(tokenizer.decode([token]))
    if not text or "\ufffd" in text:
        return name
    # some decoders drop the space before the first word of a text
    return f" {text}" if name.startswith("\u2581") and not text.startswith(" ") else text


def describe(
    policy: Policy,
    vectors: SiteVectors,
    prompts: Sequence[Prompt],
    look: Look,
    step: int | None,
) -> dict[str, Any]:
    """Returns everything that the lens shows, as JSON values.

    All processes must call it, see `look_at_tokens`.

    Args:
        policy: Policy that is loaded and steered by these vectors.
        vectors: Vectors (L, D), with the layers to which they belong.
        prompts: Prompts on which the stream and the first token are measured; if there are none,
            neither is measured.
        look: Settings of the look.
        step: Number of optimizer steps with which the vectors were trained, if known.

    Returns:
        The content of `lens.json`; docs/how-to/lens.md explains the keys.
    """
    plain = vectors.vectors.detach()
    ranks = look_at_tokens(policy, plain, look)
    sizes = _stream_sizes(policy, prompts, vectors.layers)
    layers = []
    for row, layer in enumerate(vectors.layers):
        norm, size = float(plain[row].norm()), sizes.get(layer)
        relative = norm / (size * vectors.width**0.5) if size else None
        lists = token_lists(policy, ranks, row) if norm else token_lists(policy, {}, row)
        layers.append(
            {
                "layer": layer,
                "norm": six_digits(norm),
                "stream_rms": None if size is None else six_digits(size),
                "norm_over_stream": None if relative is None else six_digits(relative),
                **lists,
            }
        )
    return {
        "base_model": policy.base,
        "step": step,
        "width": vectors.width,
        "num_layers": vectors.num_layers,
        "site": vectors.site,
        "tokens": vectors.tokens,
        "final_norm": look.final_norm,
        "layers": layers,
        "cosines": [[six_digits(x) for x in row] for row in cosines(plain, plain).tolist()],
        "singular_values": [six_digits(x) for x in singular_values(plain).tolist()],
        "stable_rank": six_digits(stable_rank(plain)),
        "first_token": _first_token(policy, prompts, look.num_tokens) if prompts else None,
        "inside": None,
    }


def six_digits(number: float) -> float:
    """Rounds to six digits, more than anyone reads, which keeps the file small."""
    return float(f"{number:.6g}")


def _stream_sizes(
    policy: Policy, prompts: Sequence[Prompt], layers: tuple[int, ...]
) -> dict[int, float]:
    """Returns the root mean square of the base's stream after each steered layer.

    It is empty without prompts, or if layers pass on several streams.
    """
    if not prompts:
        return {}
    try:
        sizes = policy.stream_rms([prompt.token_ids for prompt in prompts], layers)
    except SeveralStreamsError:
        return {}
    return dict(zip(layers, sizes.tolist(), strict=True))


def token_lists(
    policy: Policy, ranks: dict[str, TokenRanks], row: int
) -> dict[str, dict[str, Scored]]:
    """Lists tokens and scores of a vector; none without ranks, as for a vector of zeros."""

    def texts(ranked: Ranked) -> Scored:
        pairs = zip(ranked.ids[row].tolist(), ranked.scores[row].tolist(), strict=True)
        return [(token_text(policy.tokenizer, token), six_digits(score)) for token, score in pairs]

    return {
        end: {name: texts(getattr(ranks[name], end)) if ranks else [] for name in ("dot", "cosine")}
        for end in ("top", "bottom")
    }


@torch.no_grad()
def _first_token(policy: Policy, prompts: Sequence[Prompt], count: int) -> dict[str, Any]:
    """Measures next-token probabilities after each prompt, with and without the vectors."""
    steered = [_next_token_logits(policy, prompt) for prompt in prompts]
    with policy.at_scale(0.0):
        base = [_next_token_logits(policy, prompt) for prompt in prompts]
    changes = [change_of(*pair) for pair in zip(base, steered, strict=True)]
    gaps = [divergence(*pair) for pair in zip(base, steered, strict=True)]
    return {
        "num_prompts": len(prompts),
        "kl": six_digits(sum(gaps) / len(gaps)),
        **_movers(policy.tokenizer, mean_change(changes), count),
        "prompts": [
            {
                "prompt": prompt.text,
                "kl": six_digits(gap),
                **_movers(policy.tokenizer, change, PROMPT_TOKENS),
            }
            for prompt, gap, change in zip(prompts, gaps, changes, strict=True)
        ],
    }


def _next_token_logits(policy: Policy, prompt: Prompt) -> torch.Tensor:
    """Returns the logits of the token after a prompt, (V,) float32, on the CPU."""
    ids = torch.tensor([prompt.token_ids], device=policy.device)
    return policy.logits(ids, torch.ones_like(ids), 1)[0, -1].float().cpu()


def _movers(
    tokenizer: Any, change: Change, count: int
) -> dict[str, list[tuple[str, float, float]]]:
    def rows(tokens: list[int]) -> list[tuple[str, float, float]]:
        return [
            (
                token_text(tokenizer, t),
                six_digits(float(change.base[t])),
                six_digits(float(change.steered[t])),
            )
            for t in tokens
        ]

    return {"up": rows(change.up(count)), "down": rows(change.down(count))}

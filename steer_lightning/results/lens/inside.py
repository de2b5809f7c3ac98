"""Shows what the next attention and the next MLP make of each vector.

Each text is read without vectors, with the vector of one layer at a time, and with all vectors, by
plain passes in which attention computes all of its weights. `attention_change` and `mlp_change`
have the formulas. Of a vector alone, the first attention and the first MLP count that read
something else than in the base: in the next layer for a vector at the output of a layer, in the
layer itself for one before its attention. Means are over all tokens of all texts that are steered
(one in each text for `last_prompt`) but the first of each text, which sees only itself, and whose
activations are outliers in many models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.attention import open_weights
from steer_lightning.model.policy import Policy
from steer_lightning.results.lens.attention_change import AttentionChange, key_sets
from steer_lightning.results.lens.layer_parts import LayerParts, find_parts
from steer_lightning.results.lens.look import Look, look_at_tokens, six_digits, token_lists
from steer_lightning.results.lens.look import token_text as text_of
from steer_lightning.results.lens.mlp_change import MlpChange
from steer_lightning.results.lens.passes import Passes, Place, Seen
from steer_lightning.steering import SiteVectors
from steer_lightning.steering.tokens import is_steered, text_roles
from steer_lightning.types import Prompt

MOST_TOKENS = 512
"""Largest number of tokens in a text: all attention weights of a text are in memory at once."""
KEY = "inside"


def check_inside(prompts: Sequence[Prompt], files: dict[str, SiteVectors]) -> None:
    """Raises a ConfigError if there is nothing to read, or nothing that vectors could change.

    Args:
        prompts: Texts that are to be read.
        files: Vectors by the names of their files.
    """
    longest = max((len(prompt.token_ids) for prompt in prompts), default=0)
    if longest < 2:
        raise ConfigError(
            KEY,
            True,
            rule="needs texts of at least two tokens",
            why="It shows how tokens attend to those before them",
            fix="Give prompts or texts",
        )
    if longest > MOST_TOKENS:
        raise ConfigError(
            KEY,
            True,
            rule=f"contradicts a text of {longest} tokens: it reads at most {MOST_TOKENS}",
            why="All attention weights of a text are in memory at once",
            fix=f"Set max_prompt_tokens: {MOST_TOKENS}, which leaves longer prompts out, or give "
            "shorter texts",
        )
    for name, vectors in files.items():
        if vectors.tokens == "completion":
            raise ConfigError(
                KEY,
                True,
                rule=f"contradicts the vectors {name}, which steer the tokens of completions",
                why="The texts are read as prompts, on which these vectors do nothing",
                fix="Leave it out",
            )


@dataclass(frozen=True)
class _Text:
    """What is known of a text of T tokens before the passes."""

    ids: torch.Tensor
    """Tokens, (1, T) int64."""
    counted: torch.Tensor
    """Which tokens count, (T,) bool."""
    sets: dict[str, torch.Tensor]
    """Sets of keys; see `key_sets`."""


def _text(policy: Policy, vectors: SiteVectors, tokens: Sequence[int]) -> _Text:
    ids = _ids(policy, tokens)
    counted = torch.ones_like(ids[0], dtype=torch.bool)
    if vectors.tokens != "all":
        counted &= is_steered(text_roles(ids, 0), vectors.tokens)[0, :, 0]
    counted[0] = False
    sets = key_sets([text_of(policy.tokenizer, token) for token in tokens])
    return _Text(ids, counted, sets)


@torch.no_grad()
def look_inside(
    policy: Policy, vectors: SiteVectors, prompts: Sequence[Prompt], look: Look
) -> dict[str, Any]:
    """Returns what the next attention and MLP make of each vector, as JSON values.

    Args:
        policy: Policy that is loaded and steered by these vectors.
        vectors: Vectors (L, D), with the layers to which they belong.
        prompts: Texts, which `check_inside` has checked.
        look: Settings of the look.

    Returns:
        The content of `inside` in `lens.json`; docs/how-to/lens.md explains the keys.

    Raises:
        ConfigError: If neither attention nor MLP can be seen in any layer of the model, or if they
            are not finite with the vectors.
    """
    tokens = [prompt.token_ids for prompt in prompts if len(prompt.token_ids) > 1]
    longest = _ids(policy, max(tokens, key=len))
    with open_weights(policy.model):
        parts = find_parts(policy, longest)
        if not parts.attention and not parts.mlp:
            raise ConfigError(
                KEY,
                True,
                rule=f"neither attention nor MLP of {type(policy.model).__name__} can be seen",
                why="No module of a known name returns attention weights, or adds its output to "
                "the stream as it is",
                fix="Leave it out",
            )
        passes = Passes(policy, parts)
        rows = zip(vectors.layers, vectors.vectors.detach(), strict=True)
        acting = [layer for layer, vector in rows if bool(vector.any())]
        places = {layer: passes.first_changed(longest, layer) for layer in acting}
        factors = {layer: _factor(vectors, layer, parts) for layer in acting}
        found = _Found(places, factors)
        for one in tokens:
            found.read(passes, _text(policy, vectors, one))
    numbers = range(len(policy.layers))
    return {
        "num_texts": len(tokens),
        "num_tokens": found.num_tokens,
        "without_attention": [k for k in numbers if k not in parts.attention],
        "without_mlp": [k for k in numbers if k not in parts.mlp],
        "alone": found.alone(policy, vectors, look),
        "together": found.together(),
    }


def _ids(policy: Policy, tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(tokens)], device=policy.device)


class _Found:
    """All changes, added up text by text, so that memory does not grow with the number of texts.

    Args:
        places: Next attention and MLP behind the vector of each layer that acts.
        factors: For the same layers, the factor with which the vector reaches the stream; None if
            modules lie between its site and the stream.

    Attributes:
        num_tokens: Number of tokens that count.
    """

    def __init__(
        self, places: dict[int, dict[str, Place]], factors: dict[int, float | None]
    ) -> None:
        self._places, self._factors = places, factors
        self.num_tokens = 0
        # by the layer of the vector, None for all vectors, and that of the part
        self._attentions: dict[tuple[int | None, int], AttentionChange] = {}
        self._mlps: dict[tuple[int | None, int], MlpChange] = {}

    def read(self, passes: Passes, text: _Text) -> None:
        """Reads one text with each choice of vectors."""
        self.num_tokens += int(text.counted.sum())
        base, vectors = passes.base(text.ids), passes.vectors(text.ids)
        self._add(None, base, passes.together(text.ids), text)
        for layer, places in self._places.items():
            factor = self._factors[layer]
            vector = None if factor is None else factor * vectors[layer]
            self._add(layer, base, passes.alone(text.ids, layer, places.values()), text, vector)

    def _add(
        self,
        vector: int | None,
        base: dict[Place, Seen],
        steered: dict[Place, Seen],
        text: _Text,
        added: torch.Tensor | None = None,
    ) -> None:
        for place, seen in steered.items():
            (kind, layer), counted = place, text.counted
            ours, theirs = base[place].output, seen.output
            if kind == "attention":
                attention = self._attentions.setdefault((vector, layer), AttentionChange())
                attention.add(ours, theirs, text.sets, counted)
            else:
                mlp = self._mlps.setdefault((vector, layer), MlpChange())
                mlp.add(ours[counted], theirs[counted], None if added is None else added[counted])

    def together(self) -> dict[str, Any]:
        """Returns the figures of all vectors together, by layer."""
        return {
            "attention": [
                _figures(layer, change)
                for (vector, layer), change in self._attentions.items()
                if vector is None
            ],
            "mlp": [
                {"layer": layer, "relative": six_digits(change.relative())}
                for (vector, layer), change in self._mlps.items()
                if vector is None
            ],
        }

    def alone(self, policy: Policy, vectors: SiteVectors, look: Look) -> list[dict[str, Any]]:
        """Returns the figures of each vector; None where nothing behind it can be seen."""
        changes = {k: x for (k, _), x in self._mlps.items() if k is not None}
        means = {k: change.mean() for k, change in changes.items()}
        ranks = look_at_tokens(policy, torch.stack(list(means.values())), look) if means else {}
        rows = {layer: row for row, layer in enumerate(means)}
        found = []
        for layer in vectors.layers:
            next_places = self._places.get(layer, {})
            attention = mlp = None
            if "attention" in next_places:
                behind = next_places["attention"][1]
                attention = _figures(behind, self._attentions[layer, behind])
            if layer in changes:
                against = changes[layer].against_vector()
                mlp = {
                    "layer": next_places["mlp"][1],
                    "relative": six_digits(changes[layer].relative()),
                    **{key: x if x is None else six_digits(x) for key, x in against.items()},
                    **token_lists(policy, ranks, rows[layer]),
                }
            found.append({"layer": layer, "attention": attention, "mlp": mlp})
        return found


def _figures(layer: int, change: AttentionChange) -> dict[str, Any]:
    """Returns the figures of an attention, by head."""
    variation, moved = change.means()
    return {
        "layer": layer,
        "variation": [six_digits(x) for x in variation.tolist()],
        "moved": {name: [six_digits(x) for x in gains.tolist()] for name, gains in moved.items()},
    }


def _factor(vectors: SiteVectors, layer: int, parts: LayerParts) -> float | None:
    """Returns the factor with which a vector reaches the stream; None if modules lie between."""
    if vectors.site == "layer_output":
        return 1.0
    mlp = parts.mlp.get(layer)
    if vectors.site == "mlp_output" and mlp is not None and mlp.norm is None:
        return mlp.factor
    return None

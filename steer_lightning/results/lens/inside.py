"""Shows what the next attention and the next MLP make of each vector.

Each text is read without vectors, with the vector of one layer at a time, and with all vectors, by
plain passes in which attention computes all of its weights. `attention_change` and `mlp_change`
have the formulas. Of a vector alone, the first attention and the first MLP count that read
something else than in the base: in the next layer for a vector at the output of a layer, in the
layer itself for one before its attention. Means are over all tokens of all texts but the first of
each text, which sees only itself, and whose activations are outliers in many models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.attention import open_weights
from steer_lightning.model.policy import Policy
from steer_lightning.results.lens.attention_change import PLACES, key_sets, moved, variation
from steer_lightning.results.lens.layer_parts import LayerParts, find_parts
from steer_lightning.results.lens.look import Look, look_at_tokens, six_digits, token_lists
from steer_lightning.results.lens.look import token_text as text_of
from steer_lightning.results.lens.mlp_change import MlpChange, against_vector, joined, relative
from steer_lightning.results.lens.passes import Passes, Place, Seen
from steer_lightning.steering import SiteVectors
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


@dataclass
class _Attended:
    """The change of an attention over some texts: per head, for each query."""

    variation: list[torch.Tensor] = field(default_factory=list)
    moved: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {x: [] for x in PLACES})

    def add(self, base: Seen, steered: Seen, sets: dict[str, torch.Tensor]) -> None:
        ours, theirs = base.output, steered.output
        self.variation.append(variation(ours, theirs)[:, 1:])
        for name, keys in sets.items():
            self.moved[name].append(moved(ours, theirs, keys.to(ours.device))[:, 1:])

    def figures(self, layer: int) -> dict[str, Any]:
        return {
            "layer": layer,
            "variation": _means(self.variation),
            "moved": {name: _means(values) for name, values in self.moved.items()},
        }


def _means(values: list[torch.Tensor]) -> list[float]:
    """Returns the mean of each head over all queries."""
    return [six_digits(x) for x in torch.cat(values, 1).double().mean(1).tolist()]


def _change(base: Seen, steered: Seen) -> MlpChange:
    return MlpChange(base=base.output[1:], change=(steered.output - base.output)[1:])


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
        ConfigError: If neither attention nor MLP can be seen in any layer of the model.
    """
    texts = [prompt.token_ids for prompt in prompts if len(prompt.token_ids) > 1]
    longest = _ids(policy, max(texts, key=len))
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
        found = _Found(places)
        for text in texts:
            found.read(passes, _ids(policy, text), [text_of(policy.tokenizer, x) for x in text])
    numbers = range(len(policy.layers))
    return {
        "num_texts": len(texts),
        "num_tokens": sum(len(text) - 1 for text in texts),
        "without_attention": [k for k in numbers if k not in parts.attention],
        "without_mlp": [k for k in numbers if k not in parts.mlp],
        "alone": found.alone(policy, vectors, parts, look),
        "together": found.together(),
    }


def _ids(policy: Policy, tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(tokens)], device=policy.device)


class _Found:
    """All changes, collected text by text.

    Args:
        places: Next attention and MLP behind the vector of each layer that acts.
    """

    def __init__(self, places: dict[int, dict[str, Place]]) -> None:
        self._places = places
        self._attended: dict[tuple[int | None, int], _Attended] = {}  # by vector, None for all
        self._changes: dict[tuple[int | None, int], list[MlpChange]] = {}

    def read(self, passes: Passes, ids: torch.Tensor, tokens: Sequence[str]) -> None:
        """Reads one text with each choice of vectors."""
        base, sets = passes.base(ids), key_sets(tokens)
        self._add(None, base, passes.together(ids), sets)
        for layer, places in self._places.items():
            self._add(layer, base, passes.alone(ids, layer, places.values()), sets)

    def _add(
        self,
        vector: int | None,
        base: dict[Place, Seen],
        steered: dict[Place, Seen],
        sets: dict[str, torch.Tensor],
    ) -> None:
        for place, seen in steered.items():
            kind, layer = place
            if kind == "attention":
                entry = self._attended.setdefault((vector, layer), _Attended())
                entry.add(base[place], seen, sets)
            else:
                changes = self._changes.setdefault((vector, layer), [])
                changes.append(_change(base[place], seen))

    def together(self) -> dict[str, Any]:
        """Returns the figures of all vectors together, by layer."""
        return {
            "attention": [
                entry.figures(layer)
                for (vector, layer), entry in self._attended.items()
                if vector is None
            ],
            "mlp": [
                {"layer": layer, "relative": six_digits(relative(joined(changes)))}
                for (vector, layer), changes in self._changes.items()
                if vector is None
            ],
        }

    def alone(
        self, policy: Policy, vectors: SiteVectors, parts: LayerParts, look: Look
    ) -> list[dict[str, Any]]:
        """Returns the figures of each vector; None where nothing behind it can be seen."""
        changes = {k: joined(x) for (k, _), x in self._changes.items() if k is not None}
        means = {k: change.change.mean(0) for k, change in changes.items()}
        ranks = look_at_tokens(policy, torch.stack(list(means.values())), look) if means else {}
        rows = {layer: row for row, layer in enumerate(means)}
        found = []
        for layer, vector in zip(vectors.layers, vectors.vectors.detach(), strict=True):
            next_places = self._places.get(layer, {})
            attention = mlp = None
            if "attention" in next_places:
                behind = next_places["attention"][1]
                attention = self._attended[layer, behind].figures(behind)
            if layer in changes:
                mlp = {
                    "layer": next_places["mlp"][1],
                    "relative": six_digits(relative(changes[layer])),
                    **_against(changes[layer], _in_stream(vectors, layer, vector, parts)),
                    **token_lists(policy, ranks, rows[layer]),
                }
            found.append({"layer": layer, "attention": attention, "mlp": mlp})
        return found


def _in_stream(
    vectors: SiteVectors, layer: int, vector: torch.Tensor, parts: LayerParts
) -> torch.Tensor | None:
    """Returns what a vector adds to the stream; None if modules lie between its site and that."""
    if vectors.site == "layer_output":
        return vector
    mlp = parts.mlp.get(layer)
    if vectors.site == "mlp_output" and mlp is not None and mlp.norm is None:
        return mlp.factor * vector
    return None


def _against(change: MlpChange, vector: torch.Tensor | None) -> dict[str, float | None]:
    if vector is None:
        return {"size": None, "along": None, "cosine": None}
    return {key: six_digits(value) for key, value in against_vector(change, vector).items()}

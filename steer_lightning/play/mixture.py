"""Mixtures of vectors: an expression such as `0.5 * a + 0.3 * b`, and a factor for each layer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from steer_lightning.errors import ConfigError
from steer_lightning.model.fingerprint import sha256
from steer_lightning.steering import SiteVectors, SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors, summed
from steer_lightning.steering.vectors_file import VectorsFile, write_vectors_file
from steer_lightning.system.printable import one_line

KEY = "mixture"
LARGEST_WEIGHT = 100.0
"""Largest weight of vectors in a mixture, in either direction."""

LONGEST = 2000
"""Largest number of characters of an expression."""

NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?")

Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A weighted sum of vectors, with a factor for each layer.

    Attributes:
        weights: Names of vectors with their weights.
        layer_factors: Factor for each decoder layer of the base; a vector of factor 0 is left out.
    """

    weights: Weights
    layer_factors: tuple[float, ...]

    @property
    def expression(self) -> str:
        """The weighted sum as text, which `read_expression` reads."""
        return expression_of(self.weights)


def check_names(names: Collection[str]) -> None:
    """Raises a ConfigError for a name that an expression would be read otherwise for.

    That is one that reads as something else by itself, such as `-a` or `2 * a`, or one that begins
    like a sum with another name, such as `a - b` beside `a`. Without the spaces, `a-b` is the name.

    Args:
        names: Names of all vectors of a page.
    """
    for name in names:
        other = next((x for x in names if name.startswith((f"{x} - ", f"{x} + "))), None)
        try:
            is_read = read_expression(name, names) == ((name, 1.0),)
        except ConfigError:
            is_read = False
        if other is None and is_read:
            continue
        plain = re.sub(r"[^\w.()/]+", "_", name).strip("_") or "vectors"
        sum_with = "a sum" if other is None else f"a sum with {one_line(other)}"
        raise ConfigError(
            "vectors",
            name,
            rule=f"can't be told from {sum_with} in a mixture, such as 0.5 * a - b",
            why="Vectors are named after their file, or the folder of their run",
            fix=f"Rename it, for example to {plain!r}",
        )


def read_expression(text: str, names: Collection[str]) -> Weights:
    """Reads a weighted sum of vectors, such as `0.5 * a + 0.3 * b - c`.

    Args:
        text: Terms with `+` or `-` between them; each is a name, with a number and `*` before it if
            its weight is not 1.
        names: Names of the vectors.

    Returns:
        Names with their weights, in the order of the text; those of equal names are added. Where
        a text can be read as one name or as a difference of two, such as `a-b`, it is the name;
        `a - b` is the difference.

    Raises:
        ConfigError: If the text is no such sum; the error says at which place.
    """
    if len(text) > LONGEST:
        rule = f"must have at most {LONGEST} characters, not {len(text)}"
        raise ConfigError(KEY, text, rule=rule)
    found: dict[str, float] = {}
    # the longest first, since one name may begin with another
    known = sorted(names, key=len, reverse=True)
    rest = text.strip()
    while True:
        sign = -1.0 if rest.startswith("-") else 1.0
        if rest.startswith(("+", "-")):  # always, except before the first term
            rest = rest[1:].lstrip()
        weight, rest = _weight(rest)
        name = next((x for x in known if _begins_with(rest, x)), None)
        if name is None or not abs(weight) <= LARGEST_WEIGHT:
            raise _refusal(text, rest, names, weight)
        found[name] = found.get(name, 0.0) + sign * weight
        rest = rest[len(name) :].lstrip()
        if not abs(found[name]) <= LARGEST_WEIGHT:
            raise _refusal(text, rest, names, found[name])
        if not rest:
            return tuple(found.items())


def _weight(text: str) -> tuple[float, str]:
    """Returns the weight with which a term begins, and the text behind it."""
    number = NUMBER.match(text)
    if number is None:
        return 1.0, text
    behind = text[number.end() :].lstrip()
    # a name may begin with digits
    return (float(number[0]), behind[1:].lstrip()) if behind[:1] == "*" else (1.0, text)


def _begins_with(text: str, name: str) -> bool:
    """Returns whether a text begins with a whole name, and goes on with a sign if it does."""
    behind = text[len(name) :].lstrip()
    return text.startswith(name) and (not behind or behind[0] in "+-")


def _refusal(text: str, rest: str, names: Collection[str], weight: float) -> ConfigError:
    if not abs(weight) <= LARGEST_WEIGHT:
        rule = f"a weight must be from -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, not {weight:g}"
        return ConfigError(KEY, text, rule=rule)
    place = f"does not go on with the name of vectors at {rest[:40]!r}" if rest else "ends too soon"
    known = ", ".join(names)
    fix = f"Write a sum such as 0.5 * {next(iter(names))}; there are {one_line(known)}"
    return ConfigError(KEY, text, rule=place, fix=fix)


def with_weight(text: str, name: str, weight: float, names: Collection[str]) -> str:
    """Returns a weighted sum in which some vectors have another weight.

    Args:
        text: Weighted sum.
        name: Vectors whose weight changes; with weight 0 they are left out.
        weight: Their new weight.
        names: Names of all vectors.

    Raises:
        ConfigError: If the text is no weighted sum; see `read_expression`.
    """
    found = {**dict(read_expression(text, names)), name: float(weight)}
    acting = tuple((one, by) for one, by in found.items() if by != 0)
    return expression_of(acting or ((name, 0.0),))


def expression_of(weights: Weights) -> str:
    """Returns a weighted sum as text."""
    parts: list[str] = []
    for name, weight in weights:
        number = abs(weight)
        exact = str(int(number)) if number.is_integer() else repr(number)
        size = name if number == 1 else f"{exact} * {name}"
        sign = "-" if math.copysign(1.0, weight) < 0 else "+"
        parts.append(f"{sign} {size}" if parts else f"{'-' if sign == '-' else ''}{size}")
    return " ".join(parts)


def mixed(mixture: Mixture, vectors: Mapping[str, SiteVectors]) -> SiteVectors:
    """Computes `f_l * sum_k w_k v_{k,l}` for each layer l, with weights w and layer factors f.

    Vectors that are not mixed at all are returned as they are, also if they have gates.

    Args:
        mixture: Weights and factors.
        vectors: Vectors by name, all for the same base.

    Raises:
        ConfigError: If the vectors act at different sites or on different tokens, or have gates.
    """
    parts = [vectors[name] for name, _ in mixture.weights]
    if len(parts) == 1 and {mixture.weights[0][1], *mixture.layer_factors} == {1.0}:
        return parts[0]
    first = mixture.weights[0][0]
    plain: list[SteeringVectors] = []
    for (name, _), part in zip(mixture.weights, parts, strict=True):
        if not isinstance(part, SteeringVectors) or part.by_token:
            raise ConfigError(
                KEY,
                mixture.expression,
                rule=f"{name} has gates besides its vectors",
                why="Vectors with gates can't be added, nor have factors for single layers",
                fix="Use it alone, with the scale of all vectors",
            )
        if (part.site, part.tokens) != (parts[0].site, parts[0].tokens):
            raise ConfigError(
                KEY,
                mixture.expression,
                rule=f"{name} acts at {part.site} on {part.tokens} tokens, but {first} at "
                f"{parts[0].site} on {parts[0].tokens} tokens",
                why="Vectors for different sites or tokens can't be added",
            )
        plain.append(part)
    whole = summed(plain, [weight for _, weight in mixture.weights])
    factors = [mixture.layer_factors[layer] for layer in whole.layers]
    rows = whole.vectors * whole.vectors.new_tensor(factors)[:, None]
    return plain_vectors(
        rows,
        whole.layers,
        whole.num_layers,
        whole.metadata,
        site=whole.site,
        tokens=whole.tokens,
    )


def save_mixture(
    path: Path,
    mixture: Mixture,
    scale: float,
    vectors: Mapping[str, SiteVectors],
    base: str,
    revision: str | None = None,
) -> None:
    """Writes a mixture as a file of vectors, whose metadata says under `origin` what it is made of.

    That is the expression, the scale, the layer factors, and of each part the SHA-256 and the step
    of the training, if it is known.

    Args:
        path: File to write.
        mixture: Mixture to write.
        scale: Factor on all vectors.
        vectors: Vectors by name.
        base: Name of the base.
        revision: Revision of the base on the hub.

    Raises:
        ConfigError: As for `mixed`, or if a value is not finite.
    """
    found = mixed(mixture, vectors)
    names = [name for name, _ in mixture.weights]
    origin = {
        "mixture": mixture.expression,
        "scale": scale,
        "layer_factors": list(mixture.layer_factors),
        "sha256": {name: sha256(vectors[name].result().items()) for name in names},
        "step": {name: step for name in names if (step := vectors[name].metadata.get("step"))},
    }
    tensors = {"vectors": found.vectors.detach() * scale} if scale != 1 else found.result()
    if scale != 1 and found.by_token:
        raise ConfigError(
            "scale",
            scale,
            rule=f"{mixture.expression} has gates besides its vectors, so a file can't hold it",
            fix="Save it with scale 1, and set the scale where it is used",
        )
    content = VectorsFile(
        kind=found.saved_as,
        site=found.site,
        tokens=found.tokens,
        layers=found.layers,
        num_layers=found.num_layers,
        width=found.width,
        tensors=tensors,
        metadata={
            "base_model": base,
            "revision": revision,
            "step": None,
            "origin": json.dumps(origin),
            **found.base_facts,
        },
    )
    write_vectors_file(path, content)

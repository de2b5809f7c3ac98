"""Arithmetic on vectors: scale, add, average, select layers, quantise, transplant to another model.

A layer without a vector is treated as a layer with a vector of zeros, which has the same effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import BASE_BITS
from steer_lightning.steering.layer_map import read_layer_map
from steer_lightning.steering.layers import in_layer_order, parse_layers
from steer_lightning.steering.quantisation import (
    FLOAT_BITS,
    MOST_BITS,
    DescriptionLength,
    description_length,
    quantised_rows,
)
from steer_lightning.steering.sites import Site
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.vectors import SteeringVectors

QUANTISED = ("bits", "keep", "description_bits")
"""Facts about quantised vectors, which hold for no other vectors made of them."""


def scaled(vectors: SteeringVectors, factor: float) -> SteeringVectors:
    """Computes `factor * v_l` for each layer.

    Args:
        vectors: Vectors for any base.
        factor: Finite factor; a negative one steers the other way.

    Raises:
        ConfigError: If the factor or the result is not finite.
    """
    if factor != factor or abs(factor) == float("inf"):
        raise ConfigError("scale", factor, rule="must be finite")
    return _made(vectors.vectors * factor, vectors.layers, vectors)


def summed(
    vectors: Sequence[SteeringVectors], weights: Sequence[float] | None = None
) -> SteeringVectors:
    """Computes `sum_k weights_k * v_{k,l}` for each layer that any of the vectors steer.

    The result names a base, its revision and its bits only as far as all vectors name the same.

    Args:
        vectors: One or more sets of vectors, all with the same width and number of decoder layers.
        weights: Factor for each set of vectors; default 1.

    Raises:
        ConfigError: If the shapes differ, or the number of weights is wrong.
    """
    factors = [1.0] * len(vectors) if weights is None else list(weights)
    if len(factors) != len(vectors):
        raise ConfigError("weights", factors, rule=f"must be {len(vectors)}, one for each file")
    first = vectors[0]
    for number, other in enumerate(vectors[1:], start=2):
        _check_same_shape(first, other, number)
    whole = torch.zeros(first.num_layers, first.width)
    for one, factor in zip(vectors, factors, strict=True):
        whole[list(one.layers)] += factor * one.vectors.detach().cpu()
    layers = sorted(set().union(*(one.layers for one in vectors)))
    found = _made(whole[layers], layers, first)
    if len(vectors) > 1:
        found.metadata.pop("step", None)  # the number of training steps does not apply to a sum
    _keep_common_base(found, vectors)
    return found


def _keep_common_base(found: SteeringVectors, vectors: Sequence[SteeringVectors]) -> None:
    """Takes from the metadata of a sum what is not true of the base of every part."""
    if len({one.metadata.get("base_model") or "" for one in vectors}) > 1:
        found.metadata.pop("base_model", None)
        found.metadata.pop("revision", None)  # names a commit of one base only
    if len({one.metadata.get("revision") or "" for one in vectors}) > 1:
        found.metadata.pop("revision", None)
    if any(one.base_facts != vectors[0].base_facts for one in vectors):
        found.metadata.pop(BASE_BITS, None)


def averaged(vectors: Sequence[SteeringVectors]) -> SteeringVectors:
    """Computes the mean of vectors; a layer that some do not steer is averaged with zeros.

    Args:
        vectors: One or more sets of vectors, all with the same width and number of decoder layers.

    Raises:
        ConfigError: If the shapes differ.
    """
    return summed(vectors, [1 / len(vectors)] * len(vectors))


def sliced(vectors: SteeringVectors, layers: str | Sequence[int]) -> SteeringVectors:
    """Keeps the vectors of some layers; the others are no longer steered.

    Args:
        vectors: Vectors for any base.
        layers: `all`, a range that includes both ends, such as `"8-15"`, or a list of 0-based
            indices.

    Raises:
        ConfigError: If a layer has no vector.
    """
    chosen = parse_layers(layers, vectors.num_layers, key="layers")
    strangers = sorted(set(chosen) - set(vectors.layers))
    if strangers:
        raise ConfigError(
            "layers",
            layers,
            rule=f"layers {', '.join(map(str, strangers))} have no vector",
            why=f"The file has vectors for the layers {', '.join(map(str, vectors.layers))}",
        )
    rows = [vectors.layers.index(layer) for layer in chosen]
    return _made(vectors.vectors[rows], chosen, vectors)


def quantised(vectors: SteeringVectors, bits: int, keep: float = 1.0) -> SteeringVectors:
    """Rounds the vectors to few bits, and sets all but the largest numbers of each layer to 0.

    The result is dequantised: plain float32 vectors. Their `metadata` has `bits`, `keep` and
    `description_bits`, the length of the description from which they can be read back; see
    `steer_lightning.steering.quantisation`, which has the formulas.

    Args:
        vectors: Vectors for any base.
        bits: Bits of each number that is kept: 1 to 16, or 32 for the float32 numbers themselves.
        keep: Share of each layer's numbers to keep, above 0 and at most 1.

    Raises:
        ConfigError: If `bits` or `keep` is out of range.
    """
    if bits != FLOAT_BITS and not 1 <= bits <= MOST_BITS:
        rule = f"must be from 1 to {MOST_BITS}, or {FLOAT_BITS}"
        raise ConfigError("bits", bits, rule=rule, why=f"{FLOAT_BITS} keeps the numbers in float32")
    if not 0 < keep <= 1:
        raise ConfigError(
            "keep",
            keep,
            rule="must be above 0 and at most 1",
            why="It is the share of each layer's numbers that are kept",
            fix="To leave out whole layers, use the verb slice",
        )
    rows = quantised_rows(vectors.vectors.detach(), bits, keep)
    found = _made(rows, vectors.layers, vectors)
    told = (bits, keep, description_of(vectors, bits, keep).total)
    found.metadata |= {key: str(value) for key, value in zip(QUANTISED, told, strict=True)}
    return found


def description_of(vectors: SteeringVectors, bits: int, keep: float) -> DescriptionLength:
    """Returns how many bits describe vectors once they are quantised.

    Args:
        vectors: Vectors for any base.
        bits: Bits of each number that is kept.
        keep: Share of each layer's numbers that are kept.
    """
    return description_length(
        num_decoder_layers=vectors.num_layers,
        num_layers=len(vectors.layers),
        width=vectors.width,
        bits=bits,
        keep=keep,
    )


def transplanted(
    vectors: SteeringVectors,
    base: str,
    num_layers: int,
    width: int,
    revision: str | None = None,
    layer_map: str | None = None,
) -> SteeringVectors:
    """Returns the same vectors for another model of the same family.

    Vectors keep their numbers, which are at the scale of the stream. So they fit as they are where
    the other model's stream has the same size at the layers to which they move. The bits of a
    quantised base are left out, since they are no fact about the other model.

    Args:
        vectors: Vectors for any base.
        base: Hub id or folder of the other model.
        num_layers: Number of the other model's decoder layers.
        width: Width of the other model's stream.
        revision: Revision of the other model on the hub.
        layer_map: Layer whose vector each layer of the other model takes, such as `0,1,2,2,3`; see
            `steer_lightning.steering.layer_map`. A layer that is not steered gives no vector, and
            a vector whose layer the map does not name is left out. None is for equal depths.

    Raises:
        ConfigError: If the other model has another width, another number of layers than the
            vectors or the map, or if the map leaves no vector.
    """
    trained = vectors.metadata.get("base_model") or "another model"
    if width != vectors.width:
        raise ConfigError(
            "base",
            base,
            rule=f"has width {width}, but these vectors have width {vectors.width}",
            why=f"They were trained on {trained}; vectors of another width are not directions in "
            "this stream",
            fix="Transplant within a family and size, such as from a base model to its chat model",
        )
    if layer_map is not None:
        found = _moved(vectors, layer_map, num_layers)
    elif num_layers == vectors.num_layers:
        found = _made(vectors.vectors, vectors.layers, vectors)
    else:
        raise ConfigError(
            "base",
            base,
            rule=f"has {num_layers} decoder layers, but these vectors are for {vectors.num_layers}",
            why=f"They were trained on {trained}. With another depth, layer k does not "
            "correspond to a particular layer of the other model, so there is nowhere to put "
            "its vector",
            fix="Transplant within a family and size, such as from a base model to its chat model, "
            "or set map to the layer whose vector each layer of the base takes, such as 0,1,2,2,3",
        )
    found.metadata |= {"base_model": base, "revision": revision or ""}
    found.metadata.pop(BASE_BITS, None)
    return found


def _moved(vectors: SteeringVectors, layer_map: str, num_layers: int) -> SteeringVectors:
    """Returns vectors for a model of another depth."""
    places = read_layer_map(layer_map, vectors.num_layers, num_layers)
    rows = {layer: row for row, layer in enumerate(vectors.layers)}
    taken = {layer: rows[old] for layer, old in enumerate(places) if old in rows}
    if not taken:
        shown = ", ".join(map(str, vectors.layers))
        rule = "leaves no vector"
        raise ConfigError("map", layer_map, rule=rule, why=f"Only layers {shown} have one")
    return _made(vectors.vectors[list(taken.values())], list(taken), vectors, num_layers)


def _check_same_shape(first: SteeringVectors, other: SteeringVectors, number: int) -> None:
    shapes = [(x.num_layers, x.width) for x in (first, other)]
    if shapes[0] != shapes[1]:
        bases = [x.metadata.get("base_model") or "?" for x in (first, other)]
        raise ConfigError(
            "files",
            f"file {number}",
            rule=f"is for {shapes[1][0]} decoder layers of width {shapes[1][1]}, but the first "
            f"file is for {shapes[0][0]} of width {shapes[0][1]}",
            why=f"The files were trained on {bases[1]} and {bases[0]}",
            fix="Use vectors of one model, or of models of the same family and size",
        )
    places = [(x.site, x.tokens) for x in (first, other)]
    if places[0] != places[1]:
        raise ConfigError(
            "files",
            f"file {number}",
            rule=f"is added at {places[1][0]} for {places[1][1]} tokens, but the first file at "
            f"{places[0][0]} for {places[0][1]} tokens",
            why="Vectors for different sites or tokens can't be added",
        )


def plain_vectors(
    rows: torch.Tensor,
    layers: Sequence[int],
    num_layers: int,
    metadata: Mapping[str, str] | None = None,
    site: Site = "layer_output",
    tokens: Tokens = "all",
) -> SteeringVectors:
    """Makes frozen vectors from given numbers.

    Args:
        rows: Vectors (L, D), at the scale of the stream.
        layers: 0-based indices of the L layers to which the rows belong, in any order.
        num_layers: Number of decoder layers of the model.
        metadata: Facts about the vectors, as in a file.
        site: Place at which the vectors are added.
        tokens: Tokens that the vectors steer.
    """
    rows, layers = in_layer_order(rows.detach(), layers, num_layers)
    found = SteeringVectors(list(layers), site=site, tokens=tokens)
    found.shaped(rows.shape[1], num_layers).set_vectors(rows)
    found.metadata = dict(metadata or {})
    found.requires_grad_(False)
    return found


def _made(
    tensor: torch.Tensor,
    layers: Sequence[int],
    like: SteeringVectors,
    num_layers: int | None = None,
) -> SteeringVectors:
    """Makes vectors from rows (L, D), with site, metadata and, by default, depth of others."""
    if like.saved_as != SteeringVectors.__name__:
        raise ConfigError(
            "vectors",
            like.saved_as,
            rule="is not supported by vector arithmetic",
            why="These vectors also have gates",
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigError("vectors", "NaN or infinity", rule="the result must be finite")
    facts = {key: text for key, text in like.metadata.items() if key not in QUANTISED}
    facts |= like.base_facts  # vectors that were just trained do not have them in their metadata
    return plain_vectors(
        tensor,
        layers,
        num_layers or like.num_layers,
        facts,
        site=like.site,
        tokens=like.tokens,
    )

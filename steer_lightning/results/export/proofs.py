"""The proof that an export, read back, computes the same as the steered base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steer_lightning.errors import ConfigError
from steer_lightning.model.hub import hub_errors
from steer_lightning.results.export.base import Base, weight_files
from steer_lightning.results.export.compare import (
    Difference,
    Probe,
    continue_greedily,
    difference,
    logits_of,
    make_probe,
    read_differently,
)
from steer_lightning.results.export.merged import down_bias, read_tensor
from steer_lightning.results.export.peft_adapter import load_adapter
from steer_lightning.results.export.streamed import open_streamed
from steer_lightning.steering import SteeringVectors
from steer_lightning.steering.arithmetic import plain_vectors, sliced

Open = Callable[[torch.dtype], Any]


@dataclass
class Findings:
    """The findings of a comparison.

    Attributes:
        lines: Findings as lines of text.
        facts: The same findings as JSON values.
    """

    lines: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, found: Difference, line: str) -> None:
        """Adds a difference and the line that describes it."""
        self.facts[name] = found.facts()
        self.lines.append(line)


def compare_merged(base: Base, vectors: SteeringVectors, folder: Path) -> Findings:
    """Compares a merged checkpoint with the steered base, with one layer in memory at a time.

    Args:
        base: Base model.
        vectors: Vectors in the scale of the stream.
        folder: Folder of the checkpoint.

    Raises:
        ConfigError: If the two differ by more than rounding.
    """
    tokenizer = base.tokenizer()
    differing = read_differently(tokenizer, folder)
    if differing is not None:
        raise _differs(f"its tokenizer splits {differing!r} into other tokens than the base's")
    with hub_errors(base.name, "merge_from"):
        before, after = weight_files(base.folder), weight_files(folder)
    stored = read_tensor(after, down_bias(vectors.layers[0])).dtype

    def merged_vectors() -> SteeringVectors:
        """Returns the vectors that the checkpoint's biases add, with their rounding."""
        rows = []
        for layer in vectors.layers:
            row = read_tensor(after, down_bias(layer)).float()
            own = down_bias(layer) in before
            rows.append(row - read_tensor(before, down_bias(layer)).float() if own else row)
        return plain_vectors(torch.stack(rows), vectors.layers, vectors.num_layers)

    return _compare_models(
        probe=make_probe(tokenizer),
        reference=lambda dtype: open_streamed(base.folder, dtype),
        candidate=lambda dtype: open_streamed(folder, dtype),
        vectors=vectors,
        rounded=merged_vectors(),
        stored=stored,
    )


def compare_adapter(base: Base, vectors: SteeringVectors, folder: Path) -> Findings:
    """Compares a PEFT adapter, loaded by PEFT, with the steered base.

    Args:
        base: Base model.
        vectors: Vectors in the scale of the stream.
        folder: Folder of the adapter.

    Raises:
        ConfigError: If the two differ by more than rounding.
    """
    return _compare_models(
        probe=make_probe(base.tokenizer()),
        reference=base.load,
        candidate=lambda dtype: load_adapter(base.load(dtype), folder),
        vectors=vectors,
        rounded=vectors,
        stored=base.dtype,
    )


def _compare_models(
    *,
    probe: Probe,
    reference: Open,
    candidate: Open,
    vectors: SteeringVectors,
    rounded: SteeringVectors,
    stored: torch.dtype,
) -> Findings:
    """Compares two models in float32, where only the order of sums may differ, and as stored.

    Args:
        probe: Texts on which to compare.
        reference: Function that opens the base; no model is kept while the other one runs.
        candidate: Function that opens the export.
        vectors: Vectors that steer the base.
        rounded: Vectors as the export contains them.
        stored: Dtype of the export's weights.
    """
    found = Findings()
    model = reference(torch.float32)
    plain = logits_of(model, probe)
    with vectors.attach(model):
        probe, steered = continue_greedily(model, probe)
    exact = steered
    if not torch.equal(rounded.vectors, vectors.vectors):
        with rounded.attach(model):
            exact = logits_of(model, probe)
    del model
    theirs = logits_of(candidate(torch.float32), probe)
    effect = difference(steered, plain, probe)
    _require_same(difference(exact, theirs, probe), effect)
    in_float32 = difference(steered, theirs, probe)
    found.add("float32", in_float32, f"float32: {_told(in_float32)}")
    if exact is not steered:
        merge = difference(exact, theirs, probe)
        what = f"  vectors rounded to {_name(stored)} on both sides: {merge.largest:.2g}"
        found.add("float32_same_rounding", merge, what)
    if stored != torch.float32:
        _compare_stored(found, probe, reference, candidate, vectors, stored)
    moved = f"the vectors themselves move logits by up to {effect.largest:.3g}, "
    found.add("base", effect, f"for scale: {moved}next-token KL {effect.kl:.2g} nats")
    return found


def _compare_stored(
    found: Findings,
    probe: Probe,
    reference: Open,
    candidate: Open,
    vectors: SteeringVectors,
    stored: torch.dtype,
) -> None:
    """Adds the comparison in the dtype of the weights, which is what users will see."""
    model = reference(stored)
    with vectors.attach(model):
        probe, steered = continue_greedily(model, probe)
    del model
    own = difference(steered, logits_of(candidate(stored), probe), probe)
    kl = f"next-token KL {own.kl:.2g} nats"
    found.add(_name(stored), own, f"{_name(stored)}: {_told(own)}, {kl}")


def compare_vectors(base: Base, vectors: SteeringVectors, read: SteeringVectors) -> Findings:
    """Compares vectors that were read back with those that should have been written.

    Args:
        base: Base model, which is loaded to measure the effect of the vectors.
        vectors: Vectors in the scale of the stream.
        read: Vectors read from the export, which may lack some layers.

    Raises:
        ConfigError: If the vectors of a layer that was read are not the same.
    """
    check_read(vectors, read)
    found = Findings()
    probe, model = make_probe(base.tokenizer()), base.load(torch.float32)
    plain = logits_of(model, probe)
    with vectors.attach(model):
        probe, steered = continue_greedily(model, probe)
    with read.attach(model):
        theirs = logits_of(model, probe)
    ours, effect = difference(steered, theirs, probe), difference(steered, plain, probe)
    found.add("float32", ours, f"float32: {_told(ours)}")
    left_out = sorted(set(vectors.layers) - set(read.layers))
    if left_out:
        names = ", ".join(map(str, left_out))
        found.facts["layers_left_out"] = left_out
        cost = f"next-token KL {ours.kl:.2g} nats, at most {ours.largest_kl:.2g}"
        found.lines.append(f"  this is the effect of leaving out layer {names}: {cost}")
    scale = f"without any vector: next-token KL {effect.kl:.2g} nats, at most"
    found.add("base", effect, f"for scale, {scale} {effect.largest_kl:.2g}")
    return found


def check_read(vectors: SteeringVectors, read: SteeringVectors) -> None:
    """Raises a ConfigError if vectors that were read back are not the same, bit for bit.

    Args:
        vectors: Vectors in the scale of the stream.
        read: Vectors read from the export, which may lack some layers.
    """
    if not torch.equal(sliced(vectors, read.layers).vectors, read.vectors):
        raise _differs("the vectors read back are not those that were written")


def _require_same(found: Difference, effect: Difference) -> None:
    if not found.same:
        raise _differs(
            f"logits differ by up to {found.largest:.2g} in float32, while the vectors change them "
            f"by up to {effect.largest:.2g}"
        )


def _differs(rule: str) -> ConfigError:
    return ConfigError(
        "to",
        rule,
        rule="the export is not the same as the steered base, and was not kept",
        fix="Please report it, with the base's config.json and the versions of the libraries",
    )


def _told(found: Difference) -> str:
    of = f"of logits up to {found.logits:.1f}"
    return f"largest logit difference {found.largest:.2g} {of}; {found.greedy}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

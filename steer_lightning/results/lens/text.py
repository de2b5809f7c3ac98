"""The tables that the lens prints on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steer_lightning.system.printable import aligned, one_line, quoted

MAX_COLUMNS = 16
"""Largest number of columns in a matrix of cosines; wider ones are only in the file and picture."""
NEXT_TOKENS = 3
"""Number of tokens shown of what an MLP makes of a vector, in each direction."""
LEAST_POINTS = 0.01
"""Smallest change of a token's probability to show, in percentage points."""


def as_text(found: dict[str, Any]) -> str:
    """Formats the tables for one file of vectors.

    Args:
        found: Content of `lens.json`, from `describe`.
    """
    layers, step = found["layers"], found["step"]
    noun = "vector" if len(layers) == 1 else "vectors"
    of = f"of {found['num_layers']} decoder layers"
    head = f"{len(layers)} {noun} of width {found['width']}, {of}"
    head += "" if found["site"] == "layer_output" else f", at {found['site']}"
    head += "" if found["tokens"] == "all" else f", only for {found['tokens']} tokens"
    head += "" if step is None else f", after step {step}"
    blocks = [f"{one_line(found['base_model'])}: {head}", _sizes(layers), _directions(found)]
    behind = ", after the final norm" if found["final_norm"] else ""
    for end, name in (("top", "top tokens"), ("bottom", "bottom tokens")):
        for kind in ("dot", "cosine"):
            blocks.append(_tokens(f"{name} by {kind}{behind}", layers, end, kind))
    if found["first_token"] is not None:
        blocks.append(_first_token(found["first_token"]))
    if found["inside"] is not None:
        blocks += [_alone(found["inside"]), _together(found["inside"])]
    return "\n\n".join(blocks)


def _sizes(layers: Sequence[dict[str, Any]]) -> str:
    rows = [["layer", "norm"]]
    rows += [[str(layer["layer"]), f"{layer['norm']:#.4g}"] for layer in layers]
    if layers[0]["stream_rms"] is not None:
        rows[0] += ["stream (rms)", "norm / stream"]
        for row, layer in zip(rows[1:], layers, strict=True):
            relative = layer["norm_over_stream"]
            shown = "-" if relative is None else f"{100 * relative:.3g} %"
            row += [f"{layer['stream_rms']:#.4g}", shown]
    return aligned(rows, right=range(4))


def _directions(found: dict[str, Any]) -> str:
    values = "  ".join(f"{value:#.4g}" for value in found["singular_values"])
    told = f"stable rank {found['stable_rank']:.2f}; singular values  {values}"
    names = [str(layer["layer"]) for layer in found["layers"]]
    if not 1 < len(names) <= MAX_COLUMNS:
        return told
    return f"{told}\n\n{_matrix(names, names, found['cosines'])}"


def between_as_text(pair: dict[str, Any]) -> str:
    """Formats the cosines between the vectors of two files.

    Args:
        pair: Pair of files, from `between.json`.
    """
    title = f"{one_line(pair['a'])} (rows) and {one_line(pair['b'])} (columns)"
    ours, theirs = pair["layers_a"], pair["layers_b"]
    if max(len(ours), len(theirs)) <= MAX_COLUMNS:
        return f"{title}\n{_matrix(list(map(str, ours)), list(map(str, theirs)), pair['cosines'])}"
    rows = [["layer", "cosine"]]
    for layer, line in zip(ours, pair["cosines"], strict=True):
        if layer in theirs:
            rows.append([str(layer), f"{line[theirs.index(layer)]:.2f}"])
    return f"{title}, the same layers\n{aligned(rows, right=(0, 1))}"


def _matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    lines = [["cosine", *columns]]
    for name, line in zip(rows, values, strict=True):
        lines.append([name, *(f"{value:.2f}" for value in line)])
    return aligned(lines, right=range(1 + len(columns)))


def _tokens(title: str, layers: Sequence[dict[str, Any]], end: str, kind: str) -> str:
    rows = []
    for layer in layers:
        scores = " ".join(quoted(token) for token, _ in layer[end][kind])
        rows.append([str(layer["layer"]), scores or "none: it is zero"])
    return f"{title}\n{aligned(rows, right=(0,))}"


def _first_token(found: dict[str, Any]) -> str:
    rows = [["first token", "base %", "steered %", "change"]]
    for token, *shares in (*found["up"], *reversed(found["down"])):
        base, steered = (100 * share for share in shares)
        if abs(steered - base) >= LEAST_POINTS:
            rows.append([quoted(token), f"{base:.2f}", f"{steered:.2f}", f"{steered - base:+.2f}"])
    title = f"mean over {found['num_prompts']} prompts; KL(steered || base) {found['kl']:.3g} nats"
    if len(rows) == 1:
        return f"{title}\nno first token gains or loses {LEAST_POINTS} percentage points"
    return f"{title}\n{aligned(rows, right=(1, 2, 3))}"


def _alone(found: dict[str, Any]) -> str:
    """Formats what the next attention and the next MLP make of each vector: a line for each."""
    rows = [["vector", "attention", "moved", "most in", "to first", "to digits"]]
    rows[0] += ["MLP", "change", "along", "cosine", "towards", "away from"]
    for row in found["alone"]:
        attention, mlp = row["attention"], row["mlp"]
        cells = [f"{row['layer']}", *["-"] * 5]
        if attention is not None:
            shares = attention["variation"]
            most = max(range(len(shares)), key=shares.__getitem__)
            to = [f"{100 * _mean(attention['moved'][name]):+.1f} %" for name in ("first", "digits")]
            moved = f"{100 * _mean(shares):.1f} %"
            cells[1:] = [str(attention["layer"]), moved, f"head {most}", *to]
        if mlp is None:
            rows.append([*cells, *["-"] * 6])
            continue
        against = ("-" if mlp[x] is None else f"{mlp[x]:+.2f}" for x in ("along", "cosine"))
        tokens = (
            " ".join(quoted(token) for token, _ in mlp[end]["cosine"][:NEXT_TOKENS])
            for end in ("top", "bottom")
        )
        change = f"{100 * mlp['relative']:.1f} %"
        rows.append([*cells, str(mlp["layer"]), change, *against, *tokens])
    noun = "text" if found["num_texts"] == 1 else "texts"
    size = f"{found['num_tokens']} tokens of {found['num_texts']} {noun}"
    title = f"each vector alone, in the next attention and the next MLP ({size})"
    return f"{title}\n{aligned(rows, right=range(10))}"


def _together(found: dict[str, Any]) -> str:
    """Formats what all vectors together change: a line for each layer."""
    attention = {row["layer"]: _mean(row["variation"]) for row in found["together"]["attention"]}
    mlp = {row["layer"]: row["relative"] for row in found["together"]["mlp"]}
    rows = [["layer", "attention moved", "MLP changed"]]
    for layer in sorted({*attention, *mlp}):
        shares = (known.get(layer) for known in (attention, mlp))
        rows.append([f"{layer}", *("-" if x is None else f"{100 * x:.1f} %" for x in shares)])
    lines = [f"all vectors together\n{aligned(rows, right=range(3))}"]
    for key, name in (("without_attention", "attention"), ("without_mlp", "MLP")):
        if found[key]:
            lines.append(f"layers whose {name} can't be seen: {', '.join(map(str, found[key]))}")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

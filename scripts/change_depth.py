"""Makes a base with layers repeated, predicted or left out, in a folder that `model.base` takes.

    python scripts/change_depth.py quickstart models/quickstart-5 --map 0,1,2,2,3
    python scripts/change_depth.py quickstart models/quickstart-predicted --map 0,1,2,+,3
    python scripts/change_depth.py quickstart models/quickstart-3 --map 0,1,3

The map has an entry for each layer of the new model: a layer of the old one, which is copied with
all its weights, or `+`, a layer predicted from its neighbours as in LESA (arXiv 2502.13794). These
must be adjacent layers of the old model. `vectors transplant --map` gives the new model the vectors
of the old one, with `-` in place of `+`.

LESA predicts each weight matrix on its own. With the matrices W_i of the L layers side by side and

    [W_1 ... W_L] = U S [V_1 ... V_L],

a small network G learns V_i = G(V_{i-1}, V_{i+1}), row by row, from all layers that have two
neighbours. The new layer between i and i + 1 has W = U S G(V_i, V_{i+1}). Its norms and biases are
copies of layer i's. G, its loss, (1 - 0.0005) of the mean squared error of the entries and 0.0005
of that of their norms, and its optimizer are those of the authors' code.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_lightning.model.hub import resolve_base
from steer_lightning.steering.layers import find_layers
from steer_lightning.system.whole_files import folder_written_aside

PREDICTED = "+"
NORM_SHARE = 0.0005
HIDDEN, RATE, ROWS = 256, 1e-3, 64

Weights = dict[str, torch.Tensor]


def read_map(text: str, depth: int) -> list[int | None]:
    """Reads the map; None stands for a predicted layer.

    Raises:
        SystemExit: If an entry is no layer, or a predicted layer has no two adjacent neighbours.
    """
    entries = [entry.strip() for entry in text.split(",")]
    places: list[int | None] = []
    for entry in entries:
        if entry != PREDICTED and not (entry.isdecimal() and int(entry) < depth):
            raise SystemExit(f"{entry!r} is neither a layer from 0 to {depth - 1} nor '+'")
        places.append(None if entry == PREDICTED else int(entry))
    for k, place in enumerate(places):
        if place is None:
            around = [places[j] if 0 <= j < len(places) else None for j in (k - 1, k + 1)]
            before, behind = around
            if before is None or behind != before + 1:
                raise SystemExit(f"entry {k} of the map, '+', must stand between layers i and i+1")
    return places


def predictor(width: int) -> nn.Module:
    """G: a network of three linear layers, from both neighbours' rows to the row between them."""
    return nn.Sequential(
        nn.Linear(2 * width, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, width),
    )


def predict(
    matrices: Sequence[torch.Tensor], gaps: Sequence[int], epochs: int
) -> tuple[list[torch.Tensor], float]:
    """Predicts the matrices of layers between others.

    Args:
        matrices: Matrix (out, in) of each of at least three layers, float32.
        gaps: Layers i, each of which is followed by a layer to predict, and then by i + 1.
        epochs: Number of times that G sees each row.

    Returns:
        Matrix (out, in) for each gap, and the share of the coefficients' variance about their mean
        that G leaves in the layers from which it has learned.
    """
    across, sizes, joined = torch.linalg.svd(torch.cat(list(matrices), dim=1), full_matrices=False)
    parts = joined.split(matrices[0].shape[1], dim=1)
    before, target, behind = (torch.cat(parts[k : len(parts) - 2 + k]) for k in range(3))
    given = torch.cat([before, behind], dim=1)
    network = predictor(target.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    for _ in range(epochs):
        for rows in torch.randperm(len(given)).split(ROWS):
            guess, right = network(given[rows]), target[rows]
            norms = (guess.norm() - right.norm()) ** 2
            loss = (1 - NORM_SHARE) * nn.functional.mse_loss(guess, right) + NORM_SHARE * norms
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        left = (network(given) - target).square().mean() / target.var(correction=0)
        between = [network(torch.cat([parts[i], parts[i + 1]], dim=1)) for i in gaps]
        return [(across * sizes) @ one for one in between], float(left)


def new_layers(
    layers: Sequence[Mapping[str, torch.Tensor]], places: Sequence[int | None], epochs: int
) -> list[Weights]:
    """Returns the weights of each new layer.

    Args:
        layers: Weights of each old layer, by their names within it.
        places: Old layer of each new one; None predicts it.
        epochs: Number of times that each G sees each row.
    """
    found = [
        dict(layers[place if place is not None else places[k - 1] or 0])
        for k, place in enumerate(places)
    ]
    new = [k for k, place in enumerate(places) if place is None]
    if not new:
        return found
    if len(layers) < 3:
        raise SystemExit("a layer can be predicted only for a model with at least 3 layers")
    for name in [name for name, weight in layers[0].items() if weight.dim() == 2]:
        matrices = [weights[name].float() for weights in layers]
        gaps = [places[k - 1] or 0 for k in new]
        made, left = predict(matrices, gaps, epochs)
        size = sum(float(matrix.norm()) for matrix in matrices) / len(matrices)
        for k, matrix in zip(new, made, strict=True):
            found[k][name] = matrix.to(layers[0][name].dtype)
            share = float(matrix.norm()) / size
            print(f"layer {k} {name}: norm {share:.2f} of the others' mean; {left:.0%} unexplained")
    return found


def changed(model: nn.Module, places: Sequence[int | None], epochs: int) -> nn.Module:
    """Makes the model with other layers."""
    stack = find_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is stack) + "."
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.num_hidden_layers = len(places)
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:  # a predicted layer is of the kind of the layer before it
        text.layer_types = [
            kinds[place if place is not None else places[k - 1] or 0]
            for k, place in enumerate(places)
        ]
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(prefix)}
    old = [layer.state_dict() for layer in stack]
    for k, layer in enumerate(new_layers(old, places, epochs)):
        weights |= {f"{prefix}{k}.{name}": weight for name, weight in layer.items()}
    found = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    found.load_state_dict(weights)
    # a configuration of the model tells only some of it: a list of EOS tokens may be lost
    found.generation_config = copy.deepcopy(model.generation_config)
    return found.eval()


def main() -> None:
    """Loads, changes and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="hub id, local folder or `quickstart`")
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--map", required=True, help="layers of the new model, such as 0,1,2,2,3")
    parser.add_argument("--epochs", type=int, default=10, help="of the predictor, for `+`")
    parser.add_argument("--seed", type=int, default=0, help="of the predictor, for `+`")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    path = resolve_base(options.base, "base")
    model = AutoModelForCausalLM.from_pretrained(path)
    places = read_map(options.map, len(find_layers(model)))
    model = changed(model, places, options.epochs)
    with folder_written_aside(options.output) as aside:
        model.save_pretrained(aside)
        AutoTokenizer.from_pretrained(path).save_pretrained(aside)
    print(f"{len(places)} layers in {options.output}")


if __name__ == "__main__":
    main()

"""What the lens has found, made up."""

from __future__ import annotations

from typing import Any


def description(**changes: object) -> dict[str, object]:
    lists = {"dot": [["\x1b[2J", 2.0], [" $a$", 1.0]], "cosine": [["\n日", 0.5]]}
    layer = {"norm": 12.0, "stream_rms": 3.0, "norm_over_stream": 0.25, "top": lists}
    layer = {"layer": 4, **layer, "bottom": {"dot": [], "cosine": []}}
    up, down = [["$x$", 0.25, 0.75]], [["日", 0.5, 0.125], ["b", 0.5, 0.49999]]
    first = {"num_prompts": 2, "kl": 0.5, "up": up, "down": down}
    fixed = {"base_model": "b", "step": 3, "width": 8, "num_layers": 9, "final_norm": True}
    fixed |= {"site": "layer_output", "tokens": "all"}
    own = {"layers": [layer], "cosines": [[1.0]], "singular_values": [12.0], "stable_rank": 1.0}
    return {**fixed, **own, "first_token": first, "inside": None, **changes}


def inside() -> dict[str, Any]:
    """What `look_inside` returns: two vectors, of which the second has nothing behind it."""
    moved = {"first": [0.25, -0.125], "previous": [0.0] * 2, "own": [0.0] * 2}
    attention = {
        "layer": 5,
        "variation": [0.25, 0.5],
        "moved": {**moved, "digits": [-0.5, 0.0], "operators": [0.0] * 2},
    }
    lists = {
        "top": {"dot": [[" $a$", 1.0]], "cosine": [["\x1b", 0.5], ["b", 0.25]]},
        "bottom": {"dot": [], "cosine": [["c", -0.5]]},
    }
    mlp = {"layer": 6, "relative": 0.125, "size": 1.5, "along": -0.75, "cosine": -0.5, **lists}
    return {
        "num_texts": 2,
        "num_tokens": 30,
        "without_attention": [3],
        "without_mlp": [],
        "alone": [
            {"layer": 4, "attention": attention, "mlp": mlp},
            {"layer": 8, "attention": None, "mlp": None},
        ],
        "together": {
            "attention": [attention],
            "mlp": [{"layer": 5, "relative": 0.0}, {"layer": 6, "relative": 0.125}],
        },
    }

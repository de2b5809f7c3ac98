"""What the lens has found, made up."""

from __future__ import annotations


def description(**changes: object) -> dict[str, object]:
    lists = {"dot": [["\x1b[2J", 2.0], [" $a$", 1.0]], "cosine": [["\n日", 0.5]]}
    layer = {"norm": 12.0, "stream_rms": 3.0, "norm_over_stream": 0.25, "top": lists}
    layer = {"layer": 4, **layer, "bottom": {"dot": [], "cosine": []}}
    up, down = [["$x$", 0.25, 0.75]], [["日", 0.5, 0.125], ["b", 0.5, 0.49999]]
    first = {"num_prompts": 2, "kl": 0.5, "up": up, "down": down}
    fixed = {"base_model": "b", "step": 3, "width": 8, "num_layers": 9, "final_norm": True}
    fixed |= {"site": "layer_output", "tokens": "all"}
    own = {"layers": [layer], "cosines": [[1.0]], "singular_values": [12.0], "stable_rank": 1.0}
    return {**fixed, **own, "first_token": first, **changes}

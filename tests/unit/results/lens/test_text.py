"""What the lens shows on the console."""

from __future__ import annotations

from steer_lightning.results.lens.text import as_text, between_as_text
from tests.unit.results.lens.helpers import description, inside


def test_the_tables_are_aligned_and_printable() -> None:
    text = as_text(description())
    assert text.splitlines()[0] == "b: 1 vector of width 8, of 9 decoder layers, after step 3"
    elsewhere = as_text(description(site="mlp_output", tokens="prompt"))
    assert "9 decoder layers, at mlp_output, only for prompt tokens, after step 3" in elsewhere
    assert "layer   norm  stream (rms)  norm / stream" in text
    assert "    4  12.00         3.000           25 %" in text
    assert 'top tokens by dot, after the final norm\n4  "\\x1b[2J" " $a$"' in text
    assert '"\\n日"' in text
    assert "none: it is zero" in text
    assert '"$x$"         25.00      75.00  +50.00' in text
    assert '"日"' in text
    assert '"b"' not in text, "less than 0.01 points"
    assert "\x1b" not in text
    still = {"num_prompts": 1, "kl": 0.0, "up": [], "down": []}
    assert "no first token gains" in as_text(description(first_token=still))
    assert "mean over" not in as_text(description(first_token=None))


def test_two_files_side_by_side() -> None:
    pair = {"a": "one", "b": "two", "layers_a": [0, 3], "layers_b": [3]}
    pair["cosines"] = [[0.5], [-1.0]]
    assert between_as_text(pair).splitlines()[1:] == [
        "cosine      3",
        "     0   0.50",
        "     3  -1.00",
    ]
    many = list(range(17))
    wide = {"a": "one", "b": "two", "layers_a": many, "layers_b": many[5:]}
    wide["cosines"] = [[k / 100 + i for i in range(12)] for k in many]
    assert between_as_text(wide).splitlines()[2:4] == ["    5    0.05", "    6    1.06"]


def test_what_comes_behind_the_vectors() -> None:
    assert "next attention" not in as_text(description())
    text = as_text(description(inside=inside()))
    alone, together = text.split("\n\n")[-2:]
    lines = alone.splitlines()
    assert lines[0].endswith("in the next attention and the next MLP (30 tokens of 2 texts)")
    cells = ["4", "5", "37.5 %", "head 1", "+6.2 %", "-25.0 %", "6", "12.5 %", "-0.75", "-0.50"]
    for cell in (*cells, '"\\x1b" "b"', '"c"'):
        assert cell in lines[2]
    assert lines[3].split() == ["8", *["-"] * 11]
    assert together.splitlines() == [
        "all vectors together",
        "layer  attention moved  MLP changed",
        "    5           37.5 %        0.0 %",
        "    6                -       12.5 %",
        "layers whose attention can't be seen: 3",
    ]
    elsewhere = inside()
    elsewhere["alone"][0]["mlp"] |= {"along": None, "cosine": None}
    assert " 12.5 %      -       -  " in as_text(description(inside=elsewhere))

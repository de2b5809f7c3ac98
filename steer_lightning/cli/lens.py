"""The command `lens`, which shows which tokens vectors push, and how far."""

from __future__ import annotations

from collections.abc import Sequence

from steer_lightning.cli.options import read_options
from steer_lightning.results.lens.job import Lens
from steer_lightning.results.lens.text import as_text, between_as_text
from steer_lightning.results.report import draw_between, draw_inside, draw_lens, drawn
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import BETWEEN, LENS


def run(words: Sequence[str]) -> None:
    """Runs `lens`.

    Args:
        words: The command and its options.

    Raises:
        ConfigError: For any mistake in the options.
    """
    options = read_options(
        words[1:],
        Lens,
        prog="steer-lightning lens",
        description="Shows which tokens vectors push, how long vectors are, and how they compare.",
    )
    lens = Lens(**options)
    found = lens.run()
    for name, description in found.items():
        folder = lens.folders[name]
        title = f"{one_line(name)}\n\n" if len(found) > 1 else ""
        print(f"\n{title}{as_text(description)}\n")
        print(f"numbers: {one_line(folder / LENS)}")
        print(f"picture: {one_line(drawn(draw_lens, folder))}")
        if description["inside"] is not None:
            print(f"inside:  {one_line(drawn(draw_inside, folder))}")
    if len(found) > 1:
        for pair in lens.pairs():
            print(f"\n{between_as_text(pair)}\n")
        print(f"numbers: {one_line(lens.folder / BETWEEN)}")
        print(f"picture: {one_line(drawn(draw_between, lens.folder))}")

"""Draws docs/images/rooms.svg: the rooms of the package on their storeys, and who imports whom.

    python scripts/draw_rooms.py

The arrows and numbers are read from the imports of the package's files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "steer_lightning"
PICTURE = ROOT / "docs/images/rooms.svg"

STOREYS: tuple[dict[str, float], ...] = (
    {"types": 1.25, "errors": 4.75},
    {"system": 3, "serving": 5},
    {"optim": 0, "losses": 1, "advantages": 2, "steering": 3.5, "rewards": 5, "data": 6},
    {"model": 3.5},
    {"rollout": 3, "strategy": 4},
    {"evaluation": 3.5},
    {"training": 3, "results": 4, "inference": 5},
    {"module": 3, "endpoint": 5},
    {"callbacks": 3, "testing": 2, "sweep": 4, "play": 5},
    {"cli": 3},
    {"__init__": 0, "__main__": 0},
)
"""The import rule: rooms import what lies on lower storeys alone, neither upwards nor next door.

Each storey has its rooms with the columns in which they are drawn; the last one is not drawn.
"""

STOREY_OF = {room: number for number, storey in enumerate(STOREYS) for room in storey}

CONTENTS = {
    "cli": "commands",
    "callbacks": "what watches a run",
    "testing": "checks for plug-ins",
    "sweep": "runs side by side",
    "module": "wires the stages",
    "training": "sample, gradient",
    "results": "lens, report, export",
    "evaluation": "benchmarks",
    "inference": "answers by request",
    "endpoint": "OpenAI API",
    "play": "a page to try vectors",
    "rollout": "completions",
    "strategy": "several processes",
    "model": "the frozen base",
    "optim": "optimizer, clip",
    "losses": "objective, KL",
    "advantages": "RLOO, GRPO, ...",
    "steering": "what is trained",
    "rewards": "verifiers, pool",
    "data": "prompts",
    "system": "files, processes, plain values",
    "types": "what stages hand on",
    "serving": "vLLM's own process",
    "errors": "ConfigError",
}
COMMON = ("types", "errors", "system")
"""Nearly every room imports these: their arrows would hide the others."""


def room_of(name: str) -> str:
    """Returns the top-level place of a dotted name without `steer_lightning.`."""
    return name.split(".")[0] or "__init__"


def dotted(file: Path) -> str:
    """Returns a file's module, without `steer_lightning.`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, for_types: bool = True) -> set[str]:
    """Returns the dotted names that a file imports.

    Args:
        file: File of the package.
        for_types: Whether imports that a type checker alone reads are among them.
    """
    tree = ast.parse(file.read_text())
    typing = [node for node in tree.body if isinstance(node, ast.If) and not for_types]
    typing = [node for node in typing if ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for block in typing for inner in ast.walk(block)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def other_rooms(file: Path) -> set[str]:
    """Returns the rooms that a file imports beside its own."""
    found = [name for name in imports(file) if name.split(".")[0] == PACKAGE.name]
    own = [name.partition(".")[2] for name in found]
    return {room_of(name) for name in own} - {room_of(dotted(file))}


Counts = dict[str, dict[str, int]]
"""How many files of a room import another room."""


def count_imports() -> Counts:
    """Counts the importing files of all rooms, over the whole package."""
    counts: Counts = {room: {} for storey in STOREYS for room in storey}
    for file in PACKAGE.rglob("*.py"):
        row = counts[room_of(dotted(file))]
        for other in other_rooms(file):
            row[other] = row.get(other, 0) + 1
    return counts


def below(room: str, counts: Counts) -> set[str]:
    """Returns all rooms that a room reaches by imports, in any number of steps."""
    # an import upwards, which the rule forbids, might lead in a circle
    others = [other for other in counts[room] if STOREY_OF[other] < STOREY_OF[room]]
    return set(counts[room]).union(*(below(other, counts) for other in others))


def arrows(counts: Counts) -> list[tuple[str, str]]:
    """Chooses the arrows that are drawn: none that a way over other rooms stands for."""
    found = []
    for room in CONTENTS:
        others = [other for other in CONTENTS if other in counts[room] and other not in COMMON]
        further = set().union(*(below(other, counts) for other in others))
        found += [(room, other) for other in others if other not in further]
    return found


# ---- the drawing: x to the right, y downwards, in pixels

COLUMN, PITCH, MARGIN = 140, 80, 24
WIDTH, HEIGHT = 128, 44  # of a box
INK, PALE, LINE = "#1f2328", "#59636e", "#8c959f"
FILLS = ("#f6f8fa", "#f6f8fa", "#ddf4ff", "#fff8c5", "#dafbe1", "#fbefff", "#ffeff7", "#fff1e5")
TOP = len(STOREYS) - 2
CELL, CELL_HEIGHT, LABELS = 44, 24, 110  # of the table
TABLE = MARGIN + (TOP + 1) * PITCH + 110
PAGE_WIDTH = 2 * MARGIN + 6 * COLUMN + WIDTH
CAPTION = (
    "An arrow points to what is imported, with the",
    "number of importing files. Arrows to system,",
    "types and errors are left out, and arrows for",
    "which a way over other rooms stands; the",
    "table below has their numbers, too.",
)


def place(room: str) -> tuple[float, float]:
    """Returns the middle of a box."""
    storey = STOREY_OF[room]
    x = MARGIN + WIDTH / 2 + STOREYS[storey][room] * COLUMN
    return x, MARGIN + HEIGHT / 2 + (TOP - storey) * PITCH


def text(x: float, y: float, words: object, **style: object) -> str:
    """Returns a line of text, by default in the middle of x."""
    style = {"text-anchor": "middle", "font-size": 12, "fill": INK} | {
        key.replace("_", "-"): value for key, value in style.items()
    }
    marks = " ".join(f'{key}="{value}"' for key, value in style.items())
    return f'<text x="{x:g}" y="{y:g}" {marks}>{escape(str(words))}</text>'


def box(room: str, counts: Counts) -> list[str]:
    """Returns a room."""
    x, y = place(room)
    width, words = float(WIDTH), CONTENTS[room]
    if room in COMMON:
        width = PAGE_WIDTH - 2 * MARGIN if room == "system" else 3.5 * COLUMN - 12
        importing = sum(room in row for row in counts.values())
        words += f"; imported by {importing} rooms"
    fill = FILLS[min(STOREY_OF[room], len(FILLS) - 1)]
    return [
        f'<rect x="{x - width / 2:g}" y="{y - HEIGHT / 2:g}" width="{width:g}" '
        f'height="{HEIGHT}" rx="6" fill="{fill}" stroke="{LINE}"/>',
        text(x, y - 3, room, font_size=14, font_weight=600),
        text(x, y + 14, words, fill=PALE),
    ]


def is_free(x: float, upper: int, lower: int) -> bool:
    """Tells whether a line at x passes by all boxes between two storeys."""
    between = [room for room in CONTENTS if lower < STOREY_OF[room] < upper]
    return all(abs(place(room)[0] - x) > WIDTH / 2 for room in between)


def port(room: str, other: str, rooms: Iterable[str]) -> float:
    """Returns where an arrow between two rooms meets the first: ends lie beside each other."""
    order = sorted(rooms, key=lambda name: (place(name)[0], -STOREY_OF[name]))
    step = min(26, (WIDTH - 30) / max(1, len(order) - 1))
    return place(room)[0] + (order.index(other) - (len(order) - 1) / 2) * step


def arrow(room: str, other: str, drawn: list[tuple[str, str]], number: int) -> list[str]:
    """Returns an arrow that leaves its column where the way is free, and its number."""
    x = port(room, other, [lower for above, lower in drawn if above == room])
    end = port(other, room, [above for above, lower in drawn if lower == other])
    if abs(end - place(room)[0]) < WIDTH / 2 - 12:
        x = end  # straight down
    y, foot = place(room)[1] + HEIGHT / 2, place(other)[1] - HEIGHT / 2 - 5
    gap = PITCH - HEIGHT
    if is_free(end, STOREY_OF[room], STOREY_OF[other]):
        path = (
            f"M{x:g} {y:g}C{x:g} {y + 18:g} {end:g} {y + 4:g} {end:g} {y + gap - 5:g}"
            f"L{end:g} {foot:g}"
        )
    else:
        last = foot - gap + 5
        path = f"M{x:g} {y:g}L{x:g} {last:g}C{x:g} {foot:g} {end:g} {last:g} {end:g} {foot:g}"
    return [
        f'<path d="{path}" fill="none" stroke="{INK}" marker-end="url(#head)"/>',
        f'<circle cx="{end:g}" cy="{foot - 7:g}" r="8" fill="#ffffff"/>',
        text(end, foot - 3, number, fill=INK),
    ]


def table(counts: Counts) -> list[str]:
    """Returns the numbers of all imports: a line for each room, a column for each imported one."""
    rooms = [room for room in CONTENTS if room not in COMMON]
    columns = [room for room in rooms if any(room in counts[other] for other in rooms)]
    lines = [room for room in rooms if any(other in counts[room] for other in columns)]
    found, left = [], MARGIN + LABELS
    for k, room in enumerate(columns):
        x = left + (k + 0.5) * CELL
        found.append(
            text(
                x, TABLE - 8, room, text_anchor="start", transform=f"rotate(-45 {x:g} {TABLE - 8})"
            )
        )
    for n, room in enumerate(lines):
        y = TABLE + n * CELL_HEIGHT
        found.append(text(left - 8, y + 16, room, text_anchor="end"))
        for k, other in enumerate(columns):
            number = counts[room].get(other)
            fill = "#ffffff" if number is None else FILLS[min(STOREY_OF[other], len(FILLS) - 1)]
            x = left + k * CELL
            found.append(
                f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL_HEIGHT}" fill="{fill}" '
                'stroke="#d1d9e0"/>'
            )
            if number is not None:
                found.append(text(x + CELL / 2, y + 16, number))
    return found


def draw(counts: Counts) -> str:
    """Returns the picture as SVG text, the same for the same imports."""
    drawn = arrows(counts)
    num_lines = sum(any(o in CONTENTS and o not in COMMON for o in counts[r]) for r in CONTENTS)
    height = TABLE + num_lines * CELL_HEIGHT + MARGIN
    caption = TABLE - 92
    head = '<path d="M0 0L8 4L0 8z"/>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PAGE_WIDTH}" height="{height}" '
        f'viewBox="0 0 {PAGE_WIDTH} {height}" font-family="Helvetica, Arial, sans-serif">',
        "<title>The rooms of steer_lightning and their imports</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="3" refY="4" markerWidth="9" '
        f'markerHeight="9" orient="auto" fill="{INK}">{head}</marker></defs>',
        f'<rect width="{PAGE_WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
    ]
    for above, lower in drawn:
        parts += arrow(above, lower, drawn, counts[above][lower])
    for room in CONTENTS:
        parts += box(room, counts)
    for k, line in enumerate(CAPTION):
        parts.append(
            text(MARGIN + 4.4 * COLUMN, MARGIN + 14 + 18 * k, line, text_anchor="start", fill=PALE)
        )
    parts.append(
        text(
            MARGIN,
            caption,
            "Files of a room (line) that import another room (column):",
            text_anchor="start",
            font_weight=600,
        )
    )
    return "\n".join([*parts, *table(counts), "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(count_imports()))
    print(f"{PICTURE.relative_to(ROOT)} is drawn")

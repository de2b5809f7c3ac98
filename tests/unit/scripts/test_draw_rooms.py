"""The picture of the rooms shows the imports as they are."""

from __future__ import annotations

from xml.etree import ElementTree

from scripts.draw_rooms import CONTENTS, PICTURE, STOREYS, arrows, below, count_imports, draw

COUNTS = {
    **{room: {} for storey in STOREYS for room in storey},
    "model": {"steering": 2, "errors": 1},
    "rollout": {"model": 5, "steering": 1},
    "training": {"rollout": 7, "model": 12, "losses": 4},
}


def test_the_picture_is_of_these_imports() -> None:
    assert PICTURE.read_text() == draw(count_imports()), (
        "imports have changed: python scripts/draw_rooms.py renews docs/images/rooms.svg"
    )


def test_every_room_has_a_box() -> None:
    drawn = {room for storey in STOREYS[:-1] for room in storey}
    assert drawn == set(CONTENTS)
    assert set(count_imports()) == drawn | set(STOREYS[-1])


def test_longer_ways_stand_for_arrows() -> None:
    assert below("training", COUNTS) == {"rollout", "model", "losses", "steering", "errors"}
    assert sorted(arrows(COUNTS)) == [
        ("model", "steering"),
        ("rollout", "model"),
        ("training", "losses"),
        ("training", "rollout"),
    ]


def test_numbers_are_written() -> None:
    tree = ElementTree.fromstring(draw(COUNTS))
    words = [node.text or "" for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    # seven files of training import rollout: once at the arrow, once in the table
    assert words.count("7") == 2
    assert words.count("12") == 1  # no arrow from training to model
    assert sum("imported by 1 rooms" in line for line in words) == 1  # errors
